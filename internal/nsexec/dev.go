package nsexec

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The session's own /dev: the devices that every program expects, whatever
// the container has or has made of its own. It is read-only.
var (
	devNodes = []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	}
	devLinks = map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
		"ptmx": "pts/ptmx",
		"sh":   "crashcart/bin/sh", // as short as /bin/sh, in whose place the tools have it
	}
	devDirs = []string{"crashcart", "pts", "shm", "mqueue"}
)

// newDev returns a /dev for one session, as a detached mount: a clone of the one
// that is made at first. Kernels before 6.15 cannot clone what was never
// attached; there each session has one made for it.
func newDev() (*os.File, error) {
	first, err := firstDev()
	if err != nil {
		return nil, err
	}
	fd, err := unix.OpenTree(rawFD(first), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err == unix.EINVAL {
		return makeDev()
	}
	if err != nil {
		return nil, &JoinError{Step: "clone /dev", Err: err}
	}
	return os.NewFile(uintptr(fd), "dev"), nil
}

var firstDev = sync.OnceValues(makeDev)

func makeDev() (*os.File, error) {
	dev, err := newMount("tmpfs", map[string]string{"size": "64k", "mode": "0755"})
	if err != nil {
		return nil, err
	}
	if err := fillDev(rawFD(dev)); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

func fillDev(dev int) error {
	for _, n := range devNodes {
		if err := unix.Mknodat(dev, n.name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return &JoinError{Step: "mknod " + n.name, Err: err}
		}
		// mknod(2) heeds the umask of the daemon.
		if err := unix.Fchmodat(dev, n.name, 0o666, 0); err != nil {
			return &JoinError{Step: "chmod " + n.name, Err: err}
		}
	}
	for name, to := range devLinks {
		if err := unix.Symlinkat(to, dev, name); err != nil {
			return &JoinError{Step: "symlink " + name, Err: err}
		}
	}
	for _, name := range devDirs {
		if err := unix.Mkdirat(dev, name, 0o755); err != nil {
			return &JoinError{Step: "mkdir " + name, Err: err}
		}
		if err := unix.Fchmodat(dev, name, 0o755, 0); err != nil {
			return &JoinError{Step: "chmod " + name, Err: err}
		}
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(dev, "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
		return &JoinError{Step: "make /dev read-only", Err: err}
	}
	return nil
}

// newPts makes a devpts instance, as a detached mount.
func newPts() (*os.File, error) {
	return newMount("devpts", map[string]string{"mode": "0620", "ptmxmode": "0666"})
}

// newMount makes a file system that is mounted nowhere (fsopen(2), Linux 5.2).
func newMount(kind string, options map[string]string) (*os.File, error) {
	fsfd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, &JoinError{Step: "fsopen " + kind, Err: err}
	}
	defer unix.Close(fsfd)
	for key, value := range options {
		if err := unix.FsconfigSetString(fsfd, key, value); err != nil {
			return nil, &JoinError{Step: fmt.Sprintf("fsconfig %s %s=%s", kind, key, value), Err: err}
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, &JoinError{Step: "create " + kind, Err: err}
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, &JoinError{Step: "fsmount " + kind, Err: err}
	}
	return os.NewFile(uintptr(fd), kind), nil
}
