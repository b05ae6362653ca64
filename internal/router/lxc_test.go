package router

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

// isFound fails unless a login leads to that very container of a runtime.
func isFound(t *testing.T, r Runtime, login string, c rig.Container) *Target {
	t.Helper()
	target, err := resolveBy(t, &Table{Runtimes: []Runtime{r}}, login)
	if err != nil {
		t.Fatalf("%s: %v", login, err)
	}
	if target.Runtime != r.Name() || target.Name != c.Name || target.PID != c.PID || target.ID == "" || target.Source == "" || target.Started == 0 {
		t.Errorf("%s: got %+v, want %+v", login, target, c)
	}
	return target
}

// isNot fails unless a login leads nowhere, for that reason.
func isNot(t *testing.T, r Runtime, login, why string) {
	t.Helper()
	target, err := resolveBy(t, &Table{Runtimes: []Runtime{r}}, login)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: got %+v, %v; want %s", login, target, err, why)
	}
}

// lists returns the names of what a runtime lists.
func lists(t *testing.T, r Runtime) string {
	t.Helper()
	found, err := r.List(t.Context())
	if err != nil {
		t.Errorf("%s: %v", r.Name(), err)
	}
	var names []string
	for _, f := range found {
		if f.PID == 0 || f.Source == "" {
			t.Errorf("%s lists %+v", r.Name(), f)
		}
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

func TestALXCContainerIsFoundByItsName(t *testing.T) {
	for shape, lines := range map[string][]string{"privileged": nil, "unprivileged": rig.Unprivileged} {
		t.Run(shape, func(t *testing.T) {
			l := rig.LXC(t)
			c := l.Run(t, "web-1", lines...)
			l.Define(t, "web-2")
			lxc := NewLXC(l.Path + "/")
			for _, login := range []string{"web-1", "lxc:web-1"} {
				if target := isFound(t, lxc, login, c); target.ID != l.Path+"/web-1" {
					t.Errorf("got %+v", target)
				}
			}
			isNot(t, lxc, "web-2", "router: container web-2 is not running")
			isNot(t, lxc, "web-3", "no such container")
			isNot(t, lxc, "web-", "no such container")
			if names := lists(t, lxc); names != "web-1" {
				t.Errorf("lists %q", names)
			}
			l.Stop(t, "web-1")
			isNot(t, lxc, "web-1", "router: container web-1 is not running")
		})
	}
}

// Were the monitor dead, so would be the container: it dies with it.
func TestALXCContainerIsFoundWhileItsMonitorHangs(t *testing.T) {
	l := rig.LXC(t)
	c := l.Run(t, "web-1", rig.Unprivileged...)
	if err := syscall.Kill(l.Monitor(t, "web-1"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	isFound(t, NewLXC(l.Path), "web-1", c)
}

func TestAFrozenLXCContainerIsFound(t *testing.T) {
	l := rig.LXC(t)
	c := l.Run(t, "web-1")
	l.Freeze(t, "web-1")
	defer l.Unfreeze(t, "web-1")
	found, err := NewLXC(l.Path).Find(t.Context(), "web-1")
	if err != nil || len(found) != 1 || found[0].PID != c.PID {
		t.Errorf("got %+v, %v", found, err)
	}
}

func TestTwoLXCContainersOfOneNameAreToldApart(t *testing.T) {
	here, there := rig.LXC(t), rig.LXC(t)
	first, second := here.Run(t, "web-1"), there.Run(t, "web-1")
	isFound(t, NewLXC(here.Path), "web-1", first)
	isFound(t, NewLXC(there.Path), "web-1", second)
}

func TestAnLXCPathThatOthersMayWriteToIsNotBelieved(t *testing.T) {
	l := rig.LXC(t)
	l.Run(t, "web-1")
	os.Chmod(l.Path, 0o777)
	isNot(t, NewLXC(l.Path), "web-1", "others may write to it")
}

func TestARuntimeThatIsNotOnTheHostFindsNothingAndSaysNothing(t *testing.T) {
	for _, r := range []Runtime{
		NewLXC("/nonexistent"), NewIncus("/nonexistent", "/nonexistent/2"), NewNspawn("/nonexistent"), NewRkt("/nonexistent"),
		NewPodman("/nonexistent/sock", "/nonexistent", "/nonexistent", "/nonexistent"),
	} {
		for _, id := range []string{"web-1", "4711", fullID("aaaa"), "root/web-1"} {
			if found, err := r.Find(t.Context(), id); len(found) != 0 || err != nil {
				t.Errorf("%s, %s: got %+v, %v", r.Name(), id, found, err)
			}
		}
		if found, err := r.List(t.Context()); len(found) != 0 || err != nil {
			t.Errorf("%s lists %+v, %v", r.Name(), found, err)
		}
	}
}

func TestNoRuntimeIsAskedForWhatIsNoName(t *testing.T) {
	l := rig.LXC(t)
	for _, r := range []Runtime{NewLXC(l.Path), NewIncus(l.Path), NewNspawn("/run/systemd"), NewRkt(l.Path), NewPodman("/nonexistent/sock", l.Path, l.Path, l.Path)} {
		for _, name := range badNames {
			if found, err := r.Find(t.Context(), name); len(found) != 0 || err != nil {
				t.Errorf("%s, %q: got %+v, %v", r.Name(), name, found, err)
			}
		}
	}
}

// What a container's own root, or a user of the host, can start is no
// container of root's, whatever it is called.
func TestOnlyWhatRootHasStartedOnTheHostIsASupervisor(t *testing.T) {
	bare := rig.Bare(t)
	l := rig.LXC(t)
	l.Define(t, "web-1")
	lxc := NewLXC(l.Path)
	for name, pid := range map[string]int{"ours": os.Getpid(), "init": 1, "bare": bare.PID} {
		if err := lxc.Verify(Found{ID: l.Path + "/web-1", Name: "web-1", PID: pid}); err == nil {
			t.Errorf("%s is taken for web-1", name)
		}
	}
	if parent, err := supervisorOf(bare.PID); err != nil || parent != os.Getpid() {
		t.Errorf("bare: got %d, %v", parent, err)
	}
	nested := inside(t, bare.PID, "--mount", "--pid", "/bin/busybox", "unshare", "-f", "/bin/busybox", "unshare", "-p", "-f", "/bin/busybox", "cat")
	if _, err := supervisorOf(onlyChild(t, onlyChild(t, nested))); err == nil {
		t.Error("one in a container has a supervisor")
	}
	users := userNamespaceOf(t, 12345)
	if _, err := supervisorOf(users); err == nil || !strings.Contains(err.Error(), "user namespace of uid 12345") {
		t.Errorf("a user's: got %v", err)
	}
}

func TestCgroupsOfLXC(t *testing.T) {
	for path, want := range map[string]string{
		"/": "", "/lxc.payload.web-1": "web-1", "/lxc.payload.web-1/init.scope": "web-1", "/lxc/web-1": "web-1",
		"/lxc.payload.a/lxc.payload.b": "a", "/lxc.monitor.web-1": "", "/docker/" + fullID("aaaa") + "/lxc.payload.x": "",
		"/user.slice/user-1000.slice/lxc.payload.x": "", "/system.slice/lxc.payload.x": "x",
	} {
		if got := payloadGroup([]string{"/", path}); got != want {
			t.Errorf("%s: got %q", path, got)
		}
	}
	for group, want := range map[string]bool{"web-1": true, "web-12": true, "web": false, "web-": false, "web-x": false, "other-1": false} {
		if numbered(group, "web") != want {
			t.Errorf("%s: %v", group, !want)
		}
	}
}

func TestAMonitorIsBelievedOnlyWhereTheCgroupAgrees(t *testing.T) {
	l := rig.LXC(t)
	c := l.Run(t, "web-1")
	l.Define(t, "web-2")
	lxc := NewLXC(l.Path)
	err := lxc.Verify(Found{ID: l.Path + "/web-2", Name: "web-2", PID: c.PID})
	if err == nil || err.Error() != fmt.Sprintf(`process %d is in the container "web-1", not %s/web-2`, c.PID, l.Path) {
		t.Errorf("got %v", err)
	}
	if _, err := resolveBy(t, &Table{Runtimes: []Runtime{lxc}}, "pid:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
