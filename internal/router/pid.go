package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const pidRuntime = "pid"

// PID is the processes of the host, as containers: what no runtime knows of
// can be entered by the number of a process in it. The host's own processes
// are in none, and are found with a mark on them.
type PID struct{}

// Name is that of the runtime in a login.
func (PID) Name() string { return pidRuntime }

// Find looks at a process, if id is the number of one.
func (PID) Find(_ context.Context, id string) ([]Found, error) {
	pid := parsePID(id)
	if pid == 0 {
		return nil, nil
	}
	closed, host, err := lookAt(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []Found{{ID: id, PID: pid, Closed: closed, Host: host, Source: "/proc/" + id}}, nil
}

// List lists none: a process is entered by who knows its number.
func (PID) List(context.Context) ([]Found, error) { return nil, nil }

// Verify looks at the process once more, now that it is held.
func (PID) Verify(f Found) error {
	closed, host, err := lookAt(f.PID)
	switch {
	case err != nil:
		return err
	case closed != "":
		return errors.New(closed)
	case host != f.Host:
		return errors.New("has changed sides between the host and a container")
	}
	return nil
}

// lookAt tells why a process cannot be entered, "" if it can; and whether it
// sees the host's files.
func lookAt(pid int) (closed string, host bool, err error) {
	if pid == os.Getpid() {
		return "is this server itself", false, nil
	}
	leader, err := statusField(pid, "Tgid")
	if err != nil {
		return "", false, err
	}
	if leader != strconv.Itoa(pid) {
		return "is only a thread of process " + leader, false, nil
	}
	stat, err := readStat(pid)
	switch {
	case err != nil:
		return "", false, err
	case stat.kernel:
		return "is the kernel's", false, nil
	case stat.state == 'Z' || stat.state == 'X':
		return "has ended", false, nil
	}
	host, err = onHost(pid)
	return "", host, err
}

// onHost tells whether a process sees the host's files: in the mount namespace
// of the host or of this server, or with the host's root directory in one of
// its own, as many services have.
func onHost(pid int) (bool, error) {
	if pid == 1 {
		return true, nil
	}
	theirs, err := viewOf(pid)
	if err != nil {
		return false, err
	}
	hosts, err := hostViews()
	if err != nil {
		return false, err
	}
	for _, host := range hosts {
		if theirs.mounts == host.mounts || theirs.root == host.root {
			return true, nil
		}
	}
	return false, nil
}

// hostViews returns what this server sees, and what the host's init does. An
// init that holds a capability which we lack may not be looked at; the kernel's
// first thread then stands for it, as both begin in one mount namespace.
func hostViews() ([]view, error) {
	self, err := viewOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	init, err := viewOf(1)
	if stat, _ := readStat(2); errors.Is(err, os.ErrPermission) && stat.kernel {
		init, err = viewOf(2)
	}
	return []view{self, init}, err
}

// view is what a process sees of files: its mount namespace, and the device
// and inode of its root directory.
type view struct {
	mounts string
	root   [3]uint64
}

func viewOf(pid int) (view, error) {
	mounts, err := namespace(pid, "mnt")
	if err != nil {
		return view{}, err
	}
	root, err := rootOf(fmt.Sprintf("/proc/%d/root", pid))
	return view{mounts, root}, err
}

// rootOf returns the device and inode of a directory.
func rootOf(path string) ([3]uint64, error) {
	var st unix.Statx_t
	// Without DONT_SYNC a container whose root is a FUSE of its own could
	// keep us waiting for ever.
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return [3]uint64{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}, nil
}
