package nsexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/mountinfo"
)

// Limits of a session are its cgroup's own where the controllers are in the
// cgroup v2 tree. On a host of v1, or a hybrid one, each controller has a tree
// of its own, and the session a cgroup in those whose limits it has.

// limited are the controllers that sessions may have limits of.
var limited = []struct {
	controller, v1, v2 string
	value              func(Profile) int64 // 0: none
}{
	{"memory", "memory.limit_in_bytes", "memory.max", func(p Profile) int64 { return p.Memory }},
	{"pids", "pids.max", "pids.max", func(p Profile) int64 {
		if p.Processes == 0 {
			return 0
		}
		return int64(p.Processes) + 2 // the init; and the first process, until settle
	}},
}

// settle takes back the place of the first process, some time after that has
// ended: it is counted until the kernel has put all of it away.
func (g *cgroup) settle(p Profile) {
	if p.Processes == 0 {
		return
	}
	exact := strconv.Itoa(p.Processes + 1)
	time.AfterFunc(200*time.Millisecond, func() { // nobody waits for it; a session that has ended by then has no such file
		if t := g.tree.limits["pids"]; t != nil {
			_ = writeTo(rawFD(t.dir), g.name+"/pids.max", exact)
			return
		}
		_ = writeTo(rawFD(g.dir), "pids.max", exact)
	})
}

// outOfMemory tells whether the kernel has killed a process of the session's for
// its limit of memory.
func (g *cgroup) outOfMemory() bool {
	dir, file := rawFD(g.dir), "memory.events"
	if t := g.tree.limits["memory"]; t != nil {
		dir, file = rawFD(t.dir), g.name+"/memory.oom_control"
	}
	text, err := readSmall(dir, file)
	if err != nil {
		return false // it has no limit
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// limit gives the cgroup the limits of a profile. It returns the cgroup.procs
// files of the cgroups that the session has to join for it.
func (g *cgroup) limit(p Profile) (joins []string, err error) {
	for _, l := range limited {
		value := l.value(p)
		if value == 0 {
			continue
		}
		if t := g.tree.limits[l.controller]; t != nil {
			join, err := g.limitV1(t, l.v1, value)
			if err != nil {
				return nil, err
			}
			joins = append(joins, join)
			continue
		}
		if err := g.limitV2(l.controller, l.v2, value); err != nil {
			return nil, err
		}
	}
	return joins, nil
}

func (g *cgroup) limitV1(t *limitTree, file string, value int64) (join string, err error) {
	if err := unix.Mkdirat(rawFD(t.dir), g.name, 0o755); err != nil {
		return "", &JoinError{Step: "make cgroup " + g.name, Err: err}
	}
	g.limits = append(g.limits, t)
	path := filepath.Join(t.dir.Name(), g.name)
	return path + "/cgroup.procs", writeTo(unix.AT_FDCWD, filepath.Join(path, file), strconv.FormatInt(value, 10))
}

// limitV2 needs the controller in the cgroups above. The kernel does not let one
// have it that has processes of its own, the root excepted.
func (g *cgroup) limitV2(controller, file string, value int64) error {
	for _, above := range []string{g.tree.top, g.tree.path} {
		if err := writeTo(unix.AT_FDCWD, above+"/cgroup.subtree_control", "+"+controller); err != nil {
			return fmt.Errorf("%w: no limit of %s can be set below the cgroup of the daemon (in its systemd unit, try: Delegate=%s and DelegateSubgroup=daemon)", err, controller, controller)
		}
	}
	return writeTo(rawFD(g.dir), file, strconv.FormatInt(value, 10))
}

// limitTree is our cgroup in one of v1's trees, with one below it for each
// session that has a limit.
type limitTree struct{ dir, parent *os.File }

// newLimitTrees makes one for each controller that is v1's here.
func newLimitTrees(name string) (map[string]*limitTree, error) {
	trees := map[string]*limitTree{}
	for _, l := range limited {
		top, err := v1Cgroup("self", l.controller)
		if errors.Is(err, errNotV1) {
			continue
		}
		if err != nil {
			return trees, err
		}
		if err := os.Mkdir(filepath.Join(top, name), 0o755); err != nil {
			return trees, fmt.Errorf("nsexec: make a cgroup: %w", err)
		}
		t := &limitTree{}
		trees[l.controller] = t
		if t.dir, err = os.Open(filepath.Join(top, name)); err != nil {
			return trees, err
		}
		if t.parent, err = openPath(top); err != nil {
			return trees, err
		}
	}
	return trees, nil
}

// targetCgroups returns the cgroup.procs files that put a process under the
// container's limits, of v1's trees. The freezer is not among them: who is frozen
// cannot be killed there.
func targetCgroups(pid int) (joins []string, err error) {
	for _, controller := range []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"} {
		theirs, err := v1Cgroup(strconv.Itoa(pid), controller)
		if errors.Is(err, errNotV1) {
			continue
		}
		if err != nil {
			return nil, gone(err)
		}
		if join := theirs + "/cgroup.procs"; !slices.Contains(joins, join) {
			joins = append(joins, join)
		}
	}
	return joins, nil
}

var errNotV1 = errors.New("nsexec: not a controller of cgroup v1")

// v1Cgroup is a process's directory in the tree of a controller.
func v1Cgroup(pid, controller string) (string, error) {
	mount, ok := v1Mounts()[controller]
	if !ok {
		return "", errNotV1
	}
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), controller) {
			return filepath.Join(mount, fields[2]), nil
		}
	}
	return "", errNotV1
}

// v1Mounts are the mount points of v1's trees, by the controllers that they have.
var v1Mounts = sync.OnceValue(func() map[string]string {
	points := map[string]string{}
	mounts, _ := mountinfo.Of(os.Getpid())
	for _, m := range mounts {
		if m.Type != "cgroup" {
			continue
		}
		for _, controller := range m.Super {
			if points[controller] == "" {
				points[controller] = m.Point
			}
		}
	}
	return points
})
