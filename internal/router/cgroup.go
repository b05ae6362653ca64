package router

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/cartsshd/cartsshd/internal/mountinfo"
)

// cgroupMount is where a hierarchy of cgroups is mounted.
type cgroupMount struct {
	point, root string
	controllers []string // of v1; none for the v2 tree
}

// cgroupMounts are those of this server. They do not change.
var cgroupMounts = sync.OnceValue(func() (hierarchies []cgroupMount) {
	mounts, _ := mountinfo.Of(os.Getpid())
	for _, m := range mounts {
		switch m.Type {
		case "cgroup":
			hierarchies = append(hierarchies, cgroupMount{m.Point, m.Root, m.Super})
		case "cgroup2":
			hierarchies = append(hierarchies, cgroupMount{m.Point, m.Root, nil})
		}
	}
	return hierarchies
})

// relativeCgroup is a directory below a mount as proc_pid_cgroup(5) has it.
func relativeCgroup(dir string) string {
	best, relative := "", dir
	for _, m := range cgroupMounts() {
		rest, below := strings.CutPrefix(dir, m.point+"/")
		if below && len(m.point) > len(best) {
			best, relative = m.point, path.Join(m.root, rest)
		}
	}
	return relative
}

// inClaimed confirms that a process is in one of the cgroups that its runtime
// says it has made, or below. Where this server is in a container itself, they
// may be below that one's.
func inClaimed(pid int, claims []string) error {
	paths, err := cgroupPaths(pid)
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if slices.ContainsFunc(paths, func(path string) bool { return inCgroup(path, claim) }) {
			return nil
		}
	}
	if len(claims) == 0 {
		return nil // and when it was started must do
	}
	return fmt.Errorf("process %d is not in the cgroup %s", pid, quote(claims[0]))
}

func inCgroup(path, claim string) bool {
	if !strings.HasPrefix(claim, "/") { // the name of one
		return claim != "" && slices.Contains(strings.Split(path, "/"), claim)
	}
	if path == "/" || claim == "/" {
		return false
	}
	for _, own := range ownCgroups() {
		if own != "/" && below(path, own+claim) {
			return true
		}
	}
	return below(path, claim)
}

// below tells whether a path is another, or below that.
func below(path, other string) bool {
	return path == other || strings.HasPrefix(path, strings.TrimSuffix(other, "/")+"/")
}

// ownCgroups are those of this server when they are first asked for.
var ownCgroups = sync.OnceValue(func() []string {
	paths, _ := cgroupPaths(os.Getpid())
	return paths
})

// paused tells whether a process is in a frozen cgroup. What the kernel does
// not tell is not paused: it will be seen when the session does not start.
func paused(pid int) bool {
	table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(table)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && frozen(fields[1], fields[2]) {
			return true
		}
	}
	return false
}

// frozen asks a cgroup, of v1's freezer or of v2: either tells of those above
// it as well.
func frozen(controllers, path string) bool {
	if controllers == "" {
		return strings.Contains(readCgroup("", path, "cgroup.events"), "frozen 1")
	}
	if slices.Contains(strings.Split(controllers, ","), "freezer") {
		state := strings.TrimSpace(readCgroup("freezer", path, "freezer.state"))
		return state != "" && state != "THAWED"
	}
	return false
}

// readCgroup reads a file of a cgroup, or nothing.
func readCgroup(controller, cgroup, name string) string {
	for _, m := range cgroupMounts() {
		if controller == "" && m.controllers != nil || controller != "" && !slices.Contains(m.controllers, controller) {
			continue
		}
		if !below(cgroup, m.root) {
			continue
		}
		text, err := os.ReadFile(m.point + "/" + strings.TrimPrefix(cgroup, m.root) + "/" + name)
		if err == nil {
			return string(text)
		}
	}
	return ""
}
