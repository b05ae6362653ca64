package nsexec_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

// tools is a stand-in for the tools image: busybox, seen at /dev/crashcart.
func tools(t testing.TB) *os.File {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	box, err := os.ReadFile(need.Tool(t, "busybox", "busybox-static"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), box, 0o755))
	for _, name := range []string{"sh", "cat", "ls", "sleep", "true", "tty", "id", "kill", "ps", "stty", "dd", "mknod", "touch", "mount", "unshare", "sed"} {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "bin/text"), []byte("not a program"), 0o644))
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	f := os.NewFile(uintptr(fd), "tools")
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pidfd(t testing.TB, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	must(t, err)
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

var ids int

// command is a shell command in a container.
func command(t testing.TB, pid int, script string) *nsexec.Cmd {
	t.Helper()
	ids++
	c := &nsexec.Cmd{
		Path: "sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/dev/crashcart/bin"},
		ID:     fmt.Sprintf("test-%d-%d", os.Getpid(), ids),
		Target: pidfd(t, pid), Tools: tools(t),
	}
	// Also where the test fails: a container is not gone before its last
	// process has been reaped.
	t.Cleanup(func() { c.Close() })
	return c
}

// run runs it to its end and returns what it wrote.
func run(t testing.TB, c *nsexec.Cmd) (string, nsexec.Status) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	c.Stdout, c.Stderr = w, w
	err = c.Start()
	w.Close()
	must(t, err)
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&out, r); read <- err }()
	status, err := c.Wait()
	must(t, err)
	must(t, c.Close())
	must(t, <-read)
	return out.String(), status
}

func TestMain(m *testing.M) {
	// As whoever starts a daemon may be.
	_ = unix.Setgroups([]int{0, 6})
	// Makes the cgroup that all sessions are in, which stays as long as we do.
	if err := nsexec.Check(); err != nil && os.Geteuid() == 0 {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	rig.Stop()
	os.Exit(code)
}

func TestACommandRunsInsideTheContainer(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	out, status := run(t, command(t, ctr.PID, "readlink /proc/self/ns/mnt /proc/1/ns/pid /proc/self/ns/pid; ls /dev; echo $$; cat /proc/1/comm"))
	if status.Code != 0 {
		t.Fatalf("status %+v: %s", status, out)
	}
	host, _ := os.Readlink("/proc/self/ns/mnt")
	if strings.Contains(out, host) {
		t.Errorf("the command is in the host's mount namespace:\n%s", out)
	}
	for _, want := range []string{"crashcart", "null", "pts", "shm", "busybox"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	before.Same(t)
}

func TestTheStatusIsTheCommands(t *testing.T) {
	ctr := rig.Bare(t)
	for script, want := range map[string]nsexec.Status{
		"exit 7":            {Code: 7},
		"true":              {},
		"kill -TERM $$":     {Code: 143, Signal: unix.SIGTERM},
		"no-such-program":   {Code: 127},
		"/dev/crashcart":    {Code: 126},
		"sleep 1000 & exit": {},
	} {
		if _, got := run(t, command(t, ctr.PID, script)); got != want {
			t.Errorf("%q ends with %+v, want %+v", script, got, want)
		}
	}
}

func TestStartFailsWithTheReasonOfExecve(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	for path, want := range map[string]error{
		"no-such":                  unix.ENOENT,
		"/no/such":                 unix.ENOENT,
		"/dev/crashcart/bin/text":  unix.EACCES,
		"/dev/crashcart":           unix.EACCES,
		strings.Repeat("x/", 3000): unix.ENAMETOOLONG,
	} {
		c := command(t, ctr.PID, "")
		c.Path = path
		err := c.Start()
		var join *nsexec.JoinError
		if !errors.Is(err, want) || !errors.As(err, &join) || join.Step != "execve" {
			t.Errorf("%.40s: %v, want execve: %v", path, err, want)
		}
	}
	c := command(t, ctr.PID, strings.Repeat("x", 2<<20))
	if err := c.Start(); !errors.Is(err, unix.E2BIG) {
		t.Errorf("2 MiB of argument: %v, want E2BIG", err)
	}
	before.Same(t)
}

func TestNothingRunsThatIsNotReady(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "touch /ran")
	want := errors.New("not recorded")
	c.Ready = func() error { return want }
	if err := c.Start(); err != want {
		t.Errorf("Start: %v, want Ready's own error", err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/ran", ctr.PID)); err == nil {
		t.Error("the command ran")
	}
	before.Same(t)
}

func TestNothingIsLeftOfASession(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	// The container's init reaps nobody: what the session leaves must not
	// become its zombie.
	run(t, command(t, ctr.PID, "(sleep 1000 & sleep 1000 & ) ; setsid sh -c 'sleep 1001 & exec sleep 1002' >/dev/null 2>&1 &\n touch /dev/shm/x; rm /dev/shm/x; exit 0"))
	before.Same(t)
}

// What holds its output open must not hold up who reads it.
func TestACommandThatEndsTakesWithItWhatItLeft(t *testing.T) {
	ctr := rig.Bare(t)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	c := command(t, ctr.PID, "sleep 1000 & setsid sleep 1001 &\n exit 3")
	c.Stdout = w
	must(t, c.Start())
	w.Close()
	must(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("its output does not end: %v", err)
	}
	if status, err := c.Wait(); err != nil || status.Code != 3 {
		t.Errorf("got %+v, %v", status, err)
	}
	if err := c.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal after the end: %v", err)
	}
	must(t, c.Close())
	if err := c.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal after the close: %v", err)
	}
}

// An init that is gone before we hold it could not be told from another process.
func TestACommandMayEndBeforeItsInitIsKnown(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "exit 3")
	must(t, c.StartSlowly(100*time.Millisecond))
	if status, err := c.Wait(); err != nil || status.Code != 3 {
		t.Errorf("got %+v, %v", status, err)
	}
	must(t, c.Close())
	before.Same(t)
}

func TestTwoSessionsDoNotSeeEachOther(t *testing.T) {
	ctr := rig.Bare(t)
	a := command(t, ctr.PID, "sleep 1000")
	must(t, a.Start())
	defer a.Close()
	_, status := run(t, command(t, ctr.PID, "true"))
	if status.Code != 0 {
		t.Fatal(status)
	}
	must(t, a.Signal(unix.SIGINT))
	if got, err := a.Wait(); err != nil || got.Signal != unix.SIGINT {
		t.Errorf("the other session ended with %+v, %v", got, err)
	}
}

func TestCloseEndsARunningSession(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "trap '' HUP INT TERM; while :; do sleep 1; done")
	must(t, c.Start())
	waited := make(chan error, 1)
	go func() { _, err := c.Wait(); waited <- err }()
	must(t, c.Close())
	must(t, c.Close())
	if err := <-waited; !errors.Is(err, nsexec.ErrLost) {
		t.Errorf("Wait: %v, want ErrLost", err)
	}
	before.Same(t)
}

func TestTheTerminalIsTheSessionsOwn(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	tty, err := nsexec.OpenTTY()
	must(t, err)
	defer tty.Close()
	must(t, tty.Resize(123, 45, 0, 0))
	must(t, tty.SetModes([]byte{53, 0, 0, 0, 0, 0})) // no ECHO
	c := command(t, ctr.PID, "tty; stty size; stty -a | grep -o -- -echo' '; ls -1 /dev/pts; : >/dev/tty && echo controlling; readlink /proc/self/fd/0; id -u")
	c.TTY = tty
	must(t, c.Start())
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() { _, err := io.Copy(&out, tty.Master); read <- err }()
	status, err := c.Wait()
	must(t, err)
	must(t, c.Close())
	if err := <-read; !errors.Is(err, unix.EIO) {
		t.Errorf("the terminal ends with %v, want EIO", err)
	}
	want := "/dev/pts/0\r\n45 123\r\n-echo \r\n0\r\nptmx\r\ncontrolling\r\n/dev/pts/0\r\n0\r\n"
	if status.Code != 0 || out.String() != want {
		t.Errorf("status %+v, output\n%q, want\n%q", status, out.String(), want)
	}
	tty.Close()
	before.Same(t)
}

func TestAUserNamespacedContainerIsEnteredAsItsRoot(t *testing.T) {
	ctr := rig.Userns(t)
	before := rig.Residue(t, ctr.PID)
	out, status := run(t, command(t, ctr.PID, "id -u; cat /proc/self/uid_map; mount -t tmpfs x /tmp && echo mounted; umount /dev/crashcart && echo unmounted; grep CapEff /proc/self/status"))
	if status.Code != 0 || !strings.HasPrefix(out, "0\n") || strings.Contains(out, "mounted") {
		t.Errorf("status %+v:\n%s", status, out)
	}
	if !strings.Contains(out, fmt.Sprint(rig.SubID)) {
		t.Errorf("not in the container's user namespace:\n%s", out)
	}
	before.Same(t)
}

func TestTheHostIsRefused(t *testing.T) {
	need.Root(t)
	c := command(t, os.Getpid(), "true")
	if err := c.Start(); !errors.Is(err, nsexec.ErrHost) {
		t.Errorf("entering our own process: %v, want ErrHost", err)
	}
}

func TestNothingOfTheHostIsInherited(t *testing.T) {
	ctr := rig.Bare(t)
	must(t, os.Setenv("SECRET_OF_THE_DAEMON", "x"))
	out, _ := run(t, command(t, ctr.PID, "ls -l /proc/self/fd; env; pwd; cat /proc/self/limits | head -3; grep -E 'Sig(Ign|Blk)' /proc/self/status; cat /proc/self/oom_score_adj; readlink /proc/$PPID/exe; umask"))
	for _, never := range []string{"SECRET", "/tmp/", "socket:"} {
		if strings.Contains(out, never) {
			t.Errorf("%q is seen inside:\n%s", never, out)
		}
	}
	for _, want := range []string{"PWD=/\n", "SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000", "0022"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestDevicesOfTheHostCannotBeOpened(t *testing.T) {
	ctr := rig.Bare(t)
	out, _ := run(t, command(t, ctr.PID, `
		for d in /dev/null /dev/zero /dev/urandom /dev/tty; do test -c $d || echo no $d; done
		echo x >/dev/null && head -c 3 /dev/zero | wc -c
		mknod /tmp/disk b 254 0; mknod /tmp/loop b 7 0; mknod /tmp/mem c 1 1; mknod /tmp/null c 1 3
		for d in disk loop mem; do head -c 1 /tmp/$d 2>&1; done
		head -c 1 /tmp/null && echo null is fine
		rm -f /tmp/disk /tmp/loop /tmp/mem /tmp/null`))
	if strings.Count(out, "Operation not permitted") != 3 || !strings.Contains(out, "null is fine") || strings.Contains(out, "no /dev") {
		t.Errorf("want three refusals:\n%s", out)
	}
}
