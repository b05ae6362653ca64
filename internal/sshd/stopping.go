package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

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
// kernel kills what is in a container before its first process has quite ended
// (that waits until the last of them is gone, our session included), but after
// it has given up its memory, and its exe with it.
func isStopping(target *router.Target, stopped <-chan struct{}) bool {
	select {
	case <-stopped:
		return true
	default:
	}
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", target.PID))
	return errors.Is(err, fs.ErrNotExist)
}
