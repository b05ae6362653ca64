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

func TestAContainerIsFoundWhileItsEngineHangsOrIsDead(t *testing.T) {
	for name, fail := range map[string]func(*testing.T, *rig.Dockerd){"hangs": halt, "is dead": kill} {
		t.Run(name, func(t *testing.T) {
			d := rig.NewDocker(t)
			c := d.Run(t, "web-1", "--label", "team=web")
			d.Run(t, "paused")
			d.CLI(t, "pause", "paused")
			fail(t, d)
			for _, login := range []string{"web-1", c.ID, c.ID[:12], "docker:web-1", fmt.Sprintf("pid:%d", c.PID)} {
				isTarget(t, d, login, c)
			}
			if _, err := on(t, d, "paused"); err == nil || err.Error() != "router: container paused is paused" {
				t.Errorf("paused: got %v", err)
			}
			if _, err := on(t, d, "nothing"); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("nothing: got %v", err)
			}
		})
	}
}

// halt stops a dockerd until the test is over: what takes its containers away
// asks it.
func halt(t *testing.T, d *rig.Dockerd) {
	t.Helper()
	if err := syscall.Kill(d.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(d.PID(), syscall.SIGCONT) })
}

func kill(t *testing.T, d *rig.Dockerd) {
	t.Helper()
	if err := syscall.Kill(d.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// The engine has to have written its state before it answers a request.
func TestTheNextLookFollowsTheEngine(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--label", "team=web")
	t.Cleanup(func() { d.CLI(t, "rm", "--force", "other") })
	docker := NewDocker("/nonexistent/docker.sock", d.Root)
	want := func(login, closed string) {
		t.Helper()
		for range 2 { // the second is from memory
			found, err := docker.Find(t.Context(), login)
			if err != nil || len(found) != 1 || found[0].ID != c.ID || found[0].Closed != closed {
				t.Errorf("%s: got %+v, %v", login, found, err)
			}
		}
	}
	none := func(login string) {
		t.Helper()
		if found, err := docker.Find(t.Context(), login); len(found) != 0 || err == nil {
			t.Errorf("%s: got %+v, %v", login, found, err)
		}
	}
	all := func(closed string) {
		t.Helper()
		for _, login := range []string{"web-1", c.ID, c.ID[:12]} {
			want(login, closed)
		}
	}
	all("")
	d.CLI(t, "pause", "web-1")
	all("is paused")
	d.CLI(t, "unpause", "web-1")
	all("")
	d.CLI(t, "rename", "web-1", "web-2")
	want("web-2", "")
	none("web-1")
	d.CLI(t, "rename", "web-2", "web-1")
	all("")
	d.CLI(t, "stop", "web-1")
	all("is not running")
	d.CLI(t, "start", "web-1")
	all("")
	if found, _ := docker.Find(t.Context(), "web-1"); found[0].PID != d.PIDOf(t, "web-1") {
		t.Errorf("after a restart: got %+v", found)
	}
	d.CLI(t, "rm", "--force", "web-1")
	none("web-1")
	none(c.ID)
	if n := len(docker.state.Load().files.Load().byID); n != len(stateDirs(t, d)) {
		t.Errorf("%d containers are remembered", n)
	}
}

func stateDirs(t *testing.T, d *rig.Dockerd) []os.DirEntry {
	t.Helper()
	dirs, err := os.ReadDir(d.Root + "/containers")
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func TestTheEngineTellsWhereItsStateIs(t *testing.T) {
	d := rig.NewDocker(t)
	c := d.Run(t, "web-1")
	docker := NewDocker(d.Socket, "")
	if err := docker.Offline(t.Context()); err != nil {
		t.Fatal(err)
	}
	halt(t, d)
	if target, err := resolve(t, "web-1", docker); err != nil || target.PID != c.PID {
		t.Errorf("got %+v, %v", target, err)
	}
}

// After a crash of the host the files say what ran before it.
func TestAStaleFileLetsNobodyIntoAnotherProcess(t *testing.T) {
	d := rig.NewDocker(t)
	c := d.Run(t, "web-1")
	other := d.Run(t, "other")
	bare := rig.Bare(t)
	kill(t, d)
	path := d.Root + "/containers/" + c.ID + "/config.v2.json"
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, pid := range map[string]int{"another container": other.PID, "no known container": bare.PID, "the server": os.Getpid(), "the host": 1} {
		stale := strings.Replace(string(before), fmt.Sprintf(`"Pid":%d,`, c.PID), fmt.Sprintf(`"Pid":%d,`, pid), 1)
		if stale == string(before) {
			t.Fatalf("no PID in %s", before)
		}
		replace(t, path, stale)
		for _, login := range []string{"web-1", c.ID[:12]} {
			target, err := on(t, d, login)
			if err == nil || !strings.Contains(err.Error(), "is not in the cgroup of "+c.ID) {
				t.Errorf("%s, %s: got %+v, %v", name, login, target, err)
			}
		}
	}
	replace(t, path, strings.Replace(string(before), fmt.Sprintf(`"Pid":%d,`, c.PID), fmt.Sprintf(`"Pid":%d,`, maxPID), 1))
	if target, err := on(t, d, "web-1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no process: got %+v, %v", target, err)
	}
}
