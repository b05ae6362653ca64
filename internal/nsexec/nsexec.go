// Package nsexec is os/exec for other processes' namespaces.
package nsexec

import (
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
	Profile string   // "general" if empty
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
	Code   int         // exit status, when Signal is 0
	Signal unix.Signal // the signal that ended it, or 0
	Core   bool        // it dumped core
}

// Start runs the command. Nil means that it is running: its execve(2) has
// happened. A *JoinError says which step failed; where that was execve itself,
// the error is ENOENT (127, for a shell) or EACCES, ENOEXEC … (126).
func (c *Cmd) Start() error { panic("todo") }

// Wait waits for the command itself, not for what it left behind. It holds no
// OS thread. The error is ErrLost if the session was torn down from outside
// (its container was stopped, say) and nobody knows how the command ended.
func (c *Cmd) Wait() (Status, error) { panic("todo") }

// Signal sends sig to the command's process group.
func (c *Cmd) Signal(sig unix.Signal) error { panic("todo") }

// Close kills everything that is left of the session, waits until it is gone
// (2 s at most), and takes its cgroup away. After Wait, or instead of it. It
// may be called at any time, from any goroutine, more than once.
func (c *Cmd) Close() error { panic("todo") }

// Userns opens the user namespace of the target, or returns nil if that is our
// own.
func Userns(target *os.File) (*os.File, error) { panic("todo") }

// TTY is a terminal of the session's own, on a devpts instance that neither
// the host nor the container sees.
type TTY struct {
	Master *os.File // non-blocking, in Go's poller. Never call its Fd method.
}

// OpenTTY makes one. The caller closes it.
func OpenTTY() (*TTY, error) { panic("todo") }

// SetModes applies the encoded terminal modes of a pty-req (RFC 4254, section
// 8). Unknown opcodes are skipped.
func (t *TTY) SetModes(modes []byte) error { panic("todo") }

// Resize sets the window size: characters, then pixels.
func (t *TTY) Resize(cols, rows, width, height uint32) error { panic("todo") }

// Close hangs the terminal up.
func (t *TTY) Close() error { panic("todo") }
