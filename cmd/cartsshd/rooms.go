package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cartsshd/cartsshd/internal/mountinfo"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// A room is a mount namespace: the host's, a container's, a session's.
type room struct {
	namespace string // "mnt:[4026531841]"
	init      procID // the oldest of its processes
	processes []int
	mounts    []mountinfo.Mount
}

// allRooms finds all that have a process, by the kernel's word.
func allRooms() ([]room, error) {
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var rooms []room
	for _, pid := range pids {
		space := mountNamespace(pid)
		if space == "" {
			continue // it has ended
		}
		i := slices.IndexFunc(rooms, func(r room) bool { return r.namespace == space })
		if i < 0 {
			rooms = append(rooms, room{namespace: space})
			i = len(rooms) - 1
		}
		rooms[i].add(pid)
	}
	return rooms, nil
}

// add takes the mounts that the first process sees which lives long enough.
func (r *room) add(pid int) {
	r.processes = append(r.processes, pid)
	if r.mounts != nil {
		return
	}
	init := procID{pid, startTime(pid)}
	if mounts, err := mountinfo.Of(pid); err == nil && init.lives() {
		r.init, r.mounts = init, mounts
	}
}

// attached tells whether the tools are there by mount. A session has a copy of
// its container's mounts, below its own.
func (r room) attached() bool {
	return r.session() == "" && slices.ContainsFunc(r.mounts, nsexec.Attached)
}

// session is the ID of the session whose room it is, by its cgroup; or "".
func (r room) session() string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", r.init.PID))
	_, path, ok := strings.Cut(string(text), "/cartsshd-")
	if !ok {
		return ""
	}
	_, path, _ = strings.Cut(path, "/") // the daemon's own
	id, _, _ := strings.Cut(path, "/")
	return strings.TrimSpace(id)
}

// users are the processes that run a program of a file system.
func (r room) users(m mountinfo.Mount) (pids []int) {
	for _, pid := range r.processes {
		var st syscall.Stat_t
		if syscall.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st) == nil && isDevice(st.Dev, m.Major, m.Minor) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func mountNamespace(pid int) string {
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return space
}

// processes lists those that there are, the oldest first as a rule.
func processes() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	var errs []error
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		pids, errs = append(pids, pid), append(errs, err)
	}
	slices.Sort(pids)
	return pids, errors.Join(errs...)
}
