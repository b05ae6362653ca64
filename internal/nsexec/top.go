package nsexec

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A container whose /dev is missing, or is a link, has no place to mount the
// session's own on; and nothing is to be made in it. So the session sees another
// root: a tmpfs of its own with all that is in the container's, each mounted on
// its name, and /dev besides. What is below those names is the container's as
// ever; new names at the top are not to be had.

// entry is a name in a root directory.
type entry struct {
	name string
	kind os.FileMode
	link string // where a symbolic link leads to
}

// maxTop is how many names such a root may have: each takes two steps of a plan,
// and a link none.
const maxTop = 48

const noSymlinks = unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// A look at a container's root may never come back: it may be a FUSE of its own.
// The threads that wait there cannot be called back either, so each container may
// keep few of them waiting.
const (
	lookPatience = 2 * time.Second
	lookSlots    = 4
)

var looks = struct {
	sync.Mutex
	waiting map[int]int // by the container's process
}{waiting: map[int]int{}}

// topInTime is topOf, and gives up in time.
func topInTime(pid int, root *os.File) ([]entry, error) {
	if !enterLook(pid) {
		return nil, hangs
	}
	own, err := unix.FcntlInt(uintptr(rawFD(root)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		leaveLook(pid)
		return nil, &JoinError{Step: "look at the container's root", Err: err}
	}
	type answer struct {
		top []entry
		err error
	}
	answers := make(chan answer, 1)
	go func() { // which nobody waits for when the time is over
		defer leaveLook(pid)
		dir := os.NewFile(uintptr(own), "root")
		defer dir.Close()
		top, err := topOf(dir)
		answers <- answer{top, err}
	}()
	select {
	case a := <-answers:
		return a.top, a.err
	case <-time.After(lookPatience):
		return nil, hangs
	}
}

var hangs = &JoinError{Step: "look at the container's root", Err: errors.New("its file system does not answer")}

func enterLook(pid int) bool {
	looks.Lock()
	defer looks.Unlock()
	if looks.waiting[pid] >= lookSlots {
		return false
	}
	looks.waiting[pid]++
	return true
}

func leaveLook(pid int) {
	looks.Lock()
	defer looks.Unlock()
	if looks.waiting[pid]--; looks.waiting[pid] == 0 {
		delete(looks.waiting, pid)
	}
}

// topOf returns what is in a root that has no directory /dev; nothing if it has
// one. Names and links are the container's: they are used as names and links.
func topOf(root *os.File) ([]entry, error) {
	dev, err := unix.Openat2(rawFD(root), "dev", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: noSymlinks | unix.RESOLVE_BENEATH})
	if err == nil {
		return nil, unix.Close(dev)
	}
	dir, err := openDir(rawFD(root), ".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxTop + 1)
	if err != nil && len(names) == 0 {
		return []entry{}, nil // io.EOF: it is empty
	}
	if len(names) > maxTop {
		return nil, &JoinError{Step: "open /dev", Err: fmt.Errorf("is no directory, and the root has more than %d names to be mounted beside another one", maxTop)}
	}
	top := []entry{}
	for _, name := range names {
		if name == "dev" {
			continue
		}
		e, err := entryOf(dir, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, &JoinError{Step: "look at the container's root", Err: err}
		}
		top = append(top, e)
	}
	return top, nil
}

func entryOf(dir *os.File, name string) (entry, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(rawFD(dir), name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return entry{}, err
	}
	e := entry{name: name}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.kind = os.ModeDir
	case unix.S_IFLNK:
		e.kind = os.ModeSymlink
		link := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(rawFD(dir), name, link)
		if err == unix.EINVAL {
			err = unix.ENOENT // it was a link a moment ago
		}
		if err != nil {
			return entry{}, err
		}
		e.link = string(link[:n])
	}
	return e, nil
}

// newTop makes that root, as a detached mount, with places for the names.
func newTop(top []entry) (*os.File, error) {
	mount, err := newMount("tmpfs", map[string]string{"size": "256k", "mode": "0755"})
	if err != nil {
		return nil, err
	}
	if err := fillTop(rawFD(mount), top); err != nil {
		mount.Close()
		return nil, err
	}
	return mount, nil
}

func fillTop(fd int, top []entry) error {
	for _, e := range append(top, entry{name: "dev", kind: os.ModeDir}) {
		if err := e.make(fd); err != nil {
			return &JoinError{Step: "make a root", Err: err}
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &JoinError{Step: "make a root read-only", Err: err}
	}
	return nil
}

func (e entry) make(dir int) error {
	switch e.kind {
	case os.ModeDir:
		return unix.Mkdirat(dir, e.name, 0o755)
	case os.ModeSymlink:
		return unix.Symlinkat(e.link, dir, e.name)
	}
	return unix.Mknodat(dir, e.name, unix.S_IFREG|0o644, 0) // whatever it is, a file can be mounted on a file
}

// lift puts the session on that root.
func (p *plan) lift(r room) {
	if r.top == nil {
		return
	}
	trees := map[string]int{}
	for _, e := range r.top {
		if e.kind == os.ModeSymlink {
			continue
		}
		trees[e.name] = p.call("clone /"+e.name, "open_tree", atCwd, str(e.name), num("OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE|AT_SYMLINK_NOFOLLOW",
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW))
		p.may(unix.ENOENT)
	}
	p.call("mount a root", "move_mount", num("top", fdTop), str(""), atCwd, str("/"), emptyFrom)
	for _, e := range r.top {
		if e.kind == os.ModeSymlink {
			continue
		}
		p.call("mount /"+e.name, "move_mount", p.result(trees[e.name]), str(""), num("top", fdTop), str(e.name), emptyFrom)
		p.may(unix.EBADF, unix.ENOTDIR, unix.EINVAL) // gone, or another now
	}
	p.call("fchdir to the root", "fchdir", num("top", fdTop))
	p.call("chroot to the root", "chroot", str("."))
}
