package nsexec

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/mountinfo"
	"github.com/cartsshd/cartsshd/internal/thread"
)

// A session has the tools in a mount namespace of its own. Attach is for those
// who must see them in the container's: docker exec, nsenter(1), the container
// itself. What is mounted there, its root can unmount if it has CAP_SYS_ADMIN,
// and can see in any case.

// Made says what had to be made in a container to have a place for the tools.
type Made struct {
	Dev bool `json:"dev,omitempty"` // /dev
	Dir bool `json:"dir,omitempty"` // /dev/crashcart
}

// Reasons for which Attach and Detach do nothing.
var (
	ErrAttached = errors.New("nsexec: the tools are there already")
	ErrDetached = errors.New("nsexec: the tools are not there")
)

// attachedFlag tells our mounts from others of the same image, such as a bind
// mount of docker's (-v): on a file system that cannot be written to it has no
// other meaning. The kernel keeps it with the mount, so no list can go stale.
const (
	attachedAttr = unix.MOUNT_ATTR_NODIRATIME
	attachedFlag = unix.ST_NODIRATIME
	mustFlags    = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | attachedFlag
)

// Attach moves a detached mount of the tools to /dev/crashcart in the mount
// namespace of the target, and so uses it up. Before anything is made there,
// making is told what: should we be killed, it is known what to take away.
//
// The error is ErrAttached if that very image is there, also by docker's -v.
func Attach(target, tools *os.File, making func(Made) error) error {
	// It is called from here: the thread in there sees the container's files
	// where the host's are.
	asked, answers, done := make(chan Made), make(chan error), make(chan error)
	go func() {
		done <- inside(target, func(s *site) error {
			return s.attach(tools, func(m Made) error { asked <- m; return <-answers })
		})
	}()
	for {
		select {
		case m := <-asked:
			answers <- making(m)
		case err := <-done:
			return err
		}
	}
}

// Detach takes away what Attach has mounted, and what it had made. Who still
// uses the tools keeps them until they end. The error is ErrDetached if they
// were not there; what was made is taken away then, too.
func Detach(target *os.File, made Made) error {
	points, err := attachedAt(target)
	if err != nil {
		return err
	}
	return inside(target, func(s *site) error { return s.detach(made, points) })
}

// site is a container, from a thread that is in its mount namespace, and acts as
// its root towards its file systems: in a user namespace nobody else may make
// files.
type site struct{ root int }

// inside runs f in the target's mount namespace, on a thread that ends with it.
func inside(target *os.File, f func(*site) error) error {
	r, root, err := look(target)
	if err != nil {
		return err
	}
	defer root.Close()
	if r.namespaces&unix.CLONE_NEWNS == 0 {
		return ErrHost
	}
	return thread.Alone(func() error { return r.inside(target, root, f) })
}

func (r room) inside(target, root *os.File, f func(*site) error) error {
	uid, err := r.uids.out(0)
	if err != nil {
		return err
	}
	gid, err := r.gids.out(0)
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns refuses a thread that shares its directory
		return &JoinError{Step: "unshare", Err: err}
	}
	if err := control(target, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNS) }); err != nil {
		return &JoinError{Step: "setns mnt", Err: err}
	}
	unix.Umask(0o022)
	// Neither tells of an error. Only rights to files are lost with them.
	_ = unix.Setfsgid(gid)
	_ = unix.Setfsuid(uid)
	return f(&site{rawFD(root)})
}

func (s *site) attach(tools *os.File, making func(Made) error) error {
	dev, made, err := s.dev(making)
	if err != nil {
		return err
	}
	defer dev.Close()
	dir, err := openPlace(rawFD(dev), "crashcart")
	if errors.Is(err, unix.ENOENT) {
		made.Dir = true
		dir, err = makeDir(dev, "crashcart", func() error { return making(made) })
	}
	if err != nil {
		return refused("/dev/crashcart", err)
	}
	defer dir.Close()
	if err := vacant(dir, tools); err != nil {
		return err
	}
	if err := s.move(tools, dir); err != nil {
		return errors.Join(err, s.takeAway(made))
	}
	// The shell of their system(3), as sessions have it (see devLinks). Where
	// it cannot be made, some of them start no other program.
	_ = writable(dev, func(dir int) error { return unix.Symlinkat(shell, dir, "sh") })
	// Not before: making it has waited for a rename(2) in /dev that was under way
	// when the mount came. Any later one finds a mount point, and is refused.
	if err := s.stays(tools); err != nil {
		return errors.Join(err, s.takeAway(made))
	}
	return nil
}

const shell = "crashcart/bin/sh"

// dev opens the container's /dev, or makes it.
func (s *site) dev(making func(Made) error) (*os.File, Made, error) {
	dev, err := openPlace(s.root, "dev")
	if !errors.Is(err, unix.ENOENT) {
		return dev, Made{}, refused("/dev", err)
	}
	root, err := openPlace(s.root, ".")
	if err != nil {
		return nil, Made{}, refused("/", err)
	}
	defer root.Close()
	made := Made{Dev: true}
	dev, err = makeDir(root, "dev", func() error { return making(made) })
	return dev, made, refused("/dev", err)
}

// refused says what is wrong with a place, and what can be done.
func refused(name string, err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case errors.Is(err, unix.ELOOP):
		hint = " (is a symlink, which the container could turn around)"
	case errors.Is(err, unix.ENOTDIR):
		hint = " (is no directory)"
	}
	return &JoinError{Step: "make a place at " + name, Err: fmt.Errorf("%w%s: `cartsshd enter` needs none", err, hint)}
}

// openPlace opens a directory of the container's as a place. No symlink leads out
// of it, and no FIFO keeps us waiting.
func openPlace(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// makeDir makes a directory and opens it.
func makeDir(parent *os.File, name string, making func() error) (*os.File, error) {
	if err := making(); err != nil {
		return nil, err
	}
	err := writable(parent, func(dir int) error { return unix.Mkdirat(dir, name, 0o755) })
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return openPlace(rawFD(parent), name)
}

// writable runs f with the directory. Where only its mount is read-only, and
// not the file system, as with docker's --read-only, it is a mount of our own
// that is written through.
func writable(dir *os.File, f func(dir int) error) error {
	err := f(rawFD(dir))
	if !errors.Is(err, unix.EROFS) {
		return err
	}
	clone, e := unix.OpenTree(rawFD(dir), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if e != nil {
		return err
	}
	defer unix.Close(clone)
	if unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}) != nil {
		return err
	}
	return f(clone)
}

// vacant fails if the tools are mounted on the directory, or something else.
func vacant(dir, tools *os.File) error {
	there, err := isMount(dir)
	if err != nil || !there {
		return err
	}
	same, err := sameDevice(dir, tools)
	switch {
	case err != nil:
		return err
	case same:
		return ErrAttached
	case isAttached(dir):
		return &JoinError{Step: "make a place at /dev/crashcart", Err: fmt.Errorf("%w: another tools image is there: `cartsshd unmount` first", unix.EBUSY)}
	}
	return &JoinError{Step: "make a place at /dev/crashcart", Err: fmt.Errorf("%w: the container has something mounted there: `cartsshd enter` does not mind", unix.EBUSY)}
}

// isMount tells whether a directory is the root of a mount.
func isMount(dir *os.File) (bool, error) {
	var st unix.Statx_t
	// Not synchronised: the container may have a FUSE there that never answers.
	err := unix.Statx(rawFD(dir), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return false, &JoinError{Step: "look at /dev/crashcart", Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func sameDevice(a, b *os.File) (bool, error) {
	var st [2]unix.Statx_t
	for i, f := range []*os.File{a, b} {
		if err := unix.Statx(rawFD(f), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st[i]); err != nil {
			return false, &JoinError{Step: "look at /dev/crashcart", Err: err}
		}
	}
	return st[0].Dev_major == st[1].Dev_major && st[0].Dev_minor == st[1].Dev_minor, nil
}

// loopMajor is the kernel's number for loop devices.
const loopMajor = 7

// isAttached tells whether a mount is of our making.
func isAttached(dir *os.File) bool {
	var st unix.Statx_t
	if unix.Statx(rawFD(dir), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st) != nil || st.Dev_major != loopMajor {
		return false // and may be one that does not answer
	}
	var fs unix.Statfs_t
	return unix.Fstatfs(rawFD(dir), &fs) == nil && fs.Flags&mustFlags == mustFlags
}

// move mounts the tools on a directory.
func (s *site) move(tools, dir *os.File) error {
	if err := unix.MountSetattr(rawFD(tools), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attachedAttr}); err != nil {
		return &JoinError{Step: "mark the mount", Err: err}
	}
	err := unix.MoveMount(rawFD(tools), "", rawFD(dir), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return &JoinError{Step: "mount /dev/crashcart", Err: err}
	}
	return nil
}

// stays takes the tools away again if the container has moved the directory
// elsewhere meanwhile: they are not where anybody looks for them.
func (s *site) stays(tools *os.File) error {
	if s.isThere(tools) {
		return nil
	}
	return errors.Join(&JoinError{Step: "mount /dev/crashcart", Err: errors.New("the container has moved it meanwhile")}, unmount(tools))
}

func (s *site) isThere(tools *os.File) bool {
	dir, err := openPlace(s.root, "dev/crashcart")
	if err != nil {
		return false
	}
	defer dir.Close()
	same, err := sameDevice(dir, tools)
	return err == nil && same && isAttached(dir)
}

// unmount takes away the very mount that a descriptor is the root of, whatever
// is at its path by now.
func unmount(mount *os.File) error {
	if err := unix.Fchdir(rawFD(mount)); err != nil {
		return &JoinError{Step: "fchdir", Err: err}
	}
	err := unix.Unmount(".", unix.MNT_DETACH)
	_ = unix.Chdir("/")
	if err != nil {
		return &JoinError{Step: "unmount /dev/crashcart", Err: err}
	}
	return nil
}

// detach finds the tools wherever the container has moved them.
func (s *site) detach(made Made, points []string) error {
	detached := false
	var errs []error
	for _, point := range points {
		err := s.detachFrom(point)
		detached = detached || err == nil
		errs = append(errs, err)
	}
	errs = append(errs, s.takeAway(made))
	if !detached {
		errs = append(errs, ErrDetached)
	}
	return errors.Join(errs...)
}

func (s *site) detachFrom(point string) error {
	dir, err := openPlace(s.root, strings.TrimPrefix(point, "/"))
	if err != nil {
		return &JoinError{Step: fmt.Sprintf("open %q", point), Err: err}
	}
	defer dir.Close()
	if !isAttached(dir) {
		return &JoinError{Step: fmt.Sprintf("unmount %q", point), Err: errors.New("the container has mounted something over it")}
	}
	return unmount(dir)
}

// attachedAt are the mount points of the tools in the target's mount namespace.
func attachedAt(target *os.File) ([]string, error) {
	pid, err := pidOf(target)
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.Of(pid)
	if err != nil {
		return nil, gone(err)
	}
	var points []string
	for _, m := range mounts {
		if Attached(m) {
			points = append(points, m.Point)
		}
	}
	slices.Reverse(points) // what is mounted last goes first
	return points, alive(target)
}

// Attached tells whether a mount is one of Attach's.
func Attached(m mountinfo.Mount) bool {
	return m.Major == loopMajor && m.Has("ro", "nosuid", "nodev", "nodiratime")
}

// takeAway removes what is ours and still as it was. What is not is the
// container's.
func (s *site) takeAway(made Made) error {
	dev, err := openPlace(s.root, "dev")
	if err != nil {
		return nil // nothing of ours is in it
	}
	defer dev.Close()
	link := make([]byte, len(shell)+1)
	if n, err := unix.Readlinkat(rawFD(dev), "sh", link); err == nil && string(link[:n]) == shell {
		_ = writable(dev, func(dir int) error { return unix.Unlinkat(dir, "sh", 0) })
	}
	if made.Dir {
		err = removeDir(dev, "crashcart")
	}
	if !made.Dev {
		return err
	}
	root, e := openPlace(s.root, ".")
	if e != nil {
		return errors.Join(err, &JoinError{Step: "open /", Err: e})
	}
	defer root.Close()
	return errors.Join(err, removeDir(root, "dev"))
}

// removeDir removes an empty directory.
func removeDir(parent *os.File, name string) error {
	err := writable(parent, func(dir int) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
	switch {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ENOTDIR):
		return nil // or it is the container's by now
	}
	return &JoinError{Step: "remove " + name, Err: err}
}
