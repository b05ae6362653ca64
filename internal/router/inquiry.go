package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// An inquiry is the questions to the runtimes that one login leads to. Who has
// kept it waiting once is not asked again.
type inquiry struct {
	*Table
	hung   map[string]error
	failed map[string]error // what each has answered last
}

func newInquiry(t *Table) *inquiry {
	return &inquiry{t, map[string]error{}, map[string]error{}}
}

// A question is one to a runtime. The answer is enough if there is no need to
// wait long for what the others say.
type question struct {
	ask    func(context.Context, Runtime) ([]Found, error)
	enough func(Match) bool
	within time.Duration // zero: as long as the Table has it
}

// byID asks for what id may mean.
func byID(id string) question {
	return question{
		ask:    func(ctx context.Context, r Runtime) ([]Found, error) { return r.Find(ctx, id) },
		enough: func(m Match) bool { return m.PID != 0 && m.grade(id) >= byPrefix && !m.madeByAnother() },
	}
}

// madeByAnother tells whether another runtime is the one to ask about it.
func (m Match) madeByAnother() bool { return m.of != "" && m.of != m.Runtime }

// everything asks for all that runs.
var everything = question{
	ask:    func(ctx context.Context, r Runtime) ([]Found, error) { return r.List(ctx) },
	enough: func(Match) bool { return false },
}

// grace is what the slow are given once another has found what was meant: one
// hung engine is not to hold up every other one's containers.
const grace = 500 * time.Millisecond

// ask asks runtimes at the same time. The matches are in their order.
func (q *inquiry) ask(ctx context.Context, runtimes []Runtime, what question) (matches []Match, failures []error) {
	if len(runtimes) == 0 {
		return nil, nil
	}
	answers := q.collect(ctx, runtimes, what)
	for i, r := range runtimes {
		q.failed[r.Name()] = answers[i].err
		if err := answers[i].err; err != nil {
			failures = append(failures, &Failure{r.Name(), err})
		}
		for _, f := range answers[i].found {
			matches = append(matches, Match{r.Name(), f})
		}
	}
	return matches, failures
}

// Failure is why a runtime could not be asked.
type Failure struct {
	Runtime string
	Err     error
}

func (f *Failure) Error() string { return f.Runtime + ": " + f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// collect returns one answer for each of the runtimes.
func (q *inquiry) collect(ctx context.Context, runtimes []Runtime, what question) []answer {
	patience := cmp.Or(what.within, q.Timeout, 3*time.Second)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var enough sync.Once
	answers := make([]answer, len(runtimes))
	ask := func(i int) {
		answers[i] = q.askOne(ctx, runtimes[i], what)
		if len(runtimes) > 1 && what.suffices(runtimes[i], answers[i].found) {
			enough.Do(func() { time.AfterFunc(grace, cancel) }) // which then may have nothing left to do
		}
	}
	var all sync.WaitGroup
	for i := range runtimes[1:] {
		all.Go(func() { ask(i + 1) })
	}
	ask(0) // here, which spares the first a change of threads
	all.Wait()
	for i, r := range runtimes {
		if answers[i].late {
			q.hung[r.Name()] = answers[i].err
		}
	}
	return answers
}

// askOne asks a runtime. It is late if it had to be given up on, or took its
// time to fail.
func (q *inquiry) askOne(ctx context.Context, r Runtime, what question) answer {
	if err := q.hung[r.Name()]; err != nil {
		return answer{err: err}
	}
	began := time.Now()
	found, err := guarded(func() ([]Found, error) { return what.ask(ctx, r) })
	after := time.Since(began)
	if err != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		err = fmt.Errorf("no answer within %v: %w", after.Round(time.Millisecond), err)
	}
	return answer{found, err, err != nil && (ctx.Err() != nil || after > grace)}
}

func (w question) suffices(r Runtime, found []Found) bool {
	return slices.ContainsFunc(found, func(f Found) bool { return w.enough(Match{r.Name(), f}) })
}
