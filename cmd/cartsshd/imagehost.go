package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/loop"
	"github.com/cartsshd/cartsshd/internal/mountinfo"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

type imageStatusCmd struct {
	atHost `embed:""`
}

// Run prints the loop devices of tools images, who sees what is on them, and who
// runs a program of it. All of it is the kernel's word.
func (c imageStatusCmd) Run(out io.Writer) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	devices, err := loop.Devices()
	if err != nil {
		return err
	}
	rooms, err := allRooms()
	if err != nil {
		return err
	}
	w := columns(out)
	for _, d := range devices {
		fmt.Fprintf(w, "%s\t%s\n", d.Name, audit.Printable(d.File))
		for _, line := range sights(d, rooms, cfg) {
			fmt.Fprintf(w, "\t%s\n", line)
		}
	}
	return w.Flush()
}

// sights are a line for each mount of a device.
func sights(d loop.Device, rooms []room, cfg *config.Config) []string {
	var lines []string
	for _, r := range rooms {
		for _, m := range r.mounts {
			if m.Major == d.Major && m.Minor == d.Minor && !r.hides(m) {
				lines = append(lines, strings.Join([]string{r.called(cfg), audit.Printable(m.Point), why(r, m), usedBy(r.users(m))}, "\t"))
			}
		}
	}
	if lines == nil {
		return []string{"mounted nowhere: held by a daemon, for sessions to come"}
	}
	return lines
}

// hides tells whether a mount is a copy that the session's own lies over.
func (r room) hides(m mountinfo.Mount) bool { return r.session() != "" && nsexec.Attached(m) }

// called is whose room it is.
func (r room) called(cfg *config.Config) string {
	if r.namespace == mountNamespace(os.Getpid()) {
		return "host"
	}
	if id := r.session(); id != "" {
		return "session " + audit.Printable(id)
	}
	target, err := lookFor(cfg, fmt.Sprintf("pid:%d", r.init.PID))
	if err != nil {
		return fmt.Sprintf("process %d", r.init.PID)
	}
	defer target.Close()
	if target.Runtime == "pid" {
		return fmt.Sprintf("process %d", r.init.PID)
	}
	if target.Name == "" {
		return fmt.Sprintf("container %.12s", audit.Printable(target.ID))
	}
	return "container " + audit.Printable(target.Name)
}

// why says how the tools came to be there.
func why(r room, m mountinfo.Mount) string {
	switch {
	case r.session() != "":
		return "private"
	case nsexec.Attached(m):
		return "by mount"
	case r.namespace == mountNamespace(os.Getpid()):
		return "by image bind"
	}
	return "started with it"
}

func usedBy(pids []int) string {
	var names []string
	for _, pid := range pids {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		names = append(names, fmt.Sprintf("%d %s", pid, audit.Printable(strings.TrimSpace(string(name)))))
	}
	if names == nil {
		return "in use by nobody"
	}
	return "in use by " + strings.Join(names, ", ")
}

type imageBindCmd struct {
	withImage `embed:""`
	Dir       string `arg:"" help:"The directory; made if only its last part is not there."`
}

// Run puts the image at a directory of the host, for `docker run -v
// DIR:/dev/crashcart:ro`. What containers have of it they keep.
func (c imageBindCmd) Run(v *verbosity) error { return status(onRecord(c.config, v, c.do)) }

func (c imageBindCmd) do(cfg *config.Config, record *audit.Log, v *verbosity) error {
	image, err := openFirst(cfg, v)
	if err != nil {
		return err
	}
	defer image.Close()
	m := meta("bind", absolute(c.Dir), nil, nil)
	m.Tools = image.ID()
	return recorded(record, m, func() error { return bind(image, c.Dir) })
}

func bind(image *tools, name string) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	defer l.close()
	dir, err := l.place(name)
	if err != nil {
		return err
	}
	mount, err := image.Mount(nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	there, err := mountedAt(dir)
	if err != nil {
		return err
	}
	if there != nil {
		return isBound(dir, *there, mount)
	}
	if err := isEmpty(dir); err != nil {
		return err
	}
	if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	tell("the tools are at %s: docker run -v %s:%s:ro", dir, dir, nsexec.Tools)
	return nil
}

// place is a directory as mountinfo calls it. What had to be made is written
// down before it is.
func (l *ledger) place(name string) (string, error) {
	dir, err := canonical(name)
	if err == nil {
		return dir, rootsOwn(dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	parent, err := canonical(filepath.Dir(filepath.Clean(name)))
	if err != nil {
		return "", err
	}
	if err := rootsOwn(parent); err != nil {
		return "", err
	}
	dir = filepath.Join(parent, filepath.Base(name))
	l.Binds = append(l.Binds, dir)
	return dir, errors.Join(l.save(), os.Mkdir(dir, 0o755))
}

// absolute is for the record, of what may not be there.
func absolute(name string) string {
	dir, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	return dir
}

func canonical(name string) (string, error) {
	dir, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// mountedAt is what one sees at a directory of the host; nil if no mount.
func mountedAt(dir string) (*mountinfo.Mount, error) {
	mounts, err := mountinfo.Of(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Point == dir {
			return &m, nil
		}
	}
	return nil, nil
}

// rootsOwn fails if others than root could put something else in the place of a
// directory, or of one above it: it would be mounted there, or unmounted.
func rootsOwn(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: at, Err: err}
		}
		const others = 0o022
		open := st.Mode&others != 0 && (st.Mode&unix.S_ISVTX == 0 || at == dir)
		if st.Uid != 0 || open {
			return fmt.Errorf("%s: others than root may change %s: take a directory of root's", dir, at)
		}
		if at == "/" {
			return nil
		}
	}
}

// isEmpty fails if there is something that would be out of sight.
func isEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%s: is no directory", dir)
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s: is not empty: take another directory", dir)
	}
	return err
}

// isBound judges what is at a place already.
func isBound(dir string, there mountinfo.Mount, mount *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &st); err != nil {
		return err
	}
	if isDevice(st.Dev, there.Major, there.Minor) {
		tell("the tools are at %s already", dir)
		return nil
	}
	if ours, err := isTools(there); err != nil || ours {
		return errors.Join(err, fmt.Errorf("%s: another tools image is there (try: cartsshd image unbind %s)", dir, dir))
	}
	return fmt.Errorf("%s: something else is mounted there, a %s: take another directory", dir, there.Type)
}

func isDevice(dev uint64, major, minor uint32) bool {
	return unix.Major(dev) == major && unix.Minor(dev) == minor
}

// isTools tells whether a mount is of a tools image.
func isTools(m mountinfo.Mount) (bool, error) {
	devices, err := loop.Devices()
	return slices.ContainsFunc(devices, func(d loop.Device) bool { return d.Major == m.Major && d.Minor == m.Minor }), err
}

type imageUnbindCmd struct {
	atHost `embed:""`
	Dir    string `arg:"" help:"The directory."`
}

// Run takes the image away from there.
func (c imageUnbindCmd) Run(v *verbosity) error { return status(onRecord(c.config, v, c.do)) }

func (c imageUnbindCmd) do(_ *config.Config, record *audit.Log, _ *verbosity) error {
	return recorded(record, meta("unbind", absolute(c.Dir), nil, nil), func() error { return unbind(c.Dir) })
}

func unbind(name string) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	defer l.close()
	dir, err := canonical(name)
	if errors.Is(err, fs.ErrNotExist) {
		tell("the tools are not at %s", name)
		return nil
	}
	if err != nil {
		return err
	}
	if err := rootsOwn(filepath.Dir(dir)); err != nil {
		return err
	}
	there, err := mountedAt(dir)
	if err != nil {
		return err
	}
	if there == nil {
		tell("the tools are not at %s", dir)
		return l.unplace(dir)
	}
	if ours, err := isTools(*there); err != nil || !ours {
		return errors.Join(err, fmt.Errorf("%s: is no tools image, but a %s", dir, there.Type))
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
	tell("the tools are gone from %s", dir)
	return l.unplace(dir)
}

// unplace removes a directory that was made by place, and is empty.
func (l *ledger) unplace(dir string) error {
	i := slices.Index(l.Binds, dir)
	if i < 0 {
		return nil
	}
	l.Binds = slices.Delete(l.Binds, i, i+1)
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		err = nil // or somebody's by now
	}
	return errors.Join(err, l.save())
}
