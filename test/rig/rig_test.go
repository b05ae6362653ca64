package rig

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

func TestMain(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

func TestDockerRunsContainersOfEveryShape(t *testing.T) {
	d := Docker(t)
	for name, flags := range map[string][]string{
		"plain":      nil,
		"narrow":     {"--read-only", "--user", "1000", "--cap-drop", "ALL"},
		"privileged": {"--privileged"},
		"host":       {"--pid", "host", "--network", "host", "--ipc", "host"},
		"labelled":   {"--label", "team=web", "--", "httpd", "-f", "-h", "/var/www"},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.Run(t, name, flags...)
			if len(c.ID) != 64 || startTime(c.PID) == "" {
				t.Errorf("got %+v", c)
			}
		})
	}
	t.Run("nothing but one static binary", func(t *testing.T) {
		c := d.RunImage(t, Static, "static")
		if entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/root/bin", c.PID)); len(entries) != 1 {
			t.Errorf("/bin holds %v", entries)
		}
	})
}

func TestAPrivilegedContainerCanBeExecedInto(t *testing.T) {
	d := Docker(t)
	d.Run(t, "privileged", "--privileged")
	if got := d.CLI(t, "exec", "privileged", "/bin/busybox", "echo", "here"); got != "here" {
		t.Errorf("got %q", got)
	}
}

func TestStopEndsAContainerAtOnce(t *testing.T) {
	d := Docker(t)
	c := d.Run(t, "stopped")
	d.Stop(t, "stopped")
	if startTime(c.PID) != "" || d.PIDOf(t, "stopped") != 0 {
		t.Errorf("%+v still runs", c)
	}
}

func TestAKilledDockerdLeavesNothing(t *testing.T) {
	var dir string
	var c Container
	t.Run("killed", func(t *testing.T) {
		d := NewDocker(t)
		dir = d.dir
		c = d.Run(t, "orphan")
		syscall.Kill(d.PID(), syscall.SIGKILL)
	})
	if left := processesOf(dir); left != nil {
		t.Errorf("processes %v", left)
	}
	if startTime(c.PID) != "" {
		t.Errorf("container %+v", c)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("directory %s", dir)
	}
}

func TestBareIsAContainerWithoutARuntime(t *testing.T) {
	c := Bare(t)
	for _, kind := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		if namespace(c.PID, kind) == namespace(os.Getpid(), kind) {
			t.Errorf("shares the host's %s namespace", kind)
		}
	}
	mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.PID))
	if n := strings.Count(string(mounts), "\n"); n != 3 {
		t.Errorf("%d mounts, want /, /proc and /dev:\n%s", n, mounts)
	}
}

func TestUsernsIsRootInsideOnly(t *testing.T) {
	c := Userns(t)
	if namespace(c.PID, "user") == namespace(os.Getpid(), "user") {
		t.Error("shares the host's user namespace")
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID))
	if want := fmt.Sprintf("Uid:\t%d\t", SubID); !strings.Contains(string(status), want) {
		t.Errorf("no %q in\n%s", want, status)
	}
}

func TestResidueSeesWhatIsLeftInAContainer(t *testing.T) {
	need.Tool(t, "nsenter", "util-linux")
	c := Bare(t)
	before := Residue(t, c.PID)
	enter := func(argv ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--target", fmt.Sprint(c.PID), "--mount", "--pid", "--", "/bin/busybox"}, argv...)...)
	}

	for _, argv := range [][]string{{"mkdir", "/dev/left"}, {"mount", "-t", "tmpfs", "left", "/tmp"}} {
		if out, err := enter(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sleeper := enter("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	defer sleeper.Process.Kill()

	for _, want := range []string{"+ container mount", "+ container /dev/left", "+ container process"} {
		if err := await(patience, func() bool { return strings.Contains(strings.Join(before.Diff(), "\n"), want) }); err != nil {
			t.Errorf("no %q in %q", want, before.Diff())
		}
	}
}

func TestResidueOfAnUntouchedContainerIsNone(t *testing.T) {
	c := Bare(t)
	Residue(t, c.PID).Same(t)
}

func namespace(pid int, kind string) string {
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return space
}
