package e2e_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// refused fails unless that was asked for in vain, and recorded so.
func (h *host) refused(t testing.TB, detail string) {
	t.Helper()
	eventually(t, detail+" is recorded as refused", func() bool {
		for _, r := range h.recorded(t, audit.RequestRefused) {
			if r.Detail == detail && r.Person.Name == "alice" && r.Login == "web-1" {
				return true
			}
		}
		return false
	})
}

func TestFilesAreNotCopiedByTheClientsForThat(t *testing.T) {
	need.Tool(t, "scp", "openssh-client")
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	h.write(t, "file", "content")
	options := append(h.options(), "-P", h.port, "-i", privateKey("alice"))
	for _, test := range []struct {
		cmd *exec.Cmd
		way string
	}{
		{command("scp", append(options, h.path("file"), "web-1@127.0.0.1:/tmp/")...), "sftp"},
		{command("scp", append(options, "-O", h.path("file"), "web-1@127.0.0.1:/tmp/")...), "scp up"},
		{command("sftp", append(options, "web-1@127.0.0.1")...), "sftp"},
	} {
		got := finish(t, test.cmd)
		if got.code == 0 || !strings.HasPrefix(got.stderr, "cartsshd: file transfer is off: no rule names "+test.way+"\n") {
			t.Errorf("%s: %+v", test.cmd, got)
		}
		if r := h.last(t, audit.SessionDenied); r.Detail != "rule does not allow "+test.way || r.Rule != "sre" {
			t.Errorf("%+v", r)
		}
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/tmp/file", c.PID)); err == nil {
		t.Error("the file was copied")
	}
}

func TestForwardingIsRefused(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)

	t.Run("from the client", func(t *testing.T) {
		door := h.path("door")
		s := h.begin(t, "alice", "web-1", "-L", door+":127.0.0.1:80", "echo in; cat")
		s.sees(t, "in\n")
		conn, err := net.Dial("unix", door)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if said, err := io.ReadAll(conn); len(said) > 0 || err != nil {
			t.Errorf("%q, %v", said, err)
		}
		s.in.Close()
		if got := s.ends(t); got.code != 0 || !strings.Contains(got.stderr, "open failed: administratively prohibited: cartsshd serves sessions only") {
			t.Errorf("%+v", got)
		}
		h.refused(t, "channel direct-tcpip")
	})

	t.Run("to the client", func(t *testing.T) {
		got := h.run(t, "alice", "web-1", "-R", "4711:127.0.0.1:80", "echo in")
		if got.code != 0 || got.stdout != "in\n" || got.stderr != "Warning: remote port forwarding failed for listen port 4711\r\n" {
			t.Errorf("%+v", got)
		}
		h.refused(t, "request tcpip-forward")
	})

	t.Run("of an agent", func(t *testing.T) {
		agent := exec.Command(need.Tool(t, "ssh-agent", "openssh-client"), "-D", "-a", h.path("agent"))
		ended := spawn(t, agent)
		t.Cleanup(func() { agent.Process.Kill(); <-ended })
		eventually(t, "the agent is there", func() bool { _, err := os.Stat(h.path("agent")); return err == nil })
		cmd := h.ssh(t, "alice", "web-1", "-A", "echo in$SSH_AUTH_SOCK")
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+h.path("agent"))
		finish(t, cmd).is(t, result{stdout: "in\n"})
		h.refused(t, "auth-agent-req@openssh.com")
	})

	t.Run("of X11", func(t *testing.T) {
		cmd := h.ssh(t, "alice", "web-1", "-Y", "echo in$DISPLAY")
		cmd.Env = append(cmd.Env, "DISPLAY=:9")
		got := finish(t, cmd)
		if got.code != 0 || got.stdout != "in\n" || !strings.Contains(got.stderr, "X11 forwarding request failed on channel 0") {
			t.Errorf("%+v", got)
		}
		h.refused(t, "x11-req")
	})

	t.Run("by standard streams", func(t *testing.T) {
		got := h.run(t, "alice", "web-1", "-W", "127.0.0.1:80")
		if got.code != 255 || !strings.Contains(got.stderr, "cartsshd serves sessions only") {
			t.Errorf("%+v", got)
		}
	})
}

func TestAConnectionWithoutASessionEntersNothing(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	s := h.begin(t, "alice", "web-1", "-N", "-v")
	eventually(t, "the client is signed in", func() bool { return strings.Contains(s.stderr.String(), "Authenticated to") })
	before.Same(t)
	if n := len(h.recorded(t, audit.SessionOpen)); n > 0 {
		t.Errorf("%d sessions are open", n)
	}
}
