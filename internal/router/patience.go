package router

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// patience is with a disk, which may hang: it is given up on in time.
type patience struct {
	what  string        // path of what is asked
	slots chan struct{} // taken by each who waits for the disk
}

const (
	statePatience = time.Second // with the disk; also with an engine, for its data root
	stateSlots    = 64          // each may hold a thread for as long as the disk hangs
)

func newPatience(what string) patience {
	return patience{what, make(chan struct{}, stateSlots)}
}

// ask has the disk asked, and gives up on it in time.
func (p *patience) ask(ctx context.Context, ask func() ([]Found, error)) ([]Found, error) {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // who asked has left
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s: %d wait for it already", p.what, stateSlots)
	}
	answers := make(chan answer, 1)
	// Nobody waits for it when the time is over: what hangs in a read of a
	// disk cannot be called back. It keeps its slot.
	go func() {
		defer func() { <-p.slots }()
		found, err := guarded(ask)
		answers <- answer{found: found, err: err}
	}()
	select {
	case a := <-answers:
		return a.found, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: the disk does not answer", p.what)
	}
}

// answer is what is said to one question.
type answer struct {
	found []Found
	err   error
	late  bool // who answers so late is not asked a second time
}

// guarded is ask, but for a panic, which in a goroutine would end every session
// of the daemon.
func guarded(ask func() ([]Found, error)) (found []Found, err error) {
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	return ask()
}
