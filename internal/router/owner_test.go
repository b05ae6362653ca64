package router

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

// nest moves processes into cgroups below one another, until the test ends.
func nest(t *testing.T, path string, pid int) {
	t.Helper()
	tree := "/sys/fs/cgroup/pids"
	if _, err := os.Stat(tree); err != nil {
		tree = "/sys/fs/cgroup"
	}
	dir := filepath.Join(tree, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(dir string) error {
		return os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0)
	}
	if err := put(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		put(tree)
		for ; dir != tree; dir = filepath.Dir(dir) {
			os.Remove(dir)
		}
	})
}

func listing(runtime, id string, c rig.Container) book {
	return book{name: runtime, found: []Found{{ID: id, Name: id, PID: c.PID}}}
}

func leadsTo(t *testing.T, login, runtime, id string, runtimes ...Runtime) {
	t.Helper()
	target, err := resolveBy(t, &Table{Runtimes: append(runtimes, PID{})}, login)
	if err != nil || target.Runtime != runtime || target.ID != id {
		t.Errorf("%s: got %+v, %v; want %s:%s", login, target, err, runtime, id)
	}
}

func TestAProcessIsInTheOutermostContainerThatTheKernelHasItIn(t *testing.T) {
	outer, inner, other := rig.Bare(t), rig.Bare(t), rig.Bare(t)
	top := fmt.Sprintf("/rig-%d", os.Getpid())
	nest(t, top+"/payload", outer.PID)
	nest(t, top+"/payload/nested/"+fullID("aaaa"), inner.PID)
	login := fmt.Sprint("pid:", inner.PID)

	lxc, nspawn := listing("lxc", "web", outer), listing("nspawn", "box", inner)
	leadsTo(t, login, "lxc", "web", lxc, nspawn)
	leadsTo(t, login, "lxc", "web", nspawn, lxc)
	leadsTo(t, login, "nspawn", "box", nspawn)

	// It has called a cgroup of its own by the ID of somebody else.
	docker := book{name: "docker", found: []Found{{ID: fullID("aaaa"), Name: "victim", PID: other.PID}}}
	leadsTo(t, login, "lxc", "web", docker, lxc)
	// Nor is another container's hung runtime in the way.
	leadsTo(t, login, "lxc", "web", book{name: "docker", err: errors.New("down")}, lxc)
	leadsTo(t, fmt.Sprint("pid:", outer.PID), "lxc", "web", docker, lxc)
}

func TestACgroupInCommonWithTheHostTellsNothing(t *testing.T) {
	// Both in the cgroup of this test.
	a, b := rig.Bare(t), rig.Bare(t)
	leadsTo(t, fmt.Sprint("pid:", b.PID), "pid", strconv.Itoa(b.PID), listing("nspawn", "a", a))
	leadsTo(t, fmt.Sprint("pid:", a.PID), "nspawn", "a", listing("nspawn", "a", a))
}

func TestAProcessIsInTheContainerWhoseMountsOrPIDNamespaceItHas(t *testing.T) {
	c := rig.Bare(t)
	lxc := listing("lxc", "web", c)
	nsenter := inside(t, c.PID, "--mount", "/bin/busybox", "cat")
	leadsTo(t, fmt.Sprint("pid:", nsenter), "lxc", "web", lxc)
	// In mounts and a PID namespace of its own, below the container's.
	deep := inside(t, c.PID, "--mount", "--pid", "/bin/busybox", "unshare", "-f", "/bin/busybox", "unshare", "-m", "-p", "-f", "/bin/busybox", "cat")
	leadsTo(t, fmt.Sprint("pid:", onlyChild(t, onlyChild(t, deep))), "lxc", "web", lxc)
}

func TestAStaleContainerOwnsNoProcess(t *testing.T) {
	c := rig.Bare(t)
	stale := listing("lxc", "web", c)
	stale.lies = errors.New("is somebody else's")
	leadsTo(t, fmt.Sprint("pid:", c.PID), "pid", strconv.Itoa(c.PID), stale)
	started := listing("lxc", "web", c)
	started.found[0].Start = 1
	leadsTo(t, fmt.Sprint("pid:", c.PID), "pid", strconv.Itoa(c.PID), started)
	// Nor does it take another runtime's container for its own.
	leadsTo(t, "runc:box", "runc", "box", stale, listing("runc", "box", c))
}

func TestOneInitIsOneContainerOfTheFirstRuntimeThatKnowsIt(t *testing.T) {
	c := rig.Bare(t)
	incus, lxc := listing("incus", "web", c), listing("lxc", "default_web", c)
	for _, login := range []string{"web", "incus:web", "lxc:default_web", "default_web", fmt.Sprint("pid:", c.PID)} {
		leadsTo(t, login, "incus", "web", incus, lxc)
	}
}

func TestABareContainerThatIsPausedSaysSo(t *testing.T) {
	c := rig.Bare(t)
	for _, freeze := range freezers(t, c) {
		freeze(true)
		_, err := resolveBy(t, &Table{Runtimes: []Runtime{listing("lxc", "web", c), PID{}}}, "web")
		if err == nil || err.Error() != "router: container web is paused" {
			t.Errorf("got %v", err)
		}
		_, err = resolve(t, fmt.Sprint("pid:", c.PID), PID{})
		if err == nil || err.Error() != fmt.Sprintf("router: process %d is paused", c.PID) {
			t.Errorf("got %v", err)
		}
		freeze(false)
		leadsTo(t, "web", "lxc", "web", listing("lxc", "web", c))
	}
}

// freezers freeze a container by each hierarchy that can.
func freezers(t *testing.T, c rig.Container) (all []func(bool)) {
	t.Helper()
	name := fmt.Sprintf("/rig-freeze-%d", os.Getpid())
	for tree, words := range map[string][3]string{
		"/sys/fs/cgroup/freezer": {"freezer.state", "FROZEN", "THAWED"},
		"/sys/fs/cgroup/unified": {"cgroup.freeze", "1", "0"},
		"/sys/fs/cgroup":         {"cgroup.freeze", "1", "0"},
	} {
		_, old := os.Stat(tree + "/release_agent")
		_, new := os.Stat(tree + "/cgroup.subtree_control")
		if old != nil && new != nil {
			continue
		}
		if err := os.Mkdir(tree+name, 0o755); err != nil {
			t.Fatal(err)
		}
		pid := []byte(strconv.Itoa(c.PID))
		if err := os.WriteFile(tree+name+"/cgroup.procs", pid, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.WriteFile(tree+"/cgroup.procs", pid, 0); os.Remove(tree + name) })
		all = append(all, func(on bool) {
			word := words[2]
			if on {
				word = words[1]
			}
			if err := os.WriteFile(tree+name+"/"+words[0], []byte(word), 0); err != nil {
				t.Fatal(err)
			}
			for t.Context().Err() == nil && paused(c.PID) != on {
			}
		})
	}
	if len(all) == 0 {
		t.Fatal("nothing freezes here", strings.TrimSpace(name))
	}
	return all
}
