package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Table is the runtimes of a host.
type Table struct {
	// Runtimes in the order of precedence: where two know one and the same
	// container, by its ID, it is the first one's.
	Runtimes []Runtime

	// Timeout of one question to one runtime; 3 s if zero.
	Timeout time.Duration

	hostToo bool // a seam for tests, whose own process stands for a container's
}

// Resolve finds the one container that ref means, and pins it. The error is
// an ErrNotFound, an *AmbiguousError, a *ClosedError, or says what could not
// be found out.
//
// A runtime that fails does not hide what others know: the Target then carries
// its error as a warning.
func (t *Table) Resolve(ctx context.Context, ref Ref) (*Target, error) {
	q := newInquiry(t)
	match, warnings, err := q.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	target, err := q.pin(ctx, match)
	if err != nil {
		return nil, err
	}
	target.Warnings = warnings
	return target, nil
}

// find returns the one container that ref means, as the first of those runtimes
// that know it has it.
func (q *inquiry) find(ctx context.Context, ref Ref) (Match, []error, error) {
	runtimes := q.named(ref.Runtime)
	if len(runtimes) == 0 {
		return Match{}, nil, fmt.Errorf("router: %s: %w: no runtime is called so", ref, ErrNotFound)
	}
	matches, failures := q.ask(ctx, runtimes, byID(ref.ID))
	match, err := choose(ref, matches, failures)
	if err != nil {
		return Match{}, nil, err
	}
	if match, err = q.canonical(ctx, match); err != nil {
		return Match{}, nil, err
	}
	if match.Closed != "" {
		return Match{}, nil, &ClosedError{match}
	}
	return match, failures, nil
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
	case best[0].Closed != "" && best[0].Runtime == pidRuntime:
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
	var distinct []Match
	for _, m := range matches {
		if !slices.ContainsFunc(distinct, m.same) {
			distinct = append(distinct, m)
		}
	}
	return distinct
}

// same tells whether two runtimes mean one container: it has one ID of 256
// random bits, or one init. Other IDs are given by people, who may give one
// twice.
func (m Match) same(other Match) bool {
	if isContainerID(m.ID) && isContainerID(other.ID) {
		return m.ID == other.ID
	}
	return m.PID == other.PID && (m.PID != 0 || m.ID == other.ID) && m.Runtime != pidRuntime && other.Runtime != pidRuntime
}
