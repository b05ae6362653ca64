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
	Namespace, Pod    string // of Kubernetes
	Labels            map[string]string
	Host              bool // it is a process that sees the host's own files
	Facts             Facts
	Source            string // where the runtime's answer is from: the path of a file, or of a socket
	PID               int
	Started           uint64 // start time of PID, in clock ticks since boot: field 22 of proc_pid_stat(5)
	Namespaces        Namespaces
	Process           *os.File // pidfd of PID: a recycled PID cannot be entered. In Go's poller: never call its Fd method
	Warnings          []error  // runtimes that could not be asked, and might know another of that name
}

// Wait returns nil when the container's init has ended, and an error when the
// target was closed before that. It holds no OS thread.
func (t *Target) Wait() error { return waitProcess(t.Process) }

// Close lets the container go.
func (t *Target) Close() error { return t.Process.Close() }

// Namespaces are the inode numbers of a process's namespaces: of
// /proc/PID/ns/mnt, and so on.
type Namespaces struct {
	Mnt    uint64 `json:"mnt"`
	PID    uint64 `json:"pid"`
	Net    uint64 `json:"net"`
	IPC    uint64 `json:"ipc"`
	UTS    uint64 `json:"uts"`
	User   uint64 `json:"user"`
	Cgroup uint64 `json:"cgroup"`
}

func namespacesOf(pid int) (n Namespaces, err error) {
	for kind, inode := range map[string]*uint64{
		"mnt": &n.Mnt, "pid": &n.PID, "net": &n.Net, "ipc": &n.IPC, "uts": &n.UTS, "user": &n.User, "cgroup": &n.Cgroup,
	} {
		if *inode, err = namespaceInode(pid, kind); err != nil {
			return n, err
		}
	}
	return n, nil
}

// pin holds the process of a match, then has the kernel confirm that it is
// what the runtime takes it for. If a runtime knows a process by a better name
// than its number, it is that container which is pinned.
func (q *inquiry) pin(ctx context.Context, m Match) (*Target, error) {
	target, err := q.hold(m)
	if err != nil {
		return nil, err
	}
	if m.Runtime == pidRuntime {
		inside := target
		if m, target, err = q.pinOwner(ctx, m, inside); target != inside {
			inside.Close() // held until its container is: the kin cannot all go
		}
		if err != nil {
			return nil, err
		}
	}
	if paused(m.PID) {
		target.Close()
		m.Closed = "is paused"
		return nil, &ClosedError{m}
	}
	return target, nil
}

// pinOwner pins the container that a process is in, which is held as inside: it
// may be that itself.
func (q *inquiry) pinOwner(ctx context.Context, m Match, inside *Target) (Match, *Target, error) {
	owner, err := q.owner(ctx, m)
	if err == nil && ended(inside.Process) {
		err = endedError(m) // and whose cgroup and namespaces we saw, nobody knows
	}
	if err == nil && owner.Closed != "" {
		err = &ClosedError{owner}
	}
	if err != nil {
		return m, nil, err
	}
	if owner.Runtime == m.Runtime && owner.PID == m.PID {
		return owner, inside, nil
	}
	target, err := q.hold(owner)
	return owner, target, err
}

// hold opens the process of a match and has the kernel confirm what it is.
func (q *inquiry) hold(m Match) (*Target, error) {
	process, err := openProcess(m)
	if err != nil {
		return nil, err
	}
	target, err := q.verify(m, process)
	if err != nil {
		process.Close()
		return nil, err
	}
	return target, nil
}

// verify confirms m, of which process is the pidfd. What /proc says of a PID
// is true of the process held only if that lives on after it was read.
func (q *inquiry) verify(m Match, process *os.File) (*Target, error) {
	stat, err := readStat(m.PID)
	if err == nil {
		err = q.confirm(m, stat)
	}
	var namespaces Namespaces
	if err == nil {
		namespaces, err = namespacesOf(m.PID)
	}
	var facts Facts
	if err == nil {
		facts, err = factsOf(m.PID)
	}
	if ended(process) {
		return nil, endedError(m)
	}
	if err != nil {
		return nil, fmt.Errorf("router: %s: %w", m, err)
	}
	return &Target{
		Runtime: m.Runtime, ID: m.ID, Name: m.Name, Image: m.Image, Digest: m.Digest,
		Namespace: m.Namespace, Pod: m.Pod, Labels: m.Labels, Host: m.Host, Facts: facts, Source: m.Source,
		PID: m.PID, Started: stat.started, Namespaces: namespaces, Process: process,
	}, nil
}

// confirm asks the kernel whether m's PID is m's. Whatever a runtime says, a
// process that sees the host's files is no container.
func (q *inquiry) confirm(m Match, s stat) error {
	if m.Start != 0 && m.Start != s.started {
		return fmt.Errorf("process %d is another by now", m.PID)
	}
	if err := q.named(m.Runtime)[0].Verify(m.Found); err != nil || m.Runtime == pidRuntime {
		return err
	}
	host, err := onHost(m.PID)
	if err == nil && host && !q.hostToo {
		err = errors.New("sees the host's files, and is no container")
	}
	return err
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
