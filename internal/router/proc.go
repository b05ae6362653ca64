package router

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// stat is some of proc_pid_stat(5).
type stat struct {
	state   byte   // field 3: 'Z' is a zombie
	parent  int    // field 4
	kernel  bool   // field 9 has PF_KTHREAD
	started uint64 // field 22, in clock ticks since boot
}

func readStat(pid int) (stat, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// Field 2 is the program's name in parentheses, and may contain any byte,
	// parentheses too.
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	if len(fields) < 20 {
		return stat{}, errors.New("cannot be read: " + quote(string(line)))
	}
	const PF_KTHREAD = 0x00200000 // include/linux/sched.h
	flags, _ := strconv.ParseUint(fields[6], 10, 64)
	parent, _ := strconv.Atoi(fields[1])
	started, err := strconv.ParseUint(fields[19], 10, 64)
	return stat{state: fields[0][0], parent: parent, kernel: flags&PF_KTHREAD != 0, started: started}, err
}

// statusField returns a field of proc_pid_status(5), without its name.
func statusField(pid int, name string) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", errors.New("no " + name + " in its status")
}

// namespace names the namespace of a process: "mnt:[4026531841]".
func namespace(pid int, kind string) (string, error) {
	return os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
}

// namespaceInode is its number alone.
func namespaceInode(pid int, kind string) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// pidSpaces are the PID namespace of a process and those that it is below, up
// to ours, and without it.
func pidSpaces(pid int) ([]uint64, error) {
	host, err := namespaceInode(os.Getpid(), "pid")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	var spaces []uint64
	for err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err != nil || st.Ino == host {
			unix.Close(fd)
			break
		}
		spaces = append(spaces, st.Ino)
		var parent int
		parent, err = unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		fd = parent
	}
	if errors.Is(err, unix.EPERM) { // the next is above ours
		err = nil
	}
	return spaces, err
}

// cgroupPaths returns the distinct paths of proc_pid_cgroup(5), of all
// hierarchies: of v1, of v2, and of both where the host is hybrid.
func cgroupPaths(pid int) ([]string, error) {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(string(table)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 {
			paths = append(paths, fields[2])
		}
	}
	return distinct(paths), nil
}

// containerIDs returns the container IDs in a cgroup's path, the outermost
// first: of "/docker/ID", "/system.slice/docker-ID.scope",
// "/kubepods/podUID/ID", "/x.slice:cri-containerd:ID".
func containerIDs(path string) []string {
	var ids []string
	for dir := range strings.SplitSeq(path, "/") {
		dir = strings.TrimSuffix(dir, ".scope")
		at := strings.LastIndexAny(dir, "-:") + 1
		if id := dir[at:]; isContainerID(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// isContainerID tells whether s is a full ID, of those runtimes that number
// their containers with 256 random bits.
func isContainerID(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// inCgroupOf confirms that a process is in the cgroup of the container id. The
// ID must be the outermost one: a container may call a cgroup below its own
// whatever it likes. The container that we are in ourselves does not count.
func inCgroupOf(pid int, id string) error {
	paths, err := cgroupPaths(pid)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if strings.HasPrefix(path, "/user.slice/") {
			continue // a user's own to name
		}
		if ids := foreignIDs(path); len(ids) > 0 && ids[0] == id {
			return nil
		}
	}
	return fmt.Errorf("process %d is not in the cgroup of %s", pid, id)
}

// foreignIDs is containerIDs without the containers that we are in ourselves.
func foreignIDs(path string) []string {
	return slices.DeleteFunc(containerIDs(path), func(id string) bool { return ownContainers()[id] })
}

// ownContainers are those that this process is in: where the server runs in a
// container, every path it sees may begin with that one's.
var ownContainers = sync.OnceValue(func() map[string]bool {
	ours := map[string]bool{}
	paths, _ := cgroupPaths(os.Getpid())
	for _, path := range paths {
		for _, id := range containerIDs(path) {
			ours[id] = true
		}
	}
	return ours
})

// processes lists those that there are.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		if pid := parsePID(entry.Name()); pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// distinct keeps the first of equal ones.
func distinct(paths []string) []string {
	seen := map[string]bool{}
	var once []string
	for _, path := range paths {
		if !seen[path] {
			seen[path] = true
			once = append(once, path)
		}
	}
	return once
}
