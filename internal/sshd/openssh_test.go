package sshd

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/need"
)

// openssh is the stock client.
type openssh struct {
	*hall
	key   string
	path  string
	login string
}

func newOpenSSH(t *testing.T, adjust ...func(*Server)) *openssh {
	t.Helper()
	path := need.Tool(t, "ssh", "openssh-client")
	alice, key := keyFile(t)
	return &openssh{newHallOf(t, alice, adjust...), key, path, "web-1"}
}

func (o *openssh) cmd(args ...string) *exec.Cmd {
	host, port, _ := strings.Cut(o.addr, ":")
	base := []string{"-F", "none", "-i", o.key, "-p", port, "-l", o.login,
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"}
	return exec.Command(o.path, append(append(base, args...), host)...)
}

// run runs ssh(1) with the command as its last argument.
func (o *openssh) run(stdin []byte, command string, args ...string) ran {
	o.t.Helper()
	c := o.cmd(args...)
	if command != "" {
		c.Args = append(c.Args, command)
	}
	var out, err strings.Builder
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &err
	if e := c.Run(); e != nil && c.ProcessState == nil {
		o.t.Fatal(e)
	}
	return ran{out: out.String(), err: err.String(), code: c.ProcessState.ExitCode()}
}

func TestOpenSSHRunsCommands(t *testing.T) {
	o := newOpenSSH(t)
	for _, code := range []int{0, 1, 42, 254} {
		if got := o.run(nil, fmt.Sprint("printf out; printf err >&2; exit ", code)); got != (ran{"out", "err", code, ""}) {
			t.Errorf("%+v", got)
		}
	}
	if got := o.run(nil, "kill -9 $$"); got.code != 255 { // as with OpenSSH's server
		t.Errorf("%+v", got)
	}
	if got := o.run([]byte("b\na\n"), "sort"); got.out != "a\nb\n" {
		t.Errorf("%+v", got)
	}
	if got := o.run([]byte("echo a script; exit 3\n"), "", "-T"); got.out != "a script\n" || got.code != 3 {
		t.Errorf("%+v", got)
	}
}

func TestOpenSSHMovesEightMegabytesEachWay(t *testing.T) {
	o := newOpenSSH(t)
	data := make([]byte, 8<<20)
	rand.Read(data)
	if got := o.run(data, "cat"); got.out != string(data) {
		t.Fatalf("%d bytes, %s, exit %d", len(got.out), got.err, got.code)
	}
}

func TestOpenSSHHasATerminal(t *testing.T) {
	o := newOpenSSH(t)
	got := o.run([]byte("echo $((6 * 7))\n"), "", "-tt")
	if !strings.Contains(got.out, "alice in web-1 · recorded as ") || !strings.Contains(got.out, "42\r\n") || got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if got := o.run(nil, "tty -s && echo a terminal", "-tt"); got.out != "a terminal\r\n" {
		t.Fatalf("%+v", got)
	}
}

func TestOpenSSHSharesAConnection(t *testing.T) {
	o := newOpenSSH(t)
	control := filepath.Join(t.TempDir(), "c")
	master := o.cmd("-M", "-S", control, "-N", "-f")
	if out, err := master.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer o.cmd("-S", control, "-O", "exit").Run()
	for n := range 5 {
		if got := o.run(nil, fmt.Sprint("echo ", n), "-S", control); got.out != fmt.Sprintln(n) {
			t.Errorf("%+v", got)
		}
	}
	if n := strings.Count(o.log.String(), "signed in"); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestOpenSSHMayNotForward(t *testing.T) {
	o := newOpenSSH(t)
	if got := o.run(nil, "", "-W", "127.0.0.1:1"); got.code == 0 {
		t.Errorf("%+v", got)
	}
	if got := o.run(nil, "true", "-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"); got.code == 0 {
		t.Errorf("%+v", got)
	}
	if n := len(o.recorded(audit.RequestRefused)); n != 2 {
		t.Errorf("%d refusals are recorded", n)
	}
}

func TestOpenSSHIsTurnedAway(t *testing.T) {
	o := newOpenSSH(t)
	o.login = "db-1"
	if got := o.run(nil, "true"); got.code != 255 || got.err != "cartsshd: db-1: no container of that name is yours to enter\n" {
		t.Errorf("%+v", got)
	}
	_, stranger := keyFile(t)
	os.Rename(stranger, o.key)
	if got := o.run(nil, "true"); got.code != 255 || !strings.Contains(got.err, "Permission denied (publickey)") {
		t.Errorf("%+v", got)
	}
	if failed := o.recorded(audit.SigninFailed); len(failed) != 1 {
		t.Errorf("%+v", failed)
	}
}

func TestOpenSSHIsToldThatFilesAreAnotherThing(t *testing.T) {
	o := newOpenSSH(t)
	for command, way := range map[string]string{"scp -t /tmp": "scp up", "scp -pf /tmp/x": "scp down", "rsync --server --sender . /": "rsync down", "/usr/lib/openssh/sftp-server": "sftp"} {
		want := ran{err: "cartsshd: file transfer is off: no rule names " + way + "\n", code: 255}
		if got := o.run(nil, command); got != want {
			t.Errorf("%s: %+v", command, got)
		}
	}
	if got := o.run(nil, "sftp", "-s"); got != (ran{err: "cartsshd: file transfer is off: no rule names sftp\n", code: 255}) {
		t.Errorf("%+v", got)
	}
	o.login = "db-1"
	if got := o.run(nil, "sftp", "-s"); got.err != "cartsshd: db-1: no container of that name is yours to enter\n" {
		t.Errorf("a stranger to it: %+v", got)
	}
	if n := len(o.recorded(audit.SessionDenied)); n != 6 {
		t.Errorf("%d denials are recorded", n)
	}
}

func TestSCPAndSFTPShowWhyTheyMayNot(t *testing.T) {
	o := newOpenSSH(t)
	host, port, _ := strings.Cut(o.addr, ":")
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, []byte("x"), 0o600)
	for _, args := range [][]string{{"scp", "-O"}, {"scp"}} {
		c := exec.Command(need.Tool(t, args[0], "openssh-client"), append(args[1:], "-F", "none", "-i", o.key, "-P", port, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
			"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", file, "web-1@"+host+":/tmp/x")...)
		out, err := c.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "cartsshd: file transfer is off: no rule names s") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}

func TestOpenSSHGetsNoTerminalForAKeyWithoutOne(t *testing.T) {
	o := newOpenSSH(t)
	o.options = "no-pty"
	policy := o.policy()
	o.server.Policy = func() *authz.Policy { return policy } // nobody has come yet
	if got := o.run([]byte("echo in\n"), "", "-tt"); !strings.Contains(got.err, "PTY allocation request failed") {
		t.Errorf("%+v", got)
	}
}
