package e2e_test

import (
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// shell is a shell at its prompt.
func (h *host) shell(t testing.TB, who, login string) *session {
	t.Helper()
	s := h.terminal(t, who, login)
	s.sees(t, prompt)
	return s
}

// shows fails unless a command shows that.
func (s *session) shows(t testing.TB, command, want string) {
	t.Helper()
	if got := s.does(t, command); got != want {
		t.Errorf("%s: got %q, want %q", command, got, want)
	}
}

func TestAShellGreetsOnceAndHasItsTools(t *testing.T) {
	d := rig.Docker(t)
	for _, claim := range []struct{ image, serve, page, ls string }{
		{rig.Busybox, "/var/www", "hello from the container\n", "bin dev etc home proc sys tmp var"},
		{rig.Static, "/bin", "", "bin dev etc proc sys"}, // no shell in it
	} {
		t.Run(claim.image, func(t *testing.T) {
			d.RunImage(t, claim.image, "web-1", "--", "/bin/busybox", "httpd", "-f", "-h", claim.serve)
			h := serving(t, d)
			s := h.shell(t, "alice", "web-1")
			greeting := "alice in web-1 · recorded as " + h.last(t, audit.SessionOpen).Session + " · rule sre\n"
			if !strings.HasPrefix(s.text(), greeting) {
				t.Errorf("no %q in %q", greeting, s.text())
			}
			if claim.page != "" {
				s.shows(t, "curl -s localhost", claim.page)
			}
			s.shows(t, "curl -so /dev/null -w '%{http_code}\\n' localhost/none", "404\n")
			s.shows(t, "ps -o comm= -p 1", "busybox\n")
			s.shows(t, "echo $(command ls /)", claim.ls+"\n")
			s.shows(t, "tcpdump --version 2>&1 | grep -c tcpdump", "1\n")
			s.types(t, "exit 9\n")
			got := s.ends(t)
			if got.code != 9 || strings.Count(got.stdout, "recorded as") != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestATerminalIsTheSessionsOwnAndAsLargeAsTheClients(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	s := h.shell(t, "alice", "web-1")
	s.shows(t, "tty; echo $TERM", "/dev/pts/0\nxterm\n")
	s.shows(t, "stty size", "24 80\n")
	s.shows(t, "trap 'echo resized to $(stty size)' WINCH", "")
	if err := pty.Setsize(s.window, &pty.Winsize{Cols: 132, Rows: 50}); err != nil {
		t.Fatal(err)
	}
	// An interactive bash runs its trap at the next line. Nothing else may run
	// meanwhile: it is the foreground that gets the signal.
	eventually(t, "the shell hears of it", func() bool {
		s.types(t, "\n")
		return strings.Contains(s.text(), "resized to 50 132\n")
	})
	s.types(t, "stty size | sed 's/^/now /'\n")
	s.sees(t, "now 50 132\n")
	s.types(t, "exit\n")
	s.ends(t)
}

func TestAShellHasJobControl(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	s := h.shell(t, "alice", "web-1")

	waiting := "sh -c 'echo wait''ing; exec sleep 1000'\n"
	s.types(t, waiting)
	s.sees(t, "waiting\n")
	s.types(t, "\x03")
	s.sees(t, prompt)
	s.shows(t, "echo $?", "130\n")

	s.types(t, waiting)
	s.sees(t, "waiting\n")
	s.types(t, "\x1a")
	s.sees(t, "Stopped")
	s.sees(t, prompt)
	s.shows(t, "bg >/dev/null; jobs -r | wc -l; kill %1; wait %1 2>/dev/null; echo $?", "1\n143\n")
	if strings.Contains(s.text(), "no job control") {
		t.Errorf("%s", s.text())
	}
}

func TestACommandMayHaveATerminal(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	s := h.terminal(t, "alice", c.ID[:8], "-t", "/dev/crashcart/bin/tcpdump --version")
	if got := s.ends(t); got.code != 0 || !strings.Contains(got.stdout, "tcpdump version") || strings.Contains(got.stdout, "recorded as") {
		t.Errorf("%+v", got)
	}
	// Exec without a shell, too.
	s = h.terminal(t, "bob", "web-1", "-t", "/dev/crashcart/bin/tcpdump --version")
	if got := s.ends(t); got.code != 0 || !strings.Contains(got.stdout, "tcpdump version") {
		t.Errorf("%+v", got)
	}
}
