package loop

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/thread"
)

// anchor is a mount namespace with nothing in it but the image, as its root.
// No process lives there: the descriptor alone keeps it. It is for kernels
// that clone only what is attached, and only from within; each clone is taken
// by a thread that goes there and does not come back.
type anchor struct{ ns *os.File }

// newAnchor moves a detached mount into a namespace of its own.
func newAnchor(mount *os.File) (*anchor, error) {
	var ns *os.File
	err := thread.Alone(func() (err error) {
		ns, err = settle(int(mount.Fd()))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("private mount namespace: %w", err)
	}
	return &anchor{ns}, nil
}

// settle gives the calling thread a namespace whose only mount is this one,
// and returns it.
func settle(mount int) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		// First of all: nothing that happens here may reach the host.
		{"make private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"move_mount", func() error { return unix.MoveMount(mount, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH) }},
		{"fchdir", func() error { return unix.Fchdir(mount) }},
		// The copies of the host's mounts go, so that none is kept busy here.
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"umount", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
	} {
		if err := step.do(); err != nil {
			ns.Close()
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return ns, nil
}

func (a *anchor) clone() (clone *os.File, err error) {
	raw, err := a.ns.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(ns uintptr) {
		err = thread.Alone(func() error {
			clone, err = cloneRoot(int(ns))
			return err
		})
	}); e != nil {
		return nil, e
	}
	return clone, err
}

// cloneRoot clones the root of a mount namespace from within.
func cloneRoot(ns int) (*os.File, error) {
	// setns refuses a thread that shares its root and directory with others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, err
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	return openTree(unix.AT_FDCWD, "/")
}
