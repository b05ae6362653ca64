package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
		enough: func(m Match) bool { return m.PID != 0 && m.grade(id) >= byPrefix },
	}
}

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
	defer cancel() // which ends those that are not waited for
	type reply struct {
		from int
		answer
	}
	began := time.Now()
	replies := make(chan reply, len(runtimes))
	answers := make([]answer, len(runtimes))
	open := map[int]bool{}
	for i, r := range runtimes {
		if answers[i].err = q.hung[r.Name()]; answers[i].err != nil {
			continue
		}
		open[i] = true
		go func() {
			found, err := guarded(func() ([]Found, error) { return what.ask(ctx, r) })
			replies <- reply{i, answer{found, err}}
		}()
	}
	var impatient <-chan time.Time
	for len(open) > 0 {
		select {
		case r := <-replies:
			delete(open, r.from)
			answers[r.from] = q.noted(runtimes[r.from], r.answer, patience, time.Since(began))
			if impatient == nil && what.suffices(runtimes[r.from], r.found) {
				impatient = time.After(grace)
			}
		case <-impatient:
			for i := range open {
				answers[i].err = q.hangs(runtimes[i], grace, context.DeadlineExceeded)
			}
			return answers
		}
	}
	return answers
}

func (w question) suffices(r Runtime, found []Found) bool {
	return slices.ContainsFunc(found, func(f Found) bool { return w.enough(Match{r.Name(), f}) })
}

// noted remembers who has kept us waiting, and for nothing.
func (q *inquiry) noted(r Runtime, a answer, patience, after time.Duration) answer {
	switch {
	case errors.Is(a.err, context.DeadlineExceeded):
		a.err = q.hangs(r, patience, a.err)
	case a.err != nil && after > grace:
		q.hung[r.Name()] = a.err
	}
	return a
}

func (q *inquiry) hangs(r Runtime, after time.Duration, err error) error {
	q.hung[r.Name()] = fmt.Errorf("no answer within %v: %w", after, err)
	return q.hung[r.Name()]
}
