package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Some runtimes have no daemon and keep no file of the processes that they
// start: lxc, nspawn, podman where the cgroup is another's. What there is of
// them is the supervisor of each container, whose child is the container's
// init, and the supervisor's command line.
//
// A command line is whatever the one who started the program wanted it to be.
// So a supervisor is believed only if nobody but root, on the host itself, can
// have started it, and its child only if root has.

// supervisorOf returns the parent of a container's init, after the kernel has
// confirmed that pid is PID 1 of a namespace of its own, and that root has
// started both.
func supervisorOf(pid int) (int, error) {
	if !isInit(pid) {
		return 0, fmt.Errorf("process %d is not the first of a PID namespace of its own", pid)
	}
	// A user may have the child first, and then become by exec a setuid program
	// with any command line; but what is theirs is in a user namespace of theirs.
	owner, err := usersOwner(pid)
	if err != nil {
		return 0, err
	}
	if owner != 0 {
		return 0, fmt.Errorf("process %d is in a user namespace of uid %d", pid, owner)
	}
	parent, err := parentOf(pid)
	if err != nil {
		return 0, err
	}
	return parent, startedByRoot(parent)
}

// startedByRoot fails unless a process is root's, outside of any PID and user
// namespace, and its program is none that others could have started as root.
func startedByRoot(pid int) error {
	uids, err := statusField(pid, "Uid")
	if err != nil {
		return err
	}
	if slices.ContainsFunc(strings.Fields(uids), func(uid string) bool { return uid != "0" }) {
		return fmt.Errorf("process %d is not root's", pid)
	}
	for _, kind := range []string{"user", "pid"} {
		theirs, err := namespace(pid, kind)
		if err != nil {
			return err
		}
		if ours, _ := namespace(os.Getpid(), kind); ours != theirs {
			return fmt.Errorf("process %d is in a %s namespace of its own", pid, kind)
		}
	}
	if program, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && program.Mode()&os.ModeSetuid != 0 {
		return fmt.Errorf("process %d runs a setuid program", pid)
	}
	return nil
}

func parentOf(pid int) (int, error) {
	stat, err := readStat(pid)
	return stat.parent, err
}

// usersOwner returns the host's uid of who has made the user namespace that a
// process is in; 0 if it is in ours. See ioctl_nsfs(2), NS_GET_OWNER_UID.
func usersOwner(pid int) (uint32, error) {
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return 0, err
	}
	defer theirs.Close()
	name, err := namespace(pid, "user")
	if err != nil {
		return 0, err
	}
	if ours, _ := namespace(os.Getpid(), "user"); ours == name {
		return 0, nil
	}
	owner, err := unix.IoctlGetUint32(int(theirs.Fd()), unix.NS_GET_OWNER_UID)
	return owner, os.NewSyscallError("NS_GET_OWNER_UID", err)
}

// cmdline returns the arguments of a process.
func cmdline(pid int) ([]string, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), nil
}

// runs tells whether a process runs the host's program of that name. In a
// container's root any program may be called so.
func runs(pid int, program string) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(strings.TrimSuffix(path, " (deleted)")) != program {
		return false
	}
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st) != nil || st.Uid != 0 {
		return false
	}
	host, err := onHost(pid)
	return err == nil && host
}

// nestedInits lists the processes that are PID 1 of a PID namespace.
func nestedInits() ([]int, error) {
	pids, err := processes()
	return slices.DeleteFunc(pids, func(pid int) bool { return !isInit(pid) }), err
}

// meantBy returns those of found that id means: by name, full ID or prefix.
func meantBy(id string, found []Found) []Found {
	return slices.DeleteFunc(found, func(f Found) bool { return Match{Found: f}.grade(id) == noMatch })
}

// living leaves out the containers that do not run.
func living(found []Found) []Found {
	return slices.DeleteFunc(found, func(f Found) bool { return f.PID == 0 })
}

// absent tells whether an error only says that something is not there: a
// runtime that is not on the host.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ECONNREFUSED)
}
