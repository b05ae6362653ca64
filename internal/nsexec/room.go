package nsexec

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrHost refuses a target that is no container: it sees the host's own files.
var ErrHost = errors.New("nsexec: the process is in the host's own mount namespace")

// look finds out what must be known of the target to enter it. All of it is
// the kernel's word, not the container's.
func look(target *os.File) (room, *os.File, error) {
	pid, err := pidOf(target)
	if err != nil {
		return room{}, nil, err
	}
	proc, err := openProc(pid)
	if err != nil {
		return room{}, nil, gone(err)
	}
	defer proc.close()

	r := room{pid: pid}
	if r.namespaces, err = proc.foreign(); err != nil {
		return room{}, nil, gone(err)
	}
	if err := r.readInit(proc); err != nil {
		return room{}, nil, gone(err)
	}
	r.limits = limitsOf(pid)
	r.ignored, r.oomAdjust = ourselves()
	r.ourCaps = ourCaps()

	root, err := openPath("/proc/" + strconv.Itoa(pid) + "/root")
	if err != nil {
		return room{}, nil, gone(err)
	}
	// Everything above was read by number. The number was the target's all the
	// while if the target still lives.
	if err := alive(target); err != nil {
		root.Close()
		return room{}, nil, err
	}
	return r, root, nil
}

// readInit reads what the container's init may.
func (r *room) readInit(proc *procDir) (err error) {
	if r.caps, err = proc.caps("CapBnd"); err != nil {
		return err
	}
	if r.uids, err = proc.idMap("uid_map"); err != nil {
		return err
	}
	if r.gids, err = proc.idMap("gid_map"); err != nil {
		return err
	}
	if r.init, err = proc.insider(r.uids, r.gids); err != nil {
		return err
	}
	r.label, err = proc.label()
	return err
}

// readFilters is for those who are to be confined by them: it takes a stop.
func (r *room) readFilters(target *os.File) error {
	pid, err := pidOf(target)
	if err != nil {
		return err
	}
	proc, err := openProc(pid)
	if err != nil {
		return gone(err)
	}
	defer proc.close()
	r.filters, r.filtersErr = proc.filtersOf(pid)
	return alive(target)
}

// ourCaps are those that we can give.
var ourCaps = sync.OnceValue(func() uint64 {
	self, err := openProc(os.Getpid())
	if err != nil {
		return 0
	}
	defer self.close()
	caps, _ := self.caps("CapPrm")
	return caps
})

// pidOf is the process behind a pidfd, by the kernel's word (Linux 5.3).
func pidOf(target *os.File) (int, error) {
	b, err := readSmall(unix.AT_FDCWD, "/proc/self/fdinfo/"+strconv.Itoa(rawFD(target)))
	if err != nil {
		return 0, fmt.Errorf("nsexec: pidfd: %w", err)
	}
	v, ok := field(b, "Pid")
	if !ok {
		return 0, errors.New("nsexec: target is not a pidfd")
	}
	pid, err := strconv.Atoi(v)
	if err != nil || pid <= 0 {
		return 0, gone(unix.ESRCH)
	}
	return pid, nil
}

// alive fails once the process has ended.
func alive(target *os.File) error {
	err := control(target, func(fd int) error { return unix.PidfdSendSignal(fd, 0, nil, 0) })
	if err != nil {
		return gone(err)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return &JoinError{Step: "look at the container", Err: unix.ESRCH}
	}
	return &JoinError{Step: "look at the container", Err: err}
}

// procDir is a directory /proc/PID, held, and its status, read once.
type procDir struct {
	fd   int
	text []byte
}

func openProc(pid int) (*procDir, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return &procDir{fd: fd}, err
}

func (p *procDir) close() { unix.Close(p.fd) }

// foreign is the set of namespaces that the process does not share with us.
func (p *procDir) foreign() (int, error) {
	set := 0
	var link [64]byte // "mnt:[4026531841]"
	for _, n := range namespaceNames {
		size, err := unix.Readlinkat(p.fd, "ns/"+n.file, link[:])
		if err != nil {
			return 0, err
		}
		if string(link[:size]) != ourNamespaces()[n.file] {
			set |= n.flag
		}
	}
	return set, nil
}

// ourNamespaces are our own, by the names that links in /proc/PID/ns have. We
// stay in them.
var ourNamespaces = sync.OnceValue(func() map[string]string {
	ours := map[string]string{}
	for _, n := range namespaceNames {
		ours[n.file], _ = os.Readlink("/proc/self/ns/" + n.file)
	}
	return ours
})

// status is a field of proc_pid_status(5).
func (p *procDir) status(name string) (string, error) {
	if p.text == nil {
		var err error
		if p.text, err = readSmall(p.fd, "status"); err != nil {
			return "", err
		}
	}
	v, ok := field(p.text, name)
	if !ok {
		return "", fmt.Errorf("no %s in its status", name)
	}
	return v, nil
}

// field returns the value of a line "name:\tvalue".
func field(b []byte, name string) (string, bool) {
	for line := range bytes.Lines(b) {
		if len(line) > len(name) && line[len(name)] == ':' && string(line[:len(name)]) == name {
			return string(bytes.TrimSpace(line[len(name)+1:])), true
		}
	}
	return "", false
}

// started is field 22 of proc_pid_stat(5). Field 2 is in parentheses, and may
// contain any byte, parentheses too.
func (p *procDir) started() (string, error) {
	b, err := readSmall(p.fd, "stat")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return "", errors.New("no start time in its stat")
	}
	return fields[19], nil
}

// readSmall reads a file of /proc, of which no more than 64 KiB matter. Every
// session reads half a dozen, and none of them is worth an os.File.
func readSmall(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 4096)
	for len(b) < 64<<10 {
		b = slices.Grow(b, 2048)
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		b = b[:len(b)+n]
	}
	return b, nil
}

// limitsOf are the resource limits of the process that are not ours too.
func limitsOf(pid int) []limit {
	var list []limit
	for res, ours := range ourLimits() {
		var theirs unix.Rlimit
		if unix.Prlimit(pid, res, nil, &theirs) != nil {
			continue
		}
		// The Go runtime raises its own RLIMIT_NOFILE and gives the old one to
		// its children, so that ours is not what the helper has.
		if ours != theirs || res == unix.RLIMIT_NOFILE {
			list = append(list, limit{uint64(res), theirs.Cur, theirs.Max})
		}
	}
	return list
}

// ourLimits are our own, by number. Nobody changes them while we run.
var ourLimits = sync.OnceValue(func() []unix.Rlimit {
	list := make([]unix.Rlimit, unix.RLIMIT_RTTIME+1)
	for res := range list {
		_ = unix.Prlimit(0, res, nil, &list[res])
	}
	return list
})

// ourselves is what a child of ours inherits and a session must not: signals
// that whoever started us has ignored (nohup), and our oom_score_adj.
var ourselves = sync.OnceValues(func() (ignored []int, oomAdjust bool) {
	self, err := openProc(os.Getpid())
	if err != nil {
		return nil, false
	}
	defer self.close()
	if b, err := readSmall(self.fd, "oom_score_adj"); err == nil {
		oomAdjust = strings.TrimSpace(string(b)) != "0"
	}
	status, _ := self.status("SigIgn")
	mask, _ := strconv.ParseUint(status, 16, 64)
	for sig := 1; sig <= 64; sig++ {
		if mask&(1<<(sig-1)) != 0 {
			ignored = append(ignored, sig)
		}
	}
	return ignored, oomAdjust
})

// Userns opens the user namespace of the target. It is nil if that is our own.
func Userns(target *os.File) (*os.File, error) {
	pid, err := pidOf(target)
	if err != nil {
		return nil, err
	}
	path := "/proc/" + strconv.Itoa(pid) + "/ns/user"
	theirs, err := os.Readlink(path)
	if err != nil {
		return nil, gone(err)
	}
	if theirs == ourNamespaces()["user"] {
		return nil, alive(target)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, gone(err)
	}
	if err := alive(target); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
