package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
	"golang.org/x/sys/unix"
)

// Lxc is an lxcpath of a test's own.
type Lxc struct {
	Path string

	dir string
}

// LXC makes an empty one.
func LXC(t testing.TB) *Lxc {
	t.Helper()
	need.Root(t)
	for _, tool := range []string{"lxc-start", "lxc-stop", "lxc-info"} {
		need.Tool(t, tool, "lxc")
	}
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lxc{Path: dir + "/lxc", dir: dir}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.RemoveAll("/run/lxc/lock" + dir)
		removeCgroups("lxc.*.*", "lxc.pivot")
	})
	if err := os.Mkdir(l.Path, 0o711); err != nil {
		t.Fatal(err)
	}
	return l
}

// Unprivileged are the lines of a configuration in which root inside is SubID
// outside.
var Unprivileged = []string{fmt.Sprintf("lxc.idmap = u 0 %d 65536", SubID), fmt.Sprintf("lxc.idmap = g 0 %d 65536", SubID)}

// Define makes a container that sleeps, and does not start it.
func (l *Lxc) Define(t testing.TB, name string, lines ...string) {
	t.Helper()
	dir, owner := l.Path+"/"+name, 0
	if strings.Contains(strings.Join(lines, "\n"), "lxc.idmap") {
		owner = SubID
	}
	if err := writeRoot(dir+"/rootfs", busybox(t), owner); err != nil {
		t.Fatal(err)
	}
	config := append([]string{
		"lxc.rootfs.path = dir:" + dir + "/rootfs",
		"lxc.uts.name = " + name,
		"lxc.net.0.type = empty",
		"lxc.init.cmd = " + strings.Join(forever, " "),
		"lxc.mount.auto = proc:mixed sys:ro",
		"lxc.autodev = 1",
		"lxc.apparmor.profile = unconfined",
	}, lines...)
	if err := os.WriteFile(dir+"/config", []byte(strings.Join(config, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Run defines a container and starts it.
func (l *Lxc) Run(t testing.TB, name string, lines ...string) Container {
	t.Helper()
	l.Define(t, name, lines...)
	t.Cleanup(func() { l.kill(name) })
	if _, err := l.lxc("start", name, "--daemon", "-o", l.Path+"/"+name+"/log"); err != nil {
		log, _ := os.ReadFile(l.Path + "/" + name + "/log")
		t.Fatalf("%v\n%s", err, log)
	}
	c := Container{Name: name, PID: l.pid(name)}
	if c.PID == 0 {
		t.Fatalf("rig: %s has no process", name)
	}
	return c
}

// Monitor returns the PID of a container's monitor.
func (l *Lxc) Monitor(t testing.TB, name string) int {
	t.Helper()
	parent := parentOf(l.pid(name))
	if parent <= 1 {
		t.Fatalf("rig: %s has no monitor", name)
	}
	return parent
}

// Freeze and Unfreeze stop and continue all of a container.
func (l *Lxc) Freeze(t testing.TB, name string)   { l.must(t, "freeze", name) }
func (l *Lxc) Unfreeze(t testing.TB, name string) { l.must(t, "unfreeze", name) }

// Stop kills a container.
func (l *Lxc) Stop(t testing.TB, name string) { l.must(t, "stop", name, "--kill") }

func (l *Lxc) must(t testing.TB, command, name string, args ...string) {
	t.Helper()
	if _, err := l.lxc(command, name, args...); err != nil {
		t.Fatal(err)
	}
}

func (l *Lxc) lxc(command, name string, args ...string) (string, error) {
	return output(append([]string{"lxc-" + command, "-P", l.Path, "-n", name}, args...)...)
}

func (l *Lxc) pid(name string) int {
	out, _ := l.lxc("info", name, "--pid", "--no-humanize")
	pid, _ := strconv.Atoi(out)
	return pid
}

// kill ends a container whatever a test has done to its monitor.
func (l *Lxc) kill(name string) {
	for _, pid := range processes() {
		if startTime(pid) != "" && sameFile(fmt.Sprintf("/proc/%d/root", pid), l.Path+"/"+name+"/rootfs") {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	await(patience, func() bool {
		left := processesOf(l.dir)
		for _, pid := range left {
			unix.Kill(pid, unix.SIGCONT)
		}
		return len(left) == 0
	})
}

func parentOf(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			parent, _ := strconv.Atoi(strings.TrimSpace(value))
			return parent
		}
	}
	return 0
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// removeCgroups removes empty cgroups at the top of every hierarchy: what has
// left them may have been killed before it could.
func removeCgroups(patterns ...string) {
	for _, pattern := range patterns {
		for _, tree := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			dirs, _ := filepath.Glob(tree + pattern)
			for _, dir := range dirs {
				unix.Rmdir(dir)
			}
		}
	}
}
