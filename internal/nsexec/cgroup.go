package nsexec

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/mountinfo"
)

// A cgroup holds one session and nothing else, so that one write ends all of
// it, however it has forked. It is not the container's: a debugger must not
// take the patient's memory.
//
// The session's init is in it, and the rest of the session in one below, "run":
// the init must outlive those whom it is to reap.
type cgroup struct {
	tree           *tree
	above          *os.File // where it is: our tree's directory, or the container's cgroup
	name           string
	dir, run, kill *os.File
	limits         []*limitTree // in which it has one of its own
}

// newCgroup makes one in our tree; or below another cgroup, if there is one.
func newCgroup(id string, above *os.File) (*cgroup, error) {
	tree, err := ourTree()
	if err != nil {
		return nil, err
	}
	g := &cgroup{tree: tree, above: cmp.Or(above, tree.dir), name: id}
	if err := unix.Mkdirat(rawFD(g.above), id, 0o755); err != nil {
		return nil, &JoinError{Step: "make cgroup " + id, Err: err}
	}
	if err := g.open(); err != nil {
		_ = g.close()
		return nil, err
	}
	return g, nil
}

func (g *cgroup) open() error {
	if err := g.filterDevices(); err != nil {
		return err
	}
	// A mount of its own, of this directory alone: the session's init is given
	// these descriptors, and ".." must not lead to the host's other cgroups.
	dir, err := unix.OpenTree(rawFD(g.above), g.name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &JoinError{Step: "open cgroup", Err: err}
	}
	g.dir = os.NewFile(uintptr(dir), g.name)
	// One below it, "run", and no others that we would not know of.
	if err := writeTo(dir, "cgroup.max.descendants", "1"); err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, "run", 0o755); err != nil {
		return &JoinError{Step: "make cgroup run", Err: err}
	}
	if g.run, err = openDir(dir, "run"); err != nil {
		return err
	}
	g.kill, err = openKill(rawFD(g.run))
	return err
}

// filterDevices needs a descriptor that is more than a place (O_PATH).
func (g *cgroup) filterDevices() error {
	dir, err := openDir(rawFD(g.above), g.name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return attachDeviceFilter(rawFD(dir))
}

// give lets the session's init fork into the cgroup below its own: the kernel
// asks whether it could move a process there (CLONE_INTO_CGROUP of clone(2)), and
// it is the session's user by then. In a user namespace it is not yet.
func (g *cgroup) give(r room) error {
	if r.user.UID == 0 || r.hasUserns() {
		return nil
	}
	for _, dir := range []*os.File{g.dir, g.run} {
		if err := unix.Fchownat(rawFD(dir), "cgroup.procs", r.user.UID, -1, 0); err != nil {
			return &JoinError{Step: "chown cgroup.procs", Err: err}
		}
	}
	return nil
}

func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &JoinError{Step: "open cgroup " + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func writeTo(at int, name, value string) error {
	fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &JoinError{Step: "open " + name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &JoinError{Step: "write " + name, Err: err}
	}
	return nil
}

func openKill(at int) (*os.File, error) {
	fd, err := unix.Openat(at, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &JoinError{Step: "open cgroup.kill (Linux 5.14)", Err: err}
	}
	return os.NewFile(uintptr(fd), "cgroup.kill"), nil
}

// killRun ends the session, but for its init.
func (g *cgroup) killRun() { _ = writeTo(rawFD(g.run), "cgroup.kill", "1") }

// killAll ends every process of the session at once, its init too.
func (g *cgroup) killAll() { _ = writeTo(rawFD(g.dir), "cgroup.kill", "1") }

// has fails unless the process is in the cgroup, and not in the one below. A
// process that has ended already is in the last one that it was in.
func (g *cgroup) has(pid int) error {
	line, err := unifiedCgroup(strconv.Itoa(pid))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(line, "/"+filepath.Base(g.above.Name())+"/"+g.name) {
		return fmt.Errorf("process %d is in cgroup %s", pid, line)
	}
	return nil
}

// close takes the cgroup away, once it is empty.
func (g *cgroup) close() error {
	err := removeEmpty(rawFD(g.dir), "run")
	for _, f := range []*os.File{g.kill, g.run, g.dir} {
		if f != nil {
			f.Close()
		}
	}
	for _, t := range g.limits {
		err = errors.Join(err, removeEmpty(rawFD(t.dir), g.name))
	}
	err = errors.Join(err, removeEmpty(rawFD(g.above), g.name))
	if g.above != g.tree.dir {
		g.above.Close()
	}
	return err
}

// removeEmpty removes a cgroup. A dying process is counted for a while.
func removeEmpty(at int, name string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT || err == unix.EBADF {
			return nil
		}
		if err != unix.EBUSY || wait > time.Second {
			return &JoinError{Step: "remove cgroup " + name, Err: err}
		}
		time.Sleep(wait)
	}
}

// below opens the container's own cgroup, for a session that is to be under its
// limits, where these are of the cgroup v2 tree; nil where they are not.
func (p Profile) below(pid int) (*os.File, error) {
	if !p.TargetCgroup {
		return nil, nil
	}
	mount, err := cgroup2Mount()
	if err != nil {
		return nil, err
	}
	path, err := unifiedCgroup(strconv.Itoa(pid))
	if err != nil {
		return nil, gone(err)
	}
	path = filepath.Join(mount, path)
	if controllers, err := os.ReadFile(path + "/cgroup.controllers"); err != nil || len(controllers) == 0 && !nestAnyway {
		return nil, err
	}
	return os.Open(path)
}

// nestAnyway is for tests on hosts whose controllers are v1's.
var nestAnyway = false

// ownCgroup is our directory in the cgroup v2 tree, also of a hybrid host.
var ownCgroup = sync.OnceValues(func() (string, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	path, err := unifiedCgroup("self")
	if err != nil {
		return "", err
	}
	return filepath.Join(mount, path), nil
})

// unifiedCgroup is a process's place in the cgroup v2 tree.
func unifiedCgroup(pid string) (string, error) {
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("nsexec: /proc/%s/cgroup names no cgroup v2", pid)
}

func cgroup2Mount() (string, error) {
	mounts, err := mountinfo.Of(os.Getpid())
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.Type == "cgroup2" {
			return m.Point, nil
		}
	}
	return "", errors.New("nsexec: no cgroup v2 is mounted (try: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")
}

// The session is outside the container's cgroup, and so outside its device
// rules. Without rules of our own, root with CAP_MKNOD, which Docker gives by
// default, would read the host's disks.
//
// The filter allows every mknod, as Docker does, and the use of the devices
// that every container has.
var deviceFilter = sync.OnceValues(func() (int, error) {
	code := assemble()
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count   uint32
		code, license uint64
		rest          [10]uint64
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, &JoinError{Step: "load device filter (CONFIG_CGROUP_BPF)", Err: err}
	}
	return fd, nil // for as long as we run
})

func attachDeviceFilter(cgroup int) error {
	filter, err := deviceFilter()
	if err != nil {
		return err
	}
	attr := struct{ target, prog, kind, flags uint32 }{uint32(cgroup), uint32(filter), unix.BPF_CGROUP_DEVICE, 0}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return &JoinError{Step: "attach device filter", Err: err}
	}
	return nil
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// insn is struct bpf_insn (linux/bpf.h).
type insn struct {
	op   uint8
	regs uint8 // destination, source << 4
	off  int16
	imm  int32
}

// allowed devices: character devices by number; minor -1 is any.
var allowed = []struct{ major, minor int32 }{
	{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null zero full random urandom
	{5, 0}, {5, 1}, {5, 2}, // tty console ptmx
	{136, -1}, {137, -1}, {138, -1}, {139, -1}, {140, -1}, {141, -1}, {142, -1}, {143, -1}, // pts
}

// assemble writes the filter. It reads struct bpf_cgroup_dev_ctx: access in
// the high half and type in the low half of a word, then major, then minor.
func assemble() []insn {
	const (
		load  = 0x61 // r = *(u32 *)(r1 + off)
		copy  = 0xbf // r = r
		and   = 0x57 // r &= imm
		jeq   = 0x15 // if r == imm goto
		jne   = 0x55 // if r != imm goto
		set   = 0xb7 // r = imm
		exit  = 0x95
		mknod = unix.BPF_DEVCG_ACC_MKNOD << 16
	)
	code := []insn{
		{load, 2 | 1<<4, 0, 0}, // r2 = access, type
		{load, 3 | 1<<4, 4, 0}, // r3 = major
		{load, 4 | 1<<4, 8, 0}, // r4 = minor
		{set, 0, 0, 1},         // the answer is yes ...
		{copy, 5 | 2<<4, 0, 0}, // r5 = access
		{and, 5, 0, -1 << 16},
		{jne, 5, 1, mknod}, // ... to mknod alone
		{exit, 0, 0, 0},
		{and, 2, 0, 0xffff}, // r2 = type
		{jeq, 2, 2, unix.BPF_DEVCG_DEV_CHAR},
		{set, 0, 0, 0},
		{exit, 0, 0, 0},
	}
	for _, d := range allowed {
		if d.minor < 0 {
			code = append(code, insn{jne, 3, 1, d.major}, insn{exit, 0, 0, 0})
			continue
		}
		code = append(code, insn{jne, 3, 2, d.major}, insn{jne, 4, 1, d.minor}, insn{exit, 0, 0, 0})
	}
	return append(code, insn{set, 0, 0, 0}, insn{exit, 0, 0, 0})
}
