// Package thread runs functions on threads of their own, for system calls that
// change the thread: its namespaces, its working directory, its user.
//
// It is not for what need not be alone: the thread is thrown away.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Alone runs f on a thread of its own, which ends with it, and so does whatever
// f did to it.
func Alone(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and would keep the namespace. While
			// it is locked here, the next goroutine gets another.
			defer runtime.UnlockOSThread()
			done <- Alone(f)
			return
		}
		done <- f() // and never unlocked
	}()
	return <-done
}
