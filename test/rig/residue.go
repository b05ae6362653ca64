package rig

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Snapshot is all that a session might leave behind, in one container and on
// the host.
type Snapshot struct {
	pid   int
	born  string // start time of pid: a recycled PID is not our container
	files []string
	facts map[string]bool // "container mount …", "host loop device …"
}

// Residue takes a snapshot of the container whose init is pid: its mount
// table, its /dev, the processes in its PID namespace; and of the host: its
// mount table, loop devices that are backed by one of the files given, cgroups
// called cartsshd-*, terminals.
func Residue(t testing.TB, pid int, files ...string) *Snapshot {
	t.Helper()
	s := &Snapshot{pid: pid, born: startTime(pid), files: files}
	if s.born == "" {
		t.Fatalf("rig: process %d is not there", pid)
	}
	s.facts = s.look()
	return s
}

// Same asserts that nothing has changed since the snapshot, apart from what
// the host has less of. It waits as long as it takes, but not longer than 10 s:
// much of it is taken away by the kernel, in its own time. A container that
// has ended in the meantime has nothing left in it.
func (s *Snapshot) Same(t testing.TB) {
	t.Helper()
	if err := await(patience, func() bool { return s.Diff() == nil }); err != nil {
		t.Errorf("rig: left behind by the session:\n\t%s", strings.Join(s.Diff(), "\n\t"))
	}
}

// Diff tells what has changed since the snapshot, at once: "+ …" is new,
// "- …" is gone. What the host has less of does not count.
func (s *Snapshot) Diff() []string {
	now := s.look()
	var diff []string
	for _, fact := range slices.Sorted(maps.Keys(now)) {
		if !s.facts[fact] {
			diff = append(diff, "+ "+fact)
		}
	}
	if !s.there() {
		return diff
	}
	for _, fact := range slices.Sorted(maps.Keys(s.facts)) {
		if !now[fact] && strings.HasPrefix(fact, "container ") {
			diff = append(diff, "- "+fact)
		}
	}
	return diff
}

// there tells whether the container's init still lives.
func (s *Snapshot) there() bool { return startTime(s.pid) == s.born }

func (s *Snapshot) look() map[string]bool {
	facts := map[string]bool{}
	add := func(format string, args ...any) { facts[fmt.Sprintf(format, args...)] = true }
	if s.there() {
		containerMounts(s.pid, add)
		containerDev(s.pid, add)
		containerProcesses(s.pid, add)
	}
	hostMounts(add)
	hostLoops(s.files, add)
	hostCgroups(add)
	hostTerminals(add)
	return facts
}

func containerMounts(pid int, add func(string, ...any)) {
	table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	for line := range strings.Lines(string(table)) {
		add("container mount %s", strings.TrimSpace(line))
	}
}

func containerDev(pid int, add func(string, ...any)) {
	root := fmt.Sprintf("/proc/%d/root/dev", pid)
	filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			add("container /dev%s %s", strings.TrimPrefix(path, root), info.Mode())
		}
		return nil
	})
}

// containerProcesses lists nothing where the container shares the host's PID
// namespace: the host's processes come and go.
func containerProcesses(pid int, add func(string, ...any)) {
	space := pidNamespace(pid)
	if space == pidNamespace(os.Getpid()) {
		return
	}
	for _, pid := range processes() {
		if pidNamespace(pid) == space {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			add("container process %d %s", pid, bytes.TrimSpace(name))
		}
	}
}

// hostMounts leaves out what runtimes mount for containers that come and go.
func hostMounts(add func(string, ...any)) {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && !strings.HasPrefix(fields[4], os.TempDir()+"/rig") {
			add("host mount %s", strings.TrimSpace(line))
		}
	}
}

func hostLoops(files []string, add func(string, ...any)) {
	devices, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, device := range devices {
		backing, _ := os.ReadFile(device)
		// The kernel adds " (deleted)" to the name of a file that is gone.
		path := strings.TrimSuffix(string(bytes.TrimSpace(backing)), " (deleted)")
		if slices.Contains(files, path) {
			add("host loop device %s of %s", strings.Split(device, "/")[3], path)
		}
	}
}

func hostCgroups(add func(string, ...any)) {
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if entry.IsDir() && strings.Contains(path, "/cartsshd-") {
			add("host cgroup %s", path)
		}
		return nil
	})
}

// hostTerminals counts those of every devpts instance: a session's own is
// mounted where nobody else can list it.
func hostTerminals(add func(string, ...any)) {
	count, _ := os.ReadFile("/proc/sys/kernel/pty/nr")
	n, _ := strconv.Atoi(string(bytes.TrimSpace(count)))
	for i := range n {
		add("host terminal, one of %d or more", i+1)
	}
}

func processes() []int {
	var pids []int
	dirs, _ := os.ReadDir("/proc")
	for _, dir := range dirs {
		if pid, err := strconv.Atoi(dir.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func pidNamespace(pid int) string {
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return space
}

// startTime is field 22 of proc_pid_stat(5); empty if there is no such process,
// or only its zombie.
func startTime(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
