package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Table is the runtimes of a host.
type Table struct {
	// Runtimes in the order of precedence: where two know one and the same
	// container, by its ID, it is the first one's.
	Runtimes []Runtime

	// Timeout of one question to one runtime; 3 s if zero.
	Timeout time.Duration
}

// Resolve finds the one container that ref means, and pins it. The error is
// an ErrNotFound, an *AmbiguousError, a *ClosedError, or says what could not
// be found out.
//
// A runtime that fails does not hide what others know: the Target then carries
// its error as a warning.
func (t *Table) Resolve(ctx context.Context, ref Ref) (*Target, error) {
	runtimes := t.named(ref.Runtime)
	if len(runtimes) == 0 {
		return nil, fmt.Errorf("router: %s: %w: no runtime is called so", ref, ErrNotFound)
	}
	matches, failures := t.ask(ctx, runtimes, ref.ID)
	match, err := choose(ref, matches, failures)
	if err != nil {
		return nil, err
	}
	target, err := t.pin(ctx, match)
	if err != nil {
		return nil, err
	}
	target.Warnings = failures
	return target, nil
}

// named returns the runtime of that name; all of them for none.
func (t *Table) named(name string) []Runtime {
	var runtimes []Runtime
	for _, r := range t.Runtimes {
		if name == "" || r.Name() == name {
			runtimes = append(runtimes, r)
		}
	}
	return runtimes
}

// ask asks runtimes at the same time. The matches are in their order.
func (t *Table) ask(ctx context.Context, runtimes []Runtime, id string) (matches []Match, failures []error) {
	if len(runtimes) == 0 {
		return nil, nil
	}
	answers := make([][]Found, len(runtimes))
	errs := make([]error, len(runtimes))
	var all sync.WaitGroup
	for i, r := range runtimes[1:] {
		all.Go(func() { answers[i+1], errs[i+1] = t.askOne(ctx, r, id) })
	}
	answers[0], errs[0] = t.askOne(ctx, runtimes[0], id) // here, which spares the first a change of threads
	all.Wait()

	for i, r := range runtimes {
		if errs[i] != nil {
			failures = append(failures, fmt.Errorf("%s: %w", r.Name(), errs[i]))
		}
		for _, f := range answers[i] {
			matches = append(matches, Match{r.Name(), f})
		}
	}
	return matches, failures
}

func (t *Table) askOne(ctx context.Context, r Runtime, id string) (found []Found, err error) {
	timeout := t.Timeout
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// A panic in a goroutine would end every session of the daemon.
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	found, err = r.Find(ctx, id)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v: %w", timeout, err)
	}
	return found, err
}

// A grade says how well a match answers to an ID. A name does not beat a full
// ID, nor the other way round: a container that is named with another's ID is
// up to no good.
type grade int

const (
	noMatch    grade = iota
	byPID            // bare digits, and no container is called so
	byPrefix         // of the full ID
	byFullName       // the exact name, or the full ID
)

const minPrefix = 4

func (m Match) grade(id string) grade {
	switch {
	case m.Runtime == pidRuntime:
		return byPID
	case m.Name == id || m.ID == id || slices.Contains(m.Names, id):
		return byFullName
	case len(id) >= minPrefix && strings.HasPrefix(m.ID, id):
		return byPrefix
	}
	return noMatch
}

// choose returns the one match that ref means.
func choose(ref Ref, matches []Match, failures []error) (Match, error) {
	best := merge(running(bestOf(matches, ref.ID)))
	unanswered := len(failures) > 0
	switch {
	case len(best) == 0 && unanswered:
		return Match{}, fmt.Errorf("router: %s: not found, but not all could be asked: %w", ref, errors.Join(failures...))
	case len(best) == 0:
		return Match{}, fmt.Errorf("router: %s: %w", ref, ErrNotFound)
	case len(best) > 1:
		return Match{}, &AmbiguousError{ref, best}
	case best[0].Closed != "":
		return Match{}, &ClosedError{best[0]}
	case unanswered && ref.Runtime == "" && best[0].Runtime == pidRuntime:
		// Bare digits are a process only where no container is called so.
		return Match{}, fmt.Errorf("router: %s: a process, or a container of a runtime that could not be asked (pid:%s is the process): %w", ref, ref.ID, errors.Join(failures...))
	}
	return best[0], nil
}

// bestOf returns the matches of the highest grade.
func bestOf(matches []Match, id string) []Match {
	var best []Match
	highest := noMatch
	for _, m := range matches {
		g := m.grade(id)
		if g > highest {
			best, highest = nil, g
		}
		if g == highest && g != noMatch {
			best = append(best, m)
		}
	}
	return best
}

// running leaves out what has no process, unless nothing has.
func running(matches []Match) []Match {
	var live []Match
	for _, m := range matches {
		if m.PID != 0 {
			live = append(live, m)
		}
	}
	if live == nil {
		return matches
	}
	return live
}

// merge keeps the first of those that are one container.
func merge(matches []Match) []Match {
	seen := map[string]bool{}
	var distinct []Match
	for _, m := range matches {
		if !seen[m.ID] {
			seen[m.ID] = true
			distinct = append(distinct, m)
		}
	}
	return distinct
}
