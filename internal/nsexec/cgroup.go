package nsexec

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A cgroup holds one session and nothing else, so that one write ends all of
// it, however it has forked. It is not the container's: a debugger must not
// take the patient's memory.
type cgroup struct {
	name              string
	dir, kill, parent *os.File
}

// newCgroup makes the cgroup beside our own processes, in the unified tree.
func newCgroup(id string) (*cgroup, error) {
	top, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	g := &cgroup{name: "cartsshd-" + id}
	if g.parent, err = openPath(top); err != nil {
		return nil, &JoinError{Step: "open cgroup", Err: err}
	}
	if err := unix.Mkdirat(rawFD(g.parent), g.name, 0o755); err != nil {
		g.parent.Close()
		return nil, &JoinError{Step: "make cgroup " + filepath.Join(top, g.name), Err: err}
	}
	if err := g.open(); err != nil {
		_ = g.close()
		return nil, err
	}
	return g, nil
}

func (g *cgroup) open() error {
	dir, err := unix.Openat(rawFD(g.parent), g.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &JoinError{Step: "open cgroup", Err: err}
	}
	g.dir = os.NewFile(uintptr(dir), g.name)
	kill, err := unix.Openat(dir, "cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &JoinError{Step: "open cgroup.kill (Linux 5.14)", Err: err}
	}
	g.kill = os.NewFile(uintptr(kill), "cgroup.kill")
	filter, err := deviceFilter()
	if err != nil {
		return err
	}
	attr := struct{ target, prog, kind, flags uint32 }{uint32(dir), uint32(filter), unix.BPF_CGROUP_DEVICE, 0}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return &JoinError{Step: "attach device filter", Err: err}
	}
	return nil
}

// killAll ends every process in the cgroup at once.
func (g *cgroup) killAll() { _, _ = g.kill.Write([]byte("1")) }

// close takes the cgroup away, once it is empty. The session's init may have
// done so.
func (g *cgroup) close() error {
	err := g.remove()
	for _, f := range []*os.File{g.dir, g.kill, g.parent} {
		if f != nil {
			f.Close()
		}
	}
	return err
}

func (g *cgroup) remove() error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Unlinkat(rawFD(g.parent), g.name, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY || wait > time.Second {
			return &JoinError{Step: "remove cgroup " + g.name, Err: err}
		}
		time.Sleep(wait) // a dying process is still counted
	}
}

// ownCgroup is our directory in the cgroup v2 tree, also of a hybrid host.
var ownCgroup = sync.OnceValues(func() (string, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(mount, path), nil
		}
	}
	return "", errors.New("nsexec: /proc/self/cgroup names no cgroup v2")
})

func cgroup2Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
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
