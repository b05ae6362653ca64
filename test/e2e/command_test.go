package e2e_test

import (
	"bytes"
	"crypto/rand"
	"os/exec"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

func TestCommandsRunAsSSHUsersExpect(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1", "--", "httpd", "-f", "-h", "/var/www")
	h := serving(t, d)
	for _, claim := range []struct {
		command string
		want    result
	}{
		{"true", result{}},
		{"exit 7", result{code: 7}},
		{"kill -TERM $$", result{code: 255}}, // OpenSSH's client knows no better of exit-signal
		{"bash -c 'kill -TERM $$'; exit $?", result{code: 143, stderr: "Terminated\n"}},
		{"no-such-command", result{code: 127, stderr: "bash: line 1: no-such-command: command not found\n"}},
		{"/proc/self/status", result{code: 126, stderr: "bash: line 1: /proc/self/status: Permission denied\n"}},
		{"echo out; echo err >&2", result{stdout: "out\n", stderr: "err\n"}},
		{"echo a'b c'$((6*7)) | tr b B", result{stdout: "aB c42\n"}},
		{"curl -s localhost", result{stdout: "hello from the container\n"}},
		{"tty", result{stdout: "not a tty\n", code: 1}},
	} {
		h.run(t, "alice", "web-1", claim.command).is(t, claim.want)
	}
}

func TestACommandIsOneOfALocalPipeline(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	ssh := h.ssh(t, "alice", "web-1", "ps aux | head -3")
	grep := exec.Command("grep", "-c", "sleep 1000000")
	var err error
	if grep.Stdin, err = ssh.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := ssh.Start(); err != nil {
		t.Fatal(err)
	}
	finish(t, grep).is(t, result{stdout: "1\n"})
	if err := ssh.Wait(); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfStdinReachesTheCommand(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	for stdin, arg := range map[string]string{
		"hi\n":                         "cat; echo that was all",
		"echo hi; echo that was all\n": "-T", // a script
	} {
		ssh := h.ssh(t, "alice", "web-1", arg)
		ssh.Stdin = strings.NewReader(stdin)
		finish(t, ssh).is(t, result{stdout: "hi\nthat was all\n"})
	}
}

func TestTheLastByteOfStderrArrives(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	got := h.run(t, "alice", "web-1", "head -c 5000000 /dev/zero >&2; printf Z >&2; exit 3")
	if got.code != 3 || len(got.stderr) != 5000001 || !strings.HasSuffix(got.stderr, "Z") {
		t.Errorf("%d bytes, exit status %d", len(got.stderr), got.code)
	}
}

func TestBytesAreCarriedAsTheyAre(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	bulk := make([]byte, 32<<20)
	rand.Read(bulk)
	ssh := h.ssh(t, "alice", "web-1", "cat")
	ssh.Stdin = bytes.NewReader(bulk)
	got := finish(t, ssh)
	if got.code != 0 || got.stderr != "" || !bytes.Equal([]byte(got.stdout), bulk) {
		t.Errorf("%d bytes of %d came back otherwise; exit status %d: %s", len(got.stdout), len(bulk), got.code, got.stderr)
	}
	exit := h.last(t, audit.SessionClose).Exit
	if n := int64(len(bulk)); exit.BytesIn != n || exit.BytesOut != n {
		t.Errorf("recorded are %d bytes in, %d bytes out, of %d", exit.BytesIn, exit.BytesOut, n)
	}
}

func TestAClientMayNameItsLanguageAndNothingElse(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1", "--env", "SECRET=of the container")
	h := serving(t, d)
	got := h.run(t, "alice", "web-1", "-o",
		"SetEnv=LC_ALL=de_DE.UTF-8 LC_TICKET=7 COLORTERM=truecolor LD_PRELOAD=/tmp/x.so BASH_ENV=/tmp/x PATH=/tmp HOME=/tmp FOO=bar", "env")
	for _, want := range []string{"LC_CTYPE=C.UTF-8", "LC_TICKET=7", "COLORTERM=truecolor", "HOME=/dev/crashcart", "CARTSSHD_PERSON=alice", "CARTSSHD_TARGET=web-1"} {
		if !strings.Contains("\n"+got.stdout, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got.stdout)
		}
	}
	for _, unwanted := range []string{"LD_", "BASH_ENV", "/tmp", "FOO", "SECRET", "LC_ALL"} {
		if strings.Contains(got.stdout, unwanted) {
			t.Errorf("%s in\n%s", unwanted, got.stdout)
		}
	}
	if got.code != 0 || got.stderr != "" {
		t.Errorf("exit status %d: %s", got.code, got.stderr)
	}
}

// A debugger's shell must not run what root in the container has laid in wait.
func TestTheContainersFilesDoNotRunInTheSession(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	for _, trap := range []string{
		"mkdir -p /root /lib && echo /tmp/trap.so > /etc/ld.so.preload",
		"for f in /etc/bash.bashrc /etc/profile /root/.bashrc /root/.bash_profile /root/.profile; do echo 'echo TRAPPED' > $f; done",
		"for f in ls sh bash cat; do printf '#!/bin/busybox sh\\necho TRAPPED' > /tmp/$f; chmod +x /tmp/$f; done",
	} {
		d.CLI(t, "exec", c.ID, "/bin/busybox", "sh", "-c", trap)
	}
	h := serving(t, d)
	h.run(t, "alice", "web-1", "cd /tmp && ls -d /proc/self && cat /dev/null && sh -c 'echo fine'").is(t, result{stdout: "/proc/self\nfine\n"})
	shell := h.terminal(t, "alice", "web-1")
	shell.sees(t, prompt)
	shell.does(t, "cd /tmp; ls /tmp")
	if strings.Contains(shell.text(), "TRAPPED") {
		t.Errorf("it ran:\n%s", shell.text())
	}
}
