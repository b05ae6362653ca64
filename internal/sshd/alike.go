package sshd

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/router"
)

// nothing is the one answer to who asks for what is not there, and to who asks
// for what is not theirs.
func (s *session) nothing() string {
	return audit.Printable(brief(s.login.name)) + ": no container of that name is yours to enter"
}

// beat is what the time of that answer is rounded up to. What it takes to find a
// container, to pin it and to judge is some hundredths of it.
const beat = 50 * time.Millisecond

// alike makes that answer take as long for what is there as for what is not. A
// name that is known costs a look at a file; one that is not, a question to every
// runtime, which may hang: so the question is asked for the other one as well.
func (s *session) alike(ctx context.Context, asked time.Time) {
	if s.found {
		s.lookInVain(ctx)
	}
	wait := beat - time.Since(asked)%beat
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// lookInVain asks for what nothing is called.
func (s *session) lookInVain(ctx context.Context) {
	ref, err := router.ParseRef(s.login.name)
	if err != nil {
		return
	}
	ref.ID = "nothing-" + rand.Text()
	if target, err := s.server.Targets.Resolve(ctx, ref); err == nil {
		target.Close()
	}
}

// isFound tells whether something is there of that name, be it to be entered or
// not. An error of a runtime is none of that: it has been waited for.
func isFound(err error) bool {
	_, closed := errors.AsType[*router.ClosedError](err)
	return err == nil || closed || errors.Is(err, router.ErrAmbiguous)
}
