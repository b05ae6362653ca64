package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

func TestEveryNameOfAContainerLeadsIntoIt(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--hostname", "inside-web-1")
	h := serving(t, d)
	sleeper := processIn(t, d, c)
	for _, login := range []string{
		"web-1", c.ID[:8], c.ID,
		"docker:web-1", "docker:" + c.ID[:8],
		fmt.Sprintf("pid:%d", c.PID), fmt.Sprintf("pid:%d", sleeper),
	} {
		h.run(t, "alice", login, "hostname").is(t, result{stdout: "inside-web-1\n"})
		r := h.last(t, audit.SessionOpen)
		got := *r.Target
		if !strings.HasPrefix(got.Digest, "sha256:") || got.Source != d.Root+"/containers/"+c.ID+"/config.v2.json" || got.Started == 0 {
			t.Errorf("%s: recorded with digest %q, source %q, started %d", login, got.Digest, got.Source, got.Started)
		}
		if inode := namespaceOf(t, c.PID, "mnt"); got.Namespaces.Mnt != inode || got.Namespaces.Cgroup == 0 {
			t.Errorf("%s: recorded with namespaces %+v, but the mount namespace is %d", login, got.Namespaces, inode)
		}
		got.Digest, got.Source, got.Started, got.Namespaces = "", "", 0, audit.Namespaces{}
		want := audit.Target{Runtime: "docker", ID: c.ID, Name: "web-1", Image: rig.Busybox, PID: c.PID}
		if r.Login != login || got != want {
			t.Errorf("%s: recorded as %s to %+v, want %+v", login, r.Login, *r.Target, want)
		}
	}
}

func namespaceOf(t *testing.T, pid int, kind string) uint64 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// processIn starts one more process in a container and returns the host's
// number for it.
func processIn(t *testing.T, d *rig.Dockerd, c rig.Container) int {
	t.Helper()
	d.CLI(t, "exec", "--detach", c.Name, "/bin/busybox", "sleep", "987654")
	var pid int
	eventually(t, "a process in the container", func() bool {
		for line := range strings.Lines(d.CLI(t, "top", c.Name, "-o", "pid,args")) {
			if strings.Contains(line, "987654") {
				pid, _ = strconv.Atoi(strings.Fields(line)[0])
			}
		}
		return pid != 0
	})
	return pid
}

func TestAContainerWithoutARuntimeIsEnteredByPID(t *testing.T) {
	c := rig.Bare(t)
	h := serving(t, nil)
	h.run(t, "alice", fmt.Sprintf("pid:%d", c.PID), "ls /bin && tcpdump --version 2>&1 | head -1 | cut -c-7").
		is(t, result{stdout: "busybox\ntcpdump\n"})
}

func TestPodsAndContainersOfContainerdsAreEnteredByTheirNames(t *testing.T) {
	c := rig.NewContainerd(t)
	box := c.Run(t, "default", "web-box")
	pod := c.Pod(t, "web-shop", "web-0", "nginx")
	h := newHost(t, nil)
	h.edit(t, "runtimes: {", fmt.Sprintf("runtimes: {cri: {containerd: %q}, containerd: {root: %[1]q}, runc: {roots: [%q]}, ", c.State, c.Runc+"/*"))
	h.start(t)
	syscall.Kill(c.PID(), syscall.SIGKILL)
	for _, want := range []struct {
		c       rig.Container
		runtime string
		logins  []string
	}{
		{box, "containerd", []string{"web-box", "default/web-box", "runc:web-box", pidOf(box)}},
		{pod[1], "cri", []string{"web-shop/web-0", "cri:web-shop/web-0/nginx", pod[1].ID[:12], "containerd:" + pod[1].ID, "runc:" + pod[1].ID, pidOf(pod[1])}},
	} {
		for _, login := range want.logins {
			h.run(t, "alice", login, "cat /proc/1/cmdline | tr '\\0' ' '; ls -d /dev/crashcart; exit 3").is(t, result{stdout: "/bin/busybox sleep 1000000 /dev/crashcart\n", code: 3})
			got := h.last(t, audit.SessionOpen).Target
			if got.Runtime != want.runtime || got.ID != want.c.ID || got.PID != want.c.PID || !strings.HasPrefix(got.Source, c.State+"/") {
				t.Errorf("%s: recorded as %+v", login, got)
			}
		}
	}
}

func pidOf(c rig.Container) string { return fmt.Sprintf("pid:%d", c.PID) }

func TestInAUserNamespaceTheSessionIsRootAndOwnsTheTools(t *testing.T) {
	c := rig.Userns(t)
	h := serving(t, nil)
	h.run(t, "alice", fmt.Sprintf("pid:%d", c.PID), "id -u; stat -c %u:%g /dev/crashcart/bin/bash; cat /proc/self/uid_map | tr -s ' '").
		is(t, result{stdout: fmt.Sprintf("0\n0:0\n 0 %d 65536\n", rig.SubID)})
}
