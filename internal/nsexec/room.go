package nsexec

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	proc, err := os.OpenRoot("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return room{}, nil, gone(err)
	}
	defer proc.Close()

	var r room
	if r.namespaces, err = foreign(pid); err != nil {
		return room{}, nil, gone(err)
	}
	if r.namespaces&unix.CLONE_NEWNS == 0 {
		return room{}, nil, ErrHost
	}
	status, err := readStatus(proc)
	if err != nil {
		return room{}, nil, gone(err)
	}
	if r.caps, err = strconv.ParseUint(status["CapBnd"], 16, 64); err != nil {
		return room{}, nil, fmt.Errorf("nsexec: CapBnd of process %d: %w", pid, err)
	}
	if r.rootUID, err = hostID(proc, "uid_map"); err != nil {
		return room{}, nil, err
	}
	if r.rootGID, err = hostID(proc, "gid_map"); err != nil {
		return room{}, nil, err
	}
	r.limits = limitsOf(pid)
	r.ignored, r.oomAdjust = ourselves()

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

// pidOf is the process behind a pidfd, by the kernel's word (Linux 5.3).
func pidOf(target *os.File) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", rawFD(target)))
	if err != nil {
		return 0, fmt.Errorf("nsexec: pidfd: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil || pid <= 0 {
				return 0, gone(unix.ESRCH)
			}
			return pid, nil
		}
	}
	return 0, errors.New("nsexec: target is not a pidfd")
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

// foreign is the set of namespaces that the process does not share with us.
func foreign(pid int) (int, error) {
	set := 0
	for _, n := range namespaceNames {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, n.file))
		if err != nil {
			return 0, err
		}
		if theirs != ourNamespaces()[n.file] {
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

func readStatus(proc *os.Root) (map[string]string, error) {
	f, err := proc.Open("status")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fields := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok {
			fields[k] = strings.TrimSpace(v)
		}
	}
	return fields, nil
}

// hostID is our number for the container's root: /proc/PID/uid_map has lines
// of "first inside, first outside, count" (user_namespaces(7)).
func hostID(proc *os.Root, file string) (int, error) {
	f, err := proc.Open(file)
	if err != nil {
		return 0, gone(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var inside, outside, count int
		if _, err := fmt.Sscan(s.Text(), &inside, &outside, &count); err == nil && inside == 0 && count > 0 {
			return outside, nil
		}
	}
	return 0, &JoinError{Step: "read " + file, Err: errors.New("the container's user namespace has no root")}
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
	self, err := os.OpenRoot("/proc/self")
	if err != nil {
		return nil, false
	}
	defer self.Close()
	if b, err := self.ReadFile("oom_score_adj"); err == nil {
		oomAdjust = strings.TrimSpace(string(b)) != "0"
	}
	status, _ := readStatus(self)
	mask, _ := strconv.ParseUint(status["SigIgn"], 16, 64)
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
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return nil, gone(err)
	}
	if theirs == ourNamespaces()["user"] {
		return nil, alive(target)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return nil, gone(err)
	}
	if err := alive(target); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
