package nsexec_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

// inside runs a script as the container's own root would.
func inside(t *testing.T, pid int, script string) string {
	t.Helper()
	out, err := exec.Command(need.Tool(t, "nsenter", "util-linux"), "-t", fmt.Sprint(pid), "-a",
		"/bin/busybox", "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// talk starts a shell that is spoken to over a pipe, and returns how.
func talk(t *testing.T, c *nsexec.Cmd) (ask func(script string) string) {
	t.Helper()
	inR, inW, err := os.Pipe()
	must(t, err)
	outR, outW, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { inW.Close(); outR.Close() })
	c.Args, c.Stdin, c.Stdout, c.Stderr = []string{"sh"}, inR, outW, outW
	must(t, c.Start())
	inR.Close()
	outW.Close()
	return func(script string) string {
		t.Helper()
		_, err := fmt.Fprintf(inW, "%s\necho =over=\n", script)
		must(t, err)
		var said strings.Builder
		for b := make([]byte, 4096); !strings.HasSuffix(said.String(), "=over=\n"); {
			n, err := outR.Read(b)
			must(t, err)
			said.Write(b[:n])
		}
		return strings.TrimSuffix(said.String(), "=over=\n")
	}
}

// Root with CAP_SYS_ADMIN can: it may unmount its /dev and rename the directory
// under it, and our mounts go with the directory.
func TestTheContainerCannotTakeOrSwapTheTools(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "swapper")
	ask := talk(t, command(t, ctr.PID, ""))
	before := ask("ls -l /dev/crashcart/bin")
	d.CLI(t, "exec", "swapper", "/bin/busybox", "sh", "-c", `
		swap() { rm -rf /dev/crashcart; mkdir -p /dev/crashcart/bin; echo evil >/dev/crashcart/bin/ls; }
		swap; umount /dev/crashcart; umount -l /dev; mv /dev /old; rmdir /dev; rm -rf /dev/pts; swap; true`)
	if after := ask("ls -l /dev/crashcart/bin"); after != before {
		t.Errorf("the tools of a running session changed:\n%s\nwere\n%s", after, before)
	}
}

func TestTheContainerDoesNotSeeTheTools(t *testing.T) {
	ctr := rig.Bare(t)
	ask := talk(t, command(t, ctr.PID, ""))
	ask("true")
	out := inside(t, ctr.PID, "ls -a /dev; cat /proc/mounts")
	if strings.Contains(out, "crashcart") || strings.Contains(out, "devpts") {
		t.Errorf("the container sees the session's mounts:\n%s", out)
	}
}

// There is nothing to mount on, and nothing is made in the container.
func TestWithoutADirectoryDevTheSessionHasARootOfItsOwn(t *testing.T) {
	for name, script := range map[string]string{
		"symlink": "umount -l /dev; rmdir /dev; mkdir /tmp/x; ln -s /tmp/x /dev",
		"file":    "umount -l /dev; rmdir /dev; : >/dev",
		"fifo":    "umount -l /dev; rmdir /dev; mkfifo /dev",
		"device":  "umount -l /dev; rmdir /dev; mknod /dev c 1 3",
		"missing": "umount -l /dev; rmdir /dev",
		"full of odd names": `umount -l /dev; rmdir /dev; mkfifo /pipe "/a b"; ln -s /proc/1/root/ /loop; : >"/new
line"`,
	} {
		t.Run(name, func(t *testing.T) {
			ctr := rig.Bare(t)
			names := inside(t, ctr.PID, script+"; ls -A / | grep -vx dev")
			before := rig.Residue(t, ctr.PID)
			out, status := run(t, command(t, ctr.PID, `
				ls -A / | sed '/^dev$/d'
				echo x >/dev/null && cat /proc/1/comm && : >/tmp/written && ls -d /dev/crashcart/bin /dev/pts/ptmx
				(: >/new) 2>/dev/null || echo the top is read-only`))
			want := names + "busybox\n/dev/crashcart/bin\n/dev/pts/ptmx\nthe top is read-only\n"
			if status.Code != 0 || out != want {
				t.Errorf("status %+v:\n%swant\n%s", status, out, want)
			}
			before.Same(t)
			if out := inside(t, ctr.PID, "ls /tmp/written"); out != "/tmp/written\n" {
				t.Errorf("what the session wrote below its root is not the container's: %q", out)
			}
		})
	}
}

func TestARootWithTooManyNamesIsRefused(t *testing.T) {
	ctr := rig.Bare(t)
	inside(t, ctr.PID, "umount -l /dev; rmdir /dev; for i in $(seq 50); do : >/$i; done")
	err := command(t, ctr.PID, "true").Start()
	join, ok := errors.AsType[*nsexec.JoinError](err)
	if !ok || join.Step != "open /dev" {
		t.Errorf("%v, want a refusal to open /dev", err)
	}
}

// A container may swap its /dev all the while. Who comes in meanwhile is in, or
// is told; nothing is mounted where the link leads to.
func TestADevThatIsSwappedAllTheWhileLeadsNowhere(t *testing.T) {
	ctr := rig.Bare(t)
	inside(t, ctr.PID, "umount -l /dev; mkdir /decoy; ln -s /decoy /link; { while :; do mv -T /dev /a; mv -T /link /dev; mv -T /dev /link; mv -T /a /dev; done; } >/dev/null 2>&1 </dev/null &")
	for range 30 {
		c := command(t, ctr.PID, "ls /decoy")
		r, w, err := os.Pipe()
		must(t, err)
		c.Stdout = w
		err = c.Start()
		w.Close()
		if _, ok := errors.AsType[*nsexec.JoinError](err); err != nil && !ok {
			t.Errorf("%v, want a JoinError or none", err)
		}
		if said, _ := io.ReadAll(r); len(said) > 0 {
			t.Errorf("something is mounted at the decoy: %s", said)
		}
		r.Close()
		must(t, c.Close())
	}
}

// rigRoot is a root directory with busybox.
func rigRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	must(t, os.MkdirAll(root+"/bin", 0o755))
	must(t, os.Mkdir(root+"/dev", 0o755))
	program, err := os.ReadFile(need.Tool(t, "busybox", "busybox-static"))
	must(t, err)
	must(t, os.WriteFile(root+"/bin/busybox", program, 0o755))
	return root
}

// A process that was given another root, in a mount namespace of its own, has no
// mount there.
func TestARootThatIsNoMountIsEntered(t *testing.T) {
	root := rigRoot(t)
	cmd := exec.Command(need.Tool(t, "unshare", "util-linux"), "--mount", "--root", root, "/bin/busybox", "sh", "-c", "echo in; exec busybox sleep 1000")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	said, status := run(t, command(t, cmd.Process.Pid, "ls /; ls -d /dev/crashcart/bin"))
	if status.Code != 0 || said != "bin\ndev\n/dev/crashcart/bin\n" {
		t.Errorf("status %+v: %s", status, said)
	}
}

func TestAnythingInsideDevDoesNotMatter(t *testing.T) {
	ctr := rig.Bare(t)
	inside(t, ctr.PID, `
		cd /dev; rm -rf null crashcart pts shm mqueue
		mkfifo null; ln -s /etc crashcart; ln -s / pts; ln -s /tmp shm; mkfifo mqueue; ln -sf /proc/1/root/ zero`)
	out, status := run(t, command(t, ctr.PID, "echo x >/dev/null && ls -d /dev/crashcart/bin /dev/pts/ptmx && head -c 3 /dev/zero | wc -c"))
	if status.Code != 0 || out != "/dev/crashcart/bin\n/dev/pts/ptmx\n3\n" {
		t.Errorf("status %+v:\n%s", status, out)
	}
}

// Docker's default capabilities, and nothing more, on both sides: access needs
// a superset of the session's.
func TestRootInADockerContainerCannotTraceASession(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "traced")
	ask := talk(t, command(t, ctr.PID, ""))
	ask("sleep 4242 & sleep 4243 &")
	out := d.CLI(t, "exec", "traced", "/bin/busybox", "sh", "-c", `
		for p in /proc/[0-9]*; do
			[ $p = /proc/$$ ] && continue
			case $(tr '\0' ' ' <$p/cmdline) in *cartsshd*|*424[23]*) ;; *) continue ;; esac
			echo found
			cat $p/environ >/dev/null 2>&1 && echo read $p/environ
			ls -l $p/root/ >/dev/null 2>&1 && echo entered $p/root
			ls -l $p/fd/ 2>/dev/null | grep -e '->' && echo listed $p/fd
			head -c 1 $p/mem >/dev/null 2>&1 && echo read $p/mem
			readlink $p/exe && echo resolved $p/exe
		done; true`)
	if strings.Count(out, "found") < 3 {
		t.Fatalf("the session is not seen at all:\n%s", out)
	}
	if strings.TrimSpace(strings.ReplaceAll(out, "found", "")) != "" {
		t.Errorf("root in the container reaches into the session:\n%s", out)
	}
}

// What keeps it from that is one capability more: without it root traces.
func TestRootInADockerContainerTracesASessionWithItsOwnCapabilities(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "traces-equals")
	c := command(t, ctr.PID, "")
	c.Profile.Name = "restricted"
	ask := talk(t, c)
	ask("sleep 4244 &")
	const read = `for p in /proc/[0-9]*; do grep -q sleep.424[4] $p/cmdline && ls -l $p/root/ >/dev/null 2>&1 && echo entered; done; true`
	if out := d.CLI(t, "exec", "traces-equals", "/bin/busybox", "sh", "-c", read); out != "entered" {
		t.Errorf("a restricted session: %q", out)
	}
	ask2 := talk(t, command(t, ctr.PID, ""))
	ask2("sleep 4245 &")
	if out := d.CLI(t, "exec", "traces-equals", "/bin/busybox", "sh", "-c", strings.ReplaceAll(read, "424[4]", "424[5]")); out != "" {
		t.Errorf("a general session: %q", out)
	}
}

// A session's init is seen by the container and by other sessions, of which some
// may trace.
func TestTheInitCanDoNoMoreThanTheSession(t *testing.T) {
	d := rig.Docker(t)
	for _, ctr := range []rig.Container{d.Run(t, "init"), rig.Userns(t), rig.Bare(t)} {
		// It runs beside the command for a moment, and has nothing more to do
		// when it sleeps.
		out, _ := run(t, command(t, ctr.PID, `
			until grep -q '^State:.S' /proc/$PPID/status; do :; done
			who() { grep -E '^(Cap|Uid|Gid|Groups|NoNewPrivs|Seccomp:)' /proc/$1/status; }
			test "$(who self)" = "$(who $PPID)" && echo alike
			grep -o 'cartsshd.*' /proc/$PPID/cgroup
			set -- $(sed 's/.*) //' /proc/$PPID/stat); test $5 = 0 || echo terminal $5
			for f in /proc/$PPID/fd/*; do readlink $f; done | sort`))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) < 2 || lines[0] != "alike" || !strings.HasPrefix(lines[1], "cartsshd-") {
			t.Fatalf("the init may do other things, or is in no cgroup of the session:\n%s", out)
		}
		for _, fd := range lines[2:] {
			if fd != "/run/cgroup.kill" && fd != "anon_inode:[signalfd]" && !strings.HasPrefix(fd, "socket:") {
				t.Errorf("the init has %s open", fd)
			}
		}
	}
}

// It does not hear, but it must not hold us up.
func TestASessionThatStopsItsInitEnds(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "")
	talk(t, c)("kill -STOP $PPID")
	var err error
	for n := 0; err == nil && n < 1e6; n++ {
		err = c.Signal(unix.SIGWINCH)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("signals that nobody takes: %v, want EAGAIN", err)
	}
	must(t, c.Close())
	before.Same(t)
}

// As the host sees it: the session itself may not look.
func TestTheInitHasThreeDescriptorsAndSleeps(t *testing.T) {
	for _, ctr := range []rig.Container{rig.Bare(t), rig.Userns(t)} {
		c := command(t, ctr.PID, "")
		talk(t, c)("true")
		procs, err := filepath.Glob("/sys/fs/cgroup/*/cartsshd-*/" + c.ID + "/cgroup.procs") // of a hybrid host
		if len(procs) == 0 {
			procs, err = filepath.Glob("/sys/fs/cgroup/cartsshd-*/" + c.ID + "/cgroup.procs")
		}
		if err != nil || len(procs) != 1 {
			t.Fatalf("the session's cgroup: %v, %v", procs, err)
		}
		init, err := os.ReadFile(procs[0])
		must(t, err)
		proc := "/proc/" + strings.TrimSpace(string(init))
		asleep(t, proc)
		var fds []string
		links, err := filepath.Glob(proc + "/fd/*")
		must(t, err)
		for _, link := range links {
			to, err := os.Readlink(link)
			must(t, err)
			fds = append(fds, strings.TrimRight(to, "0123456789[]"))
		}
		slices.Sort(fds)
		if want := []string{"/run/cgroup.kill", "anon_inode:[signalfd", "socket:"}; !slices.Equal(fds, want) {
			t.Errorf("the init has %q, want %q", fds, want)
		}
	}
}

// asleep waits until a process has no more to do than to wait.
func asleep(t *testing.T, proc string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		call, err := os.ReadFile(proc + "/syscall")
		must(t, err)
		if strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_PPOLL, " ")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the init does not sleep: %s", call)
		}
	}
}

// What a session could do and the container could not, with Docker's default
// capabilities and its seccomp filter.
func TestASessionHasNotMoreOfTheHostThanTheContainer(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "confined")
	out, _ := run(t, command(t, ctr.PID, `
		echo $(grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status)
		unshare -U true; unshare -Um true; unshare -r true
		mkdir /tmp/m 2>/dev/null; mount -t tmpfs x /tmp/m 2>&1 | grep -o 'permission denied'
		true & wait; echo ran`))
	want := fmt.Sprintf("CapEff: %016x NoNewPrivs: 1 Seccomp: 2\n", 0xa80425fb|1<<unix.CAP_WAKE_ALARM) +
		strings.Repeat("unshare: unshare(0x10000000): Operation not permitted\n", 1) +
		"unshare: unshare(0x10020000): Operation not permitted\n" +
		"unshare: unshare(0x10000000): Operation not permitted\n" +
		"permission denied\nran\n"
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestAStoppedContainerEndsItsSessions(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "stopped")
	c := command(t, ctr.PID, "trap '' TERM; while :; do sleep 1; done")
	must(t, c.Start())
	waited := make(chan error, 1)
	go func() {
		_, err := c.Wait()
		waited <- errors.Join(err, c.Close())
	}()
	d.Stop(t, "stopped") // returns only if nothing holds it up
	if err := <-waited; !errors.Is(err, nsexec.ErrLost) {
		t.Errorf("Wait: %v, want ErrLost", err)
	}
}

func TestAnEndedTargetIsRefused(t *testing.T) {
	need.Root(t)
	sleep := exec.Command(need.Tool(t, "busybox", "busybox-static"), "sleep", "1000")
	must(t, sleep.Start())
	c := command(t, sleep.Process.Pid, "true")
	must(t, sleep.Process.Kill())
	_ = sleep.Wait()
	if err := c.Start(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("entering a process that has ended: %v, want ESRCH", err)
	}
}
