package nsexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/thread"
)

// A container's seccomp filter is taken as it is: read back from the kernel, of
// the container's init (PTRACE_SECCOMP_GET_FILTER of ptrace(2), Linux 4.4), and
// given to the session. The init is stopped for that, for some microseconds and
// once for each container, as if by a signal that it ignores: a program that
// waits in epoll_wait(2) may see EINTR (signal(7)).

const (
	maxFilters    = 32                     // of one process
	tracePatience = 200 * time.Millisecond // with a process that is to stop
)

// filterCache has what was read, by the process that it was read of. Filters
// are only ever added: as many as there were are the ones that there were.
var filterCache = struct {
	sync.Mutex
	of map[filterKey]*filterEntry
}{of: map[filterKey]*filterEntry{}}

// filterEntry is locked while it is read: a process has one tracer at a time, and
// one that does not stop keeps nobody else waiting.
type filterEntry struct {
	sync.Mutex
	list []filter // nil until it was read
}

func entryOfFilters(key filterKey) *filterEntry {
	filterCache.Lock()
	defer filterCache.Unlock()
	if len(filterCache.of) > 1000 {
		clear(filterCache.of) // of containers that are gone, most of them
	}
	e := filterCache.of[key]
	if e == nil {
		e = &filterEntry{}
		filterCache.of[key] = e
	}
	return e
}

type filterKey struct {
	pid   int
	start string // field 22 of proc_pid_stat(5)
	count string
}

// filter is a program as the kernel has it, in the order in which it runs.
type filter []unix.SockFilter

// filtersOf returns the filters of a process, the first installed first; none if
// it has none.
func (p *procDir) filtersOf(pid int) ([]filter, error) {
	mode, err := p.status("Seccomp")
	if err != nil || mode == "0" {
		return nil, err
	}
	if mode != "2" {
		return nil, errors.New("it is in seccomp's strict mode")
	}
	key := filterKey{pid: pid}
	if key.count, err = p.status("Seccomp_filters"); err != nil { // of Linux 5.9
		return nil, err
	}
	if key.start, err = p.started(); err != nil {
		return nil, err
	}
	e := entryOfFilters(key)
	e.Lock()
	defer e.Unlock()
	if e.list != nil {
		return e.list, nil
	}
	list, err := readFilters(pid, key.count)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i] = list[i].compact()
	}
	e.list = list
	return list, nil
}

// errKept is why filters cannot be read whose container may be keeping them from
// it: nobody may come in without them.
var errKept = errors.New("the container may be keeping it from being read")

// readFilters reads the filters of a container's init; or, as that may be traced,
// or not stop, those of another process in its PID namespace with as many: they
// begin with the container's own.
func readFilters(pid int, count string) ([]filter, error) {
	list, err := traceFilters(pid)
	if err == nil && strconv.Itoa(len(list)) != count {
		return nil, fmt.Errorf("%d filters could be read of %s", len(list), count)
	}
	if !errors.Is(err, errKept) {
		return list, err
	}
	for _, other := range kin(pid, count) {
		if list, err := traceFilters(other); err == nil && strconv.Itoa(len(list)) == count {
			return list, nil
		}
	}
	return nil, err
}

// kin lists some processes in a process's PID namespace, if that is not ours,
// that have as many filters.
func kin(pid int, count string) (pids []int) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil || space == ourNamespaces()["pid"] {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[1-9]*/ns/pid")
	for _, dir := range dirs {
		if theirs, _ := os.Readlink(dir); theirs != space {
			continue
		}
		other, err := strconv.Atoi(strings.Split(dir, "/")[2])
		if err != nil || other == pid || len(pids) == maxKin {
			continue
		}
		if proc, err := openProc(other); err == nil {
			if theirs, _ := proc.status("Seccomp_filters"); theirs == count {
				pids = append(pids, other)
			}
			proc.close()
		}
	}
	return pids
}

const maxKin = 8 // that are asked, each for tracePatience at most

// traceFilters is for a thread that does nothing else and ends with it. Then
// the kernel lets go of the process, whatever has happened.
func traceFilters(pid int) (list []filter, err error) {
	err = thread.Alone(func() (err error) {
		list, err = seizeFilters(pid)
		return err
	})
	return list, err
}

func seizeFilters(pid int) (list []filter, err error) {
	if err := seize(pid); err != nil {
		if err == unix.EPERM {
			err = fmt.Errorf("%w: somebody traces it already: %w", errKept, err)
		}
		return nil, fmt.Errorf("trace process %d: %w", pid, err)
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("stop process %d: %w", pid, err)
	}
	sig, err := awaitStop(pid)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, detach(pid, sig)) }()
	for len(list) < maxFilters {
		f, err := getFilter(pid, len(list))
		if errors.Is(err, unix.ENOENT) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read filter of process %d: %w", pid, err)
		}
		list = append(list, f)
	}
	return nil, fmt.Errorf("more than %d filters", maxFilters)
}

// seize waits for another tracer to let go: one of ours, in another process, does
// so soon.
func seize(pid int) error {
	for end := time.Now().Add(tracePatience); ; time.Sleep(time.Millisecond) {
		err := unix.PtraceSeize(pid)
		if err != unix.EPERM || time.Now().After(end) {
			return err
		}
	}
}

// awaitStop waits for a process that we trace. One in the freezer, or in the
// kernel for long, does not stop. If it was stopped by a signal that came before
// us, that is still to be delivered.
func awaitStop(pid int) (sig unix.Signal, err error) {
	const PTRACE_EVENT_STOP = 128 // linux/ptrace.h
	for wait, end := 20*time.Microsecond, time.Now().Add(tracePatience); time.Now().Before(end); wait *= 2 {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(pid, &status, syscall.WALL|syscall.WNOHANG, nil)
		switch {
		case err != nil && err != unix.EINTR:
			return 0, os.NewSyscallError("wait4", err)
		case got == pid && !status.Stopped():
			return 0, errors.New("it has ended")
		case got == pid && status>>16 == PTRACE_EVENT_STOP:
			return 0, nil
		case got == pid:
			return status.StopSignal(), nil
		}
		time.Sleep(min(wait, 10*time.Millisecond))
	}
	return 0, fmt.Errorf("process %d does not stop: %w", pid, errKept)
}

func detach(pid int, sig unix.Signal) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(pid), 0, uintptr(sig), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("ptrace detach", errno)
	}
	return nil
}

// getFilter returns the nth filter of a process that is stopped.
func getFilter(pid, n int) (filter, error) {
	const PTRACE_SECCOMP_GET_FILTER = 0x420c // linux/ptrace.h
	size, _, errno := unix.Syscall6(unix.SYS_PTRACE, PTRACE_SECCOMP_GET_FILTER, uintptr(pid), uintptr(n), 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	if size == 0 || size > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("of %d instructions", size)
	}
	f := make(filter, size)
	_, _, errno = unix.Syscall6(unix.SYS_PTRACE, PTRACE_SECCOMP_GET_FILTER, uintptr(pid), uintptr(n), uintptr(unsafe.Pointer(&f[0])), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return f, nil
}
