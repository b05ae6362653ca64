package nsexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A tree is the cgroup of all our sessions, and the guard, a process of the
// helper's that stays as long as we do.
//
// Every session begins as a fork of the guard: it has no memory of ours, and
// takes a tenth of a millisecond where our own fork and the exec of a helper
// took half of one. And when we are gone, even by kill -9, the guard takes the
// cgroups away.
type tree struct {
	top, path string
	dir       *os.File
	limits    map[string]*limitTree // by their controllers

	mu     sync.Mutex
	socket *os.File // to the guard
}

var ourTree = sync.OnceValues(func() (*tree, error) {
	top, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(top, "cartsshd-")
	if err != nil {
		return nil, fmt.Errorf("nsexec: make a cgroup: %w", err)
	}
	t := &tree{top: top, path: path}
	t.dir, err = os.Open(path)
	if err == nil {
		t.limits, err = newLimitTrees(filepath.Base(path))
	}
	if err == nil {
		err = t.startGuard()
	}
	if err != nil {
		for _, l := range t.limits {
			_ = os.Remove(l.dir.Name())
		}
		return nil, errors.Join(err, os.Remove(path))
	}
	return t, nil
})

// fork has the guard start a session's first process, with these descriptors.
// A guard that somebody has killed is replaced.
func (t *tree) fork(name string, files []*os.File) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := sendFiles(t.socket, name, files)
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	t.socket.Close()
	if err := t.startGuard(); err != nil {
		return err
	}
	return sendFiles(t.socket, name, files)
}

// sendFiles sends one message, of a name and of descriptors (unix(7)).
func sendFiles(socket *os.File, name string, files []*os.File) error {
	conn, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, rawFD(f))
	}
	rights := unix.UnixRights(fds...)
	failed := conn.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(name), rights, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	runtime.KeepAlive(files)
	return errors.Join(failed, err)
}

// nameLength is of what ps shows of a guard or a session, with the NUL at its
// end: NAME in helper.c.
const nameLength = 64

// startGuard starts the guard, and has it run its plan.
func (t *tree) startGuard() error {
	parent, err := openPath(t.top)
	if err != nil {
		return err
	}
	defer parent.Close()
	kill, err := openKill(rawFD(t.dir))
	if err != nil {
		return err
	}
	defer kill.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()

	// Messages, with their ends: each is a session.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("nsexec: socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "guard's end")
	defer theirs.Close()
	_ = unix.SetNonblock(pair[0], true)
	t.socket = os.NewFile(uintptr(pair[0]), "guard")

	files := []*os.File{null, null, null, theirs, kill, t.dir, parent}
	for _, l := range t.limits {
		files = append(files, l.dir, l.parent)
	}
	blob, err := guardPlan(filepath.Base(t.path), 1+len(t.limits)).encode()
	if err != nil {
		return err
	}
	pid, err := runHelper(files)
	if err != nil {
		return err
	}
	go func() { reapChild(pid) }() // while we live: it ends after us
	_, err = t.socket.Write(blob)
	return err
}

// The guard's descriptors, by number, after its streams and its socket: from
// guardTrees on two for each of our trees, ours and the directory that it is in.
const (
	guardKill = fdSocket + 1 + iota
	guardTrees
)

func guardPlan(name string, trees int) *plan {
	p := &plan{}
	// The daemon may have been started with descriptors that outlive execve.
	p.closeFrom(uint64(guardTrees + 2*trees))
	p.call("name the guard", "prctl", num("PR_SET_NAME", unix.PR_SET_NAME), str("cartsshd-guard"))
	p.call("hide from tracers", "prctl", num("PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE), lit(0))
	p.call("leave the daemon's terminal", "setsid")
	// Whoever started the daemon may have been in any. In a user namespace that
	// denies setgroups(2), a session could not leave them.
	p.call("leave the daemon's groups", "setgroups", lit(0), null)
	p.blockSignals()
	p.call("have children reaped", "rt_sigaction", num("SIGCHLD", uint64(unix.SIGCHLD)), raw("SIG_IGN", 1, 0, 0, 0), null, lit(8))
	p.call("guard", "guard", num("kill", guardKill), num("trees", guardTrees), lit(uint64(trees)), str(name))
	return p
}

// runHelper starts the helper with these descriptors.
func runHelper(files []*os.File) (pid int, err error) {
	exe, err := sealedHelper()
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Env: []string{}}
	for _, f := range files {
		attr.Files = append(attr.Files, uintptr(rawFD(f)))
	}
	// By our own number: in the child /proc/self would be the child, whose
	// descriptors are being moved about.
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), rawFD(exe))
	// With room for the longest of names.
	name := fmt.Sprintf("%-*s", nameLength-1, "cartsshd: guard")
	pid, err = syscall.ForkExec(path, []string{name}, attr)
	runtime.KeepAlive(files)
	runtime.KeepAlive(exe)
	if err != nil {
		return 0, &JoinError{Step: "run helper", Err: err}
	}
	return pid, nil
}

// reapChild waits for a child of ours to end.
func reapChild(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
