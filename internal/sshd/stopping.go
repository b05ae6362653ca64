package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/cartsshd/cartsshd/internal/router"
)

// stopping returns a channel that is closed when the container's first process
// has ended.
func stopping(target *router.Target) <-chan struct{} {
	stopped := make(chan struct{})
	go func() { // until it has ended, or the target is closed
		if target.Wait() == nil {
			close(stopped)
		}
	}()
	return stopped
}

// isStopping tells a container that stops from a command that was killed. The
// kernel kills what is in a container before its first process has quite ended,
// but after that has given up its memory, and its exe with it.
func isStopping(target *router.Target, stopped <-chan struct{}) bool {
	select {
	case <-stopped:
		return true
	default:
	}
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", target.PID))
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	select {
	case <-stopped:
	case <-time.After(patience): // it is dying all the same
	}
	return true
}
