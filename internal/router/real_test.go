package router

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Stop()
	os.Exit(code)
}

// on resolves by the real runtimes of a dockerd.
func on(t *testing.T, d *rig.Dockerd, login string) (*Target, error) {
	t.Helper()
	return resolveBy(t, &Table{Runtimes: []Runtime{NewDocker(d.Socket, d.Root), PID{}}}, login)
}

// isTarget fails unless the login leads to that very container.
func isTarget(t *testing.T, d *rig.Dockerd, login string, c rig.Container) {
	t.Helper()
	target, err := on(t, d, login)
	if err != nil {
		t.Errorf("%s: %v", login, err)
		return
	}
	if target.Runtime != "docker" || target.ID != c.ID || target.Name != c.Name || target.PID != c.PID ||
		target.Image != rig.Busybox || target.Labels["team"] != "web" || target.Started == 0 {
		t.Errorf("%s: got %+v, want %+v", login, target, c)
	}
}

func TestEverySpellingLeadsToTheSameContainer(t *testing.T) {
	d := rig.Docker(t)
	for shape, flags := range map[string][]string{
		"plain":       nil,
		"host pid":    {"--pid", "host"},
		"host cgroup": {"--cgroupns", "host"},
		"privileged":  {"--privileged"},
		"narrow":      {"--read-only", "--user", "1000", "--cap-drop", "ALL"},
	} {
		t.Run(shape, func(t *testing.T) {
			c := d.Run(t, "web-1", append(flags, "--label", "team=web")...)
			for _, login := range []string{"web-1", c.ID, c.ID[:12], c.ID[:4]} {
				isTarget(t, d, login, c)
				isTarget(t, d, "docker:"+login, c)
			}
			isTarget(t, d, fmt.Sprintf("pid:%d", c.PID), c)
			if !strings.HasPrefix(c.ID, strconv.Itoa(c.PID)) {
				isTarget(t, d, strconv.Itoa(c.PID), c)
			}
		})
	}
}

func TestANameIsMeantBeforeThePrefixOfAnotherID(t *testing.T) {
	d := rig.Docker(t)
	other := d.Run(t, "other", "--label", "team=web")
	named := d.Run(t, other.ID[:8], "--label", "team=web")
	isTarget(t, d, other.ID[:8], named)
	isTarget(t, d, other.ID[:9], other)
}

func TestAFullIDIsMeantBeforeAContainerThatIsNamedSo(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--label", "team=web")
	d.Run(t, c.ID)
	isTarget(t, d, c.ID, c)
	isTarget(t, d, fmt.Sprintf("pid:%d", c.PID), c)
}

// inside starts a process by nsenter in namespaces of a container, and
// returns its PID once its program runs. Its cgroup is ours.
func inside(t *testing.T, pid int, argv ...string) int {
	t.Helper()
	need.Tool(t, "nsenter", "util-linux")
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(pid), "--no-fork"}, argv...)...)
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Process.Kill(); cmd.Wait() })
	// cat runs when it gives back what it was given.
	io.WriteString(stdin, "x")
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestEveryProcessInsideIsTheContainer(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--privileged", "--label", "team=web")

	t.Run("of docker exec", func(t *testing.T) {
		d.CLI(t, "exec", "--detach", "web-1", "sleep", "54321")
		isTarget(t, d, fmt.Sprintf("pid:%d", processNamed(t, "sleep\x0054321")), c)
	})
	t.Run("in a mount and PID namespace of its own", func(t *testing.T) {
		d.CLI(t, "exec", "--detach", "web-1", "unshare", "-m", "-p", "-f", "sleep", "54322")
		isTarget(t, d, fmt.Sprintf("pid:%d", processNamed(t, "sleep\x0054322")), c)
	})
	t.Run("in a cgroup named like a container", func(t *testing.T) {
		forged := fullID("aaaa")
		d.CLI(t, "exec", "--detach", "web-1", "sh", "-c", "mkdir /sys/fs/cgroup/pids/"+forged+" && echo $$ >/sys/fs/cgroup/pids/"+forged+"/cgroup.procs; exec sleep 54323")
		isTarget(t, d, fmt.Sprintf("pid:%d", processNamed(t, "sleep\x0054323")), c)
	})
	t.Run("from outside, of its mount namespace", func(t *testing.T) {
		isTarget(t, d, fmt.Sprintf("pid:%d", inside(t, c.PID, "--mount", "/bin/busybox", "cat")), c)
	})
	t.Run("from outside, with a copy of its mount namespace", func(t *testing.T) {
		pid := inside(t, c.PID, "--mount", "--pid", "/bin/busybox", "unshare", "-m", "-f", "/bin/busybox", "cat")
		isTarget(t, d, fmt.Sprintf("pid:%d", onlyChild(t, pid)), c)
	})
}

func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// processNamed waits for a process by its command line.
func processNamed(t *testing.T, argv string) int {
	t.Helper()
	for t.Context().Err() == nil {
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range lines {
			line, _ := os.ReadFile(path)
			if strings.TrimSuffix(string(line), "\x00") == argv {
				pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
				return pid
			}
		}
	}
	t.Fatalf("no %q", argv)
	return 0
}

func TestAProcessInNoKnownContainerIsTheInitOfItsPIDNamespace(t *testing.T) {
	d := rig.Docker(t)
	for name, start := range map[string]func(testing.TB, ...string) rig.Container{"bare": rig.Bare, "userns": rig.Userns} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			within := inside(t, c.PID, "--mount", "--pid", "/bin/busybox", "unshare", "-f", "/bin/busybox", "cat")
			for _, pid := range []int{c.PID, onlyChild(t, within)} {
				target, err := on(t, d, fmt.Sprintf("pid:%d", pid))
				if err != nil {
					t.Fatal(err)
				}
				if target.Runtime != "pid" || target.PID != c.PID || target.ID != strconv.Itoa(c.PID) {
					t.Errorf("got %+v, want %+v", target, c)
				}
			}
		})
	}
}

func TestWhatIsInNoContainerIsRefusedInOneSentenceOrMarked(t *testing.T) {
	need.Root(t)
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	defer zombie.Wait()
	awaitEnd(t, zombie.Process.Pid)

	service := exec.Command("unshare", "--mount", "cat") // as with PrivateTmp=
	stdin, _ := service.StdinPipe()
	stdout, _ := service.StdoutPipe()
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer service.Wait()
	defer stdin.Close()
	io.WriteString(stdin, "x")
	io.ReadFull(stdout, make([]byte, 1))

	for pid, want := range map[int]string{
		2:                  "is the kernel's",
		os.Getpid():        "is this server itself",
		otherThread(t):     fmt.Sprintf("is only a thread of process %d", os.Getpid()),
		zombie.Process.Pid: "has ended",
	} {
		for _, login := range []string{fmt.Sprint(pid), fmt.Sprintf("pid:%d", pid)} {
			target, err := resolve(t, login, PID{})
			if want := fmt.Sprintf("router: process %d %s", pid, want); err == nil || err.Error() != want {
				t.Errorf("%s: got %+v, %v; want %s", login, target, err, want)
			}
		}
	}
	// An init with a capability that we lack may not be looked at.
	if target, err := resolve(t, "pid:1", PID{}); err == nil && !target.Host {
		t.Errorf("the host's init: got %+v", target)
	}
	for _, pid := range []int{os.Getppid(), service.Process.Pid} {
		for _, login := range []string{fmt.Sprint(pid), fmt.Sprintf("pid:%d", pid)} {
			target, err := resolve(t, login, PID{})
			if err != nil || !target.Host || target.PID != pid || target.Runtime != "pid" {
				t.Errorf("%s: got %+v, %v; want it with a mark that it is the host's", login, target, err)
			}
		}
	}
	if _, err := resolve(t, fmt.Sprint("pid:", maxPID), PID{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no process: got %v", err)
	}
}

func otherThread(t *testing.T) int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatal("no other thread", err)
	}
	tid, _ := strconv.Atoi(threads[len(threads)-1].Name())
	return tid
}

// awaitEnd returns when a child is a zombie.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

func TestASessionOfOursIsNoTarget(t *testing.T) {
	c := rig.Bare(t)
	tree := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(tree); err != nil {
		tree = "/sys/fs/cgroup"
	}
	session := fmt.Sprintf("%s/cartsshd-test-%d", tree, os.Getpid())
	if err := os.Mkdir(session, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(session)
	if err := os.WriteFile(session+"/cgroup.procs", []byte(strconv.Itoa(c.PID)), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(tree+"/cgroup.procs", []byte(strconv.Itoa(c.PID)), 0)
	if target, err := resolve(t, fmt.Sprintf("pid:%d", c.PID), PID{}); err == nil || !strings.Contains(err.Error(), "session of this server") {
		t.Errorf("got %+v, %v", target, err)
	}
}

func TestNoProcessOfAContainerIsEnteredWhileItsEngineIsDownAndItsStateNowhere(t *testing.T) {
	d := rig.NewDocker(t)
	c := d.Run(t, "web-1")
	bare := rig.Bare(t)
	syscall.Kill(d.PID(), syscall.SIGKILL)

	table := &Table{Runtimes: []Runtime{NewDocker(d.Socket, ""), PID{}}}
	login := fmt.Sprintf("pid:%d", c.PID)
	if target, err := resolveBy(t, table, login); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.ID) {
		t.Errorf("%s: got %+v, %v", login, target, err)
	}
	if target, err := resolveBy(t, table, fmt.Sprintf("pid:%d", bare.PID)); err != nil || target.PID != bare.PID {
		t.Errorf("a container that is not the engine's: got %+v, %v", target, err)
	}
}

func TestAPausedContainerSaysSoByAnyName(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	d.CLI(t, "pause", "web-1")
	defer d.CLI(t, "unpause", "web-1")
	for _, login := range []string{"web-1", c.ID[:12], fmt.Sprintf("pid:%d", c.PID)} {
		if _, err := on(t, d, login); err == nil || err.Error() != "router: container web-1 is paused" {
			t.Errorf("%s: got %v", login, err)
		}
	}
}

func TestWaitReturnsWhenTheContainerStops(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	target, err := on(t, d, "web-1")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- target.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("returned %v while the container runs", err)
	default:
	}
	d.Stop(t, "web-1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := on(t, d, "web-1"); err == nil || err.Error() != "router: container web-1 is not running" {
		t.Errorf("stopped: got %v", err)
	}
}

func TestWaitReturnsWhenTheTargetIsClosed(t *testing.T) {
	c := rig.Bare(t)
	target, err := resolve(t, fmt.Sprintf("pid:%d", c.PID), PID{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- target.Wait() }()
	target.Close()
	if err := <-ended; err == nil {
		t.Error("but it has not ended")
	}
}

func BenchmarkResolve(b *testing.B) {
	d := rig.Docker(b)
	c := d.Run(b, "web-1")
	bare := rig.Bare(b)
	table := &Table{Runtimes: []Runtime{NewDocker(d.Socket, d.Root), PID{}}}
	for name, ref := range map[string]Ref{
		"name":     {"", "web-1"},
		"id":       {"", c.ID},
		"prefix":   {"", c.ID[:12]},
		"pid":      {"pid", strconv.Itoa(c.PID)},
		"pid-bare": {"pid", strconv.Itoa(bare.PID)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				target, err := table.Resolve(b.Context(), ref)
				if err != nil {
					b.Fatal(err)
				}
				target.Close()
			}
		})
	}
}
