package e2e_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/cartsshd/cartsshd/internal/need"
)

// result is how a client ended, and what its user has seen.
type result struct {
	stdout, stderr string
	code           int
}

// ssh is OpenSSH's client, at its defaults, with somebody's key:
//
//	ssh login@host args…
func (h *host) ssh(t testing.TB, who, login string, args ...string) *exec.Cmd {
	t.Helper()
	need.Tool(t, "ssh", "openssh-client")
	argv := append(h.options(), "-p", h.port, "-i", privateKey(who), login+"@127.0.0.1")
	return command("ssh", append(argv, args...)...)
}

// options are what ssh, scp and sftp need to know of this host.
func (h *host) options() []string {
	return []string{"-F", "none", "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=cartsshd",
		"-o", "UserKnownHostsFile=" + h.path("known_hosts"), "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"}
}

// command has nothing of our own environment but what programs need.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TERM=xterm", "GORACE=" + os.Getenv("GORACE")}
	return cmd
}

// run runs ssh to its end, with nothing to read.
func (h *host) run(t testing.TB, who, login string, args ...string) result {
	t.Helper()
	return finish(t, h.ssh(t, who, login, args...))
}

// finish runs a program to its end.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(3*patience, func() { cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	if !hung.Stop() {
		t.Fatalf("%s: hung\n%s%s", cmd, stdout.String(), stderr.String())
	}
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// is fails unless all of a result is as it should be.
func (r result) is(t testing.TB, want result) {
	t.Helper()
	if r != want {
		t.Errorf("got  %d %q %q\nwant %d %q %q", r.code, r.stdout, r.stderr, want.code, want.stdout, want.stderr)
	}
}

// session is a client that runs beside the test.
type session struct {
	cmd            *exec.Cmd
	stdout, stderr *screen
	in             io.WriteCloser // what the user types, or pipes in
	window         *os.File       // of a terminal; else nil
	seen           int            // so much of stdout has been waited for
	ended          chan struct{}
}

// begin runs ssh without a terminal.
func (h *host) begin(t testing.TB, who, login string, args ...string) *session {
	t.Helper()
	s := &session{cmd: h.ssh(t, who, login, args...), stdout: &screen{}, stderr: &screen{}}
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.in = in
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.mind(t, func() {})
	return s
}

// terminal runs ssh in a terminal of 80 by 24 characters.
func (h *host) terminal(t testing.TB, who, login string, args ...string) *session {
	t.Helper()
	return inTerminal(t, h.ssh(t, who, login, args...), 80, 24)
}

// inTerminal runs a program in a terminal of its own.
func inTerminal(t testing.TB, cmd *exec.Cmd, cols, rows uint16) *session {
	t.Helper()
	window, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: cols, Rows: rows})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{cmd: cmd, stdout: &screen{}, stderr: &screen{}, in: window, window: window}
	shown := make(chan struct{})
	go func() { // until nobody has the terminal open
		io.Copy(s.stdout, window)
		close(shown)
	}()
	s.mind(t, func() { <-shown; window.Close() })
	return s
}

// mind waits for the client, and takes it away when the test ends.
func (s *session) mind(t testing.TB, after func()) {
	s.ended = make(chan struct{})
	go func() {
		s.cmd.Wait()
		after()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
	})
}

// types types.
func (s *session) types(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(s.in, text); err != nil {
		t.Fatal(err)
	}
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)

// text is what the screen shows, without colours and line ends of a terminal.
func (s *session) text() string {
	return strings.ReplaceAll(escapes.ReplaceAllString(s.stdout.String(), ""), "\r", "")
}

// sees waits until something is on the screen that was not waited for before.
func (s *session) sees(t testing.TB, want string) {
	t.Helper()
	eventually(t, want+" is on the screen", func() bool {
		text := s.text()
		at := strings.Index(text[min(s.seen, len(text)):], want)
		if at >= 0 {
			s.seen += at + len(want)
			return true
		}
		select {
		case <-s.ended:
			if !strings.Contains(s.text(), want) {
				t.Fatalf("ended without %q:\n%s%s", want, s.text(), s.stderr)
			}
		default:
		}
		return false
	})
}

// prompt is how a line of the shell ends that waits for a command.
const prompt = "# "

// does types a command at the prompt, waits for the next one, and returns what
// was shown in between.
func (s *session) does(t testing.TB, command string) string {
	t.Helper()
	from := s.seen
	// The shell puts the word together, so that its echo is not taken for it.
	s.types(t, command+"; echo do''ne\n")
	s.sees(t, "done\n")
	_, shown, _ := strings.Cut(s.text()[from:s.seen], "\n") // after the echo
	s.sees(t, prompt)
	return strings.TrimSuffix(shown, "done\n")
}

// ends waits for the client's end.
func (s *session) ends(t testing.TB) result {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatalf("%s has not ended:\n%s%s", s.cmd, s.text(), s.stderr)
	}
	return result{s.text(), s.stderr.String(), s.cmd.ProcessState.ExitCode()}
}
