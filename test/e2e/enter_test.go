package e2e_test

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

// enter is cartsshd enter, which needs no server.
func (h *host) enter(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return command(program(t), append([]string{"enter", "--config", h.path("config.yaml")}, args...)...)
}

func TestEnterIsLikeRunningTheCommandHere(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--hostname", "inside-web-1")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	for _, claim := range []struct {
		args  []string
		stdin string
		want  result
	}{
		{[]string{"web-1", "--", "true"}, "", result{}},
		{[]string{"web-1", "--", "bash", "-c", "exit 7"}, "", result{code: 7}},
		{[]string{"web-1", "--", "bash", "-c", "kill -TERM $$"}, "", result{code: 143}},
		{[]string{"web-1", "--", "no-such-command"}, "", result{code: 127, stderr: "no-such-command: command not found\n"}},
		{[]string{"web-1", "--", "/proc/self/status"}, "", result{code: 126, stderr: "/proc/self/status: permission denied\n"}},
		{[]string{"web-1", "--", "bash", "-c", "echo out; echo err >&2"}, "", result{stdout: "out\n", stderr: "err\n"}},
		{[]string{"web-1", "--", "echo", "$HOME;", "-n", "a  b"}, "", result{stdout: "$HOME; -n a  b\n"}},
		{[]string{"web-1", "--", "cat"}, "from here\n", result{stdout: "from here\n"}},
		{[]string{"web-1"}, "hostname\n", result{stdout: "inside-web-1\n"}},
		{[]string{c.ID[:8], "hostname"}, "", result{stdout: "inside-web-1\n"}},
		{[]string{fmt.Sprintf("pid:%d", c.PID), "--", "ls", "-d", "/dev/crashcart"}, "", result{stdout: "/dev/crashcart\n"}},
		{[]string{"no-such", "--", "true"}, "", result{code: 125, stderr: "router: no-such: no such container\n"}},
	} {
		cmd := h.enter(t, claim.args...)
		cmd.Stdin = strings.NewReader(claim.stdin)
		got := finish(t, cmd)
		got.stderr = strings.TrimPrefix(got.stderr, "cartsshd: ")
		if got != claim.want {
			t.Errorf("enter %q:", claim.args)
			got.is(t, claim.want)
		}
	}
	before.Same(t)
}

func TestEnterPassesSignalsOn(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := newHost(t, d)
	for name, sig := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT} {
		cmd := h.enter(t, "web-1", "--", "bash", "-c", "trap 'exit 9' "+name+"; echo ready; sleep 1000 & wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cmd.Process.Signal(sig)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("%s: exit status %d", name, code)
		}
	}
}

func TestEnterHasATerminalWhereWeHave(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	s := inTerminal(t, h.enter(t, "web-1"), 100, 40)
	s.sees(t, prompt)
	s.shows(t, "tty; stty size; echo $TERM", "/dev/pts/0\n40 100\nxterm\n")
	s.types(t, "sh -c 'echo wait''ing; exec sleep 1000'\n")
	s.sees(t, "waiting\n")
	s.types(t, "\x03")
	s.sees(t, prompt)
	s.shows(t, "echo $?", "130\n")
	s.types(t, "exit 5\n")
	if got := s.ends(t); got.code != 5 || strings.Contains(got.stdout, "no job control") {
		t.Errorf("%+v", got)
	}
	before.Same(t)
}

func TestEnterInAUserNamespace(t *testing.T) {
	c := rig.Userns(t)
	h := newHost(t, nil)
	finish(t, h.enter(t, fmt.Sprintf("pid:%d", c.PID), "--", "bash", "-c", "id -u; stat -c %u /dev/crashcart/bin/bash")).is(t, result{stdout: "0\n0\n"})
}

func TestNothingOfEnterIsLeftWhenItIsKilled(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	s := inTerminal(t, h.enter(t, "web-1", "--", "bash", "-c", stubborn+"exec sleep 1000"), 80, 24)
	s.sees(t, "running\n")
	s.cmd.Process.Kill()
	s.ends(t)
	before.Same(t)
}
