// Package nsexec is os/exec for other processes' namespaces.
package nsexec

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Cmd is a command to be run inside the namespaces of another process. It
// reads like os/exec's Cmd; its zero value inherits nothing.
type Cmd struct {
	// Path of the program inside the container. A bare name is looked for in
	// /dev/crashcart/bin and /dev/crashcart/sbin.
	Path string
	Args []string // argv, including argv[0]
	Env  []string // the whole environment; nil is an empty one
	Dir  string   // working directory; "" is the container's root

	// Standard streams; nil is /dev/null. They stay the caller's to close,
	// as soon as Start has returned. With a TTY all three are the TTY.
	Stdin, Stdout, Stderr *os.File
	TTY                   *TTY // controlling terminal of the session, or nil

	ID      string   // the session's name: names its cgroup, seen in ps
	Target  *os.File // pidfd of a process in the container
	Tools   *os.File // detached mount, seen at /dev/crashcart; stays the caller's to close
	Profile Profile

	// Ready, if it is not nil, is called when all is prepared and nothing runs
	// yet. Its error ends Start, and is Start's.
	Ready func() error

	s    *session
	seen *seen
}

// JoinError says which step of the way into the container failed.
type JoinError struct {
	Step string // as in the plan: "setns user"
	Err  error
}

func (e *JoinError) Error() string { return "nsexec: " + e.Step + ": " + e.Err.Error() }
func (e *JoinError) Unwrap() error { return e.Err }

// Status is how a command ended.
type Status struct {
	Code   int         // exit status; 128+n where signal n ended it
	Signal unix.Signal // the signal that ended it, or 0
	Core   bool        // it dumped core
	Memory bool        // it was killed, and the session had come to its limit of memory
}

// ErrLost is Wait's answer when the session was torn down from outside.
var ErrLost = errors.New("nsexec: the session is gone")

// Start runs the command. Nil means that it is running: its execve(2) has
// happened. A *JoinError says which step failed; where that was "execve", the
// error is ENOENT (127, for a shell) or EACCES, ENOEXEC … (126).
func (c *Cmd) Start() error { return c.start() }

// Wait waits for the command itself, not for what it left behind. It holds no
// OS thread. The error is ErrLost if the session was torn down from outside
// (its container was stopped, say) and nobody knows how the command ended.
func (c *Cmd) Wait() (Status, error) {
	if c.s == nil {
		return Status{}, errors.New("nsexec: not started")
	}
	return c.s.wait()
}

// Signal sends sig to the command's process group. It does nothing once the
// command has ended.
func (c *Cmd) Signal(sig unix.Signal) error {
	if c.s == nil {
		return errors.New("nsexec: not started")
	}
	if sig <= 0 || sig > 64 {
		return fmt.Errorf("nsexec: no signal %d", sig)
	}
	return c.s.signal(sig)
}

// End kills everything that is left of the session, and waits until it is gone
// (3 s at most). After Wait, or instead of it: what a command leaves behind is
// killed when it ends. It may be called at any time, from any goroutine, more
// than once.
func (c *Cmd) End() {
	if c.s != nil {
		c.s.ended.Do(c.s.end)
	}
}

// Close is End, and takes the session's cgroup away.
func (c *Cmd) Close() error {
	c.forget()
	if c.s == nil {
		return nil
	}
	c.End()
	c.s.closed.Do(func() { c.s.result = c.s.cgroup.close() })
	return c.s.result
}
