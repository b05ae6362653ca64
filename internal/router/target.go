package router

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Target is a running container, looked up, checked and pinned. The caller
// closes it.
type Target struct {
	Runtime, ID, Name string
	Image, Digest     string
	Labels            map[string]string
	Source            string // where the runtime's answer is from: the path of a file, or of a socket
	PID               int
	Started           uint64   // start time of PID, in clock ticks since boot: field 22 of proc_pid_stat(5)
	Process           *os.File // pidfd of PID: a recycled PID cannot be entered. In Go's poller: never call its Fd method
	Warnings          []error  // runtimes that could not be asked, and might know another of that name
}

// Wait returns nil when the container's init has ended, and an error when the
// target was closed before that. It holds no OS thread.
func (t *Target) Wait() error { return waitProcess(t.Process) }

// Close lets the container go.
func (t *Target) Close() error { return t.Process.Close() }

// pin holds the process of a match, then has the kernel confirm that it is
// what the runtime takes it for. If another runtime knows the process by a
// better name, it is that container which is pinned.
func (t *Table) pin(ctx context.Context, m Match) (*Target, error) {
	process, started, err := t.hold(m)
	if err != nil {
		return nil, err
	}
	if m.Runtime != pidRuntime {
		return newTarget(m, process, started), nil
	}

	owner, err := t.owner(ctx, m)
	if err == nil && ended(process) {
		err = endedError(m) // and whose cgroup and namespaces we saw, nobody knows
	}
	if err != nil {
		process.Close()
		return nil, err
	}
	if owner.Runtime == m.Runtime && owner.PID == m.PID {
		return newTarget(m, process, started), nil
	}
	defer process.Close() // held until its container is: the kin cannot all go
	return t.pinOwner(owner)
}

// pinOwner is pin for a container that has been found by one of its processes.
func (t *Table) pinOwner(m Match) (*Target, error) {
	if m.Closed != "" {
		return nil, &ClosedError{m}
	}
	process, started, err := t.hold(m)
	if err != nil {
		return nil, err
	}
	return newTarget(m, process, started), nil
}

// hold opens the process of a match and has the kernel confirm what it is.
func (t *Table) hold(m Match) (process *os.File, started uint64, err error) {
	process, err = openProcess(m)
	if err != nil {
		return nil, 0, err
	}
	if started, err = t.verify(m, process); err != nil {
		process.Close()
		return nil, 0, err
	}
	return process, started, nil
}

func newTarget(m Match, process *os.File, started uint64) *Target {
	return &Target{
		Runtime: m.Runtime, ID: m.ID, Name: m.Name, Image: m.Image, Digest: m.Digest,
		Labels: m.Labels, Source: m.Source,
		PID: m.PID, Started: started, Process: process,
	}
}

// verify confirms m, of which process is the pidfd. What /proc says of a PID
// is true of the process held only if that lives on after it was read.
func (t *Table) verify(m Match, process *os.File) (started uint64, err error) {
	stat, err := readStat(m.PID)
	if err == nil {
		err = t.named(m.Runtime)[0].Verify(m.Found)
	}
	if ended(process) {
		return 0, endedError(m)
	}
	if err != nil {
		return 0, fmt.Errorf("router: %s: %w", m, err)
	}
	return stat.started, nil
}

func endedError(m Match) error {
	return fmt.Errorf("router: %s has just ended: %w", m, ErrNotFound)
}

// openProcess returns the pidfd of a match, in Go's poller.
func openProcess(m Match) (*os.File, error) {
	fd, err := unix.PidfdOpen(m.PID, unix.PIDFD_NONBLOCK) // close-on-exec it is always
	if errors.Is(err, unix.ESRCH) {
		return nil, endedError(m)
	}
	if err != nil {
		return nil, fmt.Errorf("router: %s: process %d: %w", m, m.PID, os.NewSyscallError("pidfd_open", err))
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", m.PID)), nil
}

// ended tells whether a process is no more, or a zombie: signal 0 would still
// reach one.
func ended(process *os.File) bool {
	conn, err := process.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	conn.Control(func(fd uintptr) { gone = readable(fd) })
	return gone
}

func waitProcess(process *os.File) error {
	conn, err := process.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(readable)
}

func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}
