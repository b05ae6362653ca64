// Package flock is flock(2) for processes that take turns.
package flock

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld is the error of Try where another process has the lock.
var ErrHeld = errors.New("locked by another process")

// Try takes the lock, or fails at once. It goes with the file's last descriptor.
func Try(f *os.File) error {
	err := call(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return ErrHeld
	}
	return err
}

// Within waits for the lock, and not for ever. It polls: a flock(2) that blocks
// could not be given up.
func Within(f *os.File, patience time.Duration) error {
	for end, wait := time.Now().Add(patience), time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := Try(f)
		if !errors.Is(err, ErrHeld) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w, which does not let go of it within %v", f.Name(), err, patience)
		}
		time.Sleep(wait)
	}
}

// Release gives the lock back.
func Release(f *os.File) error { return call(f, unix.LOCK_UN) }

func call(f *os.File, how int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Flock(int(fd), how) }); err != nil {
		return err
	}
	return failed
}
