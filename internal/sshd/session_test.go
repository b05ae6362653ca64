package sshd

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

func TestTheCommandsExitStatusIsTheClients(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	for _, code := range []int{0, 1, 42, 254, 255} {
		if got := runOn(t, client, fmt.Sprint("exit ", code)); got.code != code {
			t.Errorf("exit %d: %+v", code, got)
		}
	}
}

func TestOfASignalTheClientHearsTheName(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	if got := runOn(t, client, "kill -TERM $$"); got.signal != "TERM" {
		t.Errorf("%+v", got)
	}
	if got := runOn(t, client, "kill -USR2 $$"); got.signal != "USR2" {
		t.Errorf("%+v", got)
	}
	// SSH has no name for it.
	if got := runOn(t, client, "kill -XCPU $$"); got.signal != "" || got.code != 128+int(unix.SIGXCPU) {
		t.Errorf("%+v", got)
	}
	closed := h.recorded(audit.SessionClose)
	if e := closed[0].Exit; e.Code != 143 || e.Signal != "TERM" || e.Reason != "exited" {
		t.Errorf("%+v", e)
	}
}

func TestStdoutAndStderrArriveApartAndToTheLastByte(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	for range 20 {
		got := runOn(t, client, "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; printf out; printf err >&2; exit 3")
		if len(got.out) != 300003 || !strings.HasSuffix(got.out, "out") || len(got.err) != 300003 || !strings.HasSuffix(got.err, "err") || got.code != 3 {
			t.Fatalf("%d, %d, %d", len(got.out), len(got.err), got.code)
		}
	}
}

func TestEightMegabytesGoInAndComeOutAsTheyWere(t *testing.T) {
	h := newHall(t)
	want := make([]byte, 8<<20)
	rand.Read(want)
	s := h.session()
	var got bytes.Buffer
	s.Stdin, s.Stdout = bytes.NewReader(want), &got
	if err := s.Run("cat"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("%d bytes came back, and not the same", got.Len())
	}
	closed := h.recorded(audit.SessionClose)
	if e := closed[0].Exit; e.BytesIn != 8<<20 || e.BytesOut != 8<<20 {
		t.Fatalf("%+v", e)
	}
}

func TestEndOfInputReachesTheCommandAndItsAnswerTheClient(t *testing.T) {
	h := newHall(t)
	s := h.session()
	s.Stdin = strings.NewReader("b\na\n")
	out, err := s.Output("sort; echo sorted")
	if err != nil || string(out) != "a\nb\nsorted\n" {
		t.Fatalf("%q, %v", out, err)
	}
}

func TestACommandThatDoesNotReadIsNotWaitedFor(t *testing.T) {
	h := newHall(t)
	s := h.session()
	s.Stdin = endless{}
	if out, err := s.Output("exec <&-; echo done"); err != nil && err != io.EOF || string(out) != "done\n" {
		t.Fatalf("%q, %v", out, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Somebody in the container may have been given the other end, and keep it.
func TestOutputThatSomebodyKeepsOpenEndsWithItsCommand(t *testing.T) {
	h := newHall(t)
	for _, pty := range []bool{false, true} {
		s := h.session()
		if pty {
			if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
				t.Fatal(err)
			}
		}
		ended := make(chan error, 1)
		var out []byte
		go func() {
			var err error
			// What has a session of its own is not the fake's to kill.
			out, err = s.Output("trap '' HUP; setsid sleep 20 & sleep 0.2; head -c 100000 /dev/zero | tr '\\0' x")
			ended <- err
		}()
		select {
		case err := <-ended:
			if n := bytes.Count(out, []byte("x")); err != nil || n != 100000 {
				t.Errorf("pty %v: %d bytes, %v", pty, n, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("pty %v: it goes on", pty)
		}
	}
}

func TestWhatACommandLeavesBehindEndsWithIt(t *testing.T) {
	h := newHall(t)
	got := h.run("sleep 1000 & echo $!")
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	var pid int
	fmt.Sscan(got.out, &pid)
	for range 500 {
		// It may be a zombie, until somebody reaps it. The fake does not wait until
		// what it has killed is dead.
		if state := processState(pid); state == "" || state == "Z" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d lives on", pid)
}

func TestAScriptComesOnStdin(t *testing.T) {
	h := newHall(t)
	s := h.session()
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("echo one\nexit 5\necho two\n"), &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 5 || out.String() != "one\n" {
		t.Fatalf("%d, %q", code, out.String())
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	h := newHall(t)
	s := h.session()
	out, _ := s.StdoutPipe()
	if err := s.Start("trap 'echo trapped; exit 9' USR1; echo ready; while :; do sleep 0.01; done"); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("ready\n")))
	if err := s.Signal(gossh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if code, _ := result(t, s.Wait()); code != 9 || string(rest) != "trapped\n" {
		t.Fatalf("%d, %q", code, rest)
	}
}

func TestATerminalHasItsSizeItsModesAndItsResizes(t *testing.T) {
	h := newHall(t)
	s := h.session()
	out, _ := s.StdoutPipe()
	in, _ := s.StdinPipe()
	if err := s.RequestPty("xterm-256color", 33, 101, gossh.TerminalModes{gossh.ECHO: 0, gossh.VINTR: 7}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(`tty -s && stty size && stty -a | grep -o -e '-echo\b' -e 'intr = ..' && echo $TERM; trap 'stty size; exit 4' WINCH; echo ready; while :; do read -t 0.01; done`); err != nil {
		t.Fatal(err)
	}
	want := "33 101\r\nintr = ^G\r\n-echo\r\nxterm-256color\r\nready\r\n"
	got := make([]byte, len(want))
	io.ReadFull(out, got)
	if string(got) != want {
		t.Fatalf("%q", got)
	}
	if err := s.WindowChange(40, 120); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	in.Close()
	if code, _ := result(t, s.Wait()); code != 4 || string(rest) != "40 120\r\n" {
		t.Fatalf("%d, %q", code, rest)
	}
}

func TestAShellGreetsAndEndsWithItsInput(t *testing.T) {
	h := newHall(t)
	s := h.session()
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("exit 6\n"), &out
	s.RequestPty("dumb", 24, 80, nil)
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	code, _ := result(t, s.Wait())
	opened := h.recorded(audit.SessionOpen)
	want := "alice in web-1 · recorded as " + opened[0].Session + " · rule web\r\n"
	if code != 6 || !strings.HasPrefix(out.String(), want) {
		t.Fatalf("%d, %q", code, out.String())
	}
	screen, err := audit.Transcript(h.record, opened[0].Session)
	if err != nil || !strings.Contains(screen, "alice in web-1") {
		t.Fatalf("the greeting is not in the recording: %q, %v", screen, err)
	}
}

func TestEndOfInputEndsATerminalsShell(t *testing.T) {
	h := newHall(t)
	s := h.session()
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("echo $((6 * 7))\n"), &out
	s.RequestPty("dumb", 24, 80, nil)
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 0 || !strings.Contains(out.String(), "\n42\r\n") {
		t.Fatalf("%d, %q", code, out.String())
	}
}

func TestSessionsOfOneConnectionKnowNothingOfEachOther(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	cats := make([]*gossh.Session, 20)
	ins := make([]io.WriteCloser, len(cats))
	outs := make([]bytes.Buffer, len(cats))
	for i := range cats {
		cats[i] = open(t, client)
		cats[i].Stdout = &outs[i]
		ins[i], _ = cats[i].StdinPipe()
		if err := cats[i].Start(fmt.Sprintf("cat; exit %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range cats {
		fmt.Fprint(ins[i], i)
	}
	for i := range cats {
		ins[i].Close()
		if code, _ := result(t, cats[i].Wait()); code != i || outs[i].String() != fmt.Sprint(i) {
			t.Errorf("%d: %d, %q", i, code, outs[i].String())
		}
	}
}

func TestAConnectionHasSoManySessions(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.Sessions = 2 })
	client := h.dial("web-1", h.alice)
	first := open(t, client)
	open(t, client)
	if _, err := client.NewSession(); err == nil {
		t.Fatal("a third was opened")
	}
	first.Run("true")
	// Its place is free as soon as the server has heard that it is closed.
	for {
		if _, err := client.NewSession(); err == nil {
			return
		}
	}
}

func TestTheEnvironmentIsOursButForLanguageAndTerminal(t *testing.T) {
	t.Setenv("LD_PRELOAD_OF_THE_DAEMON", "x")
	h := newHall(t)
	s := h.session()
	for name, ok := range map[string]bool{
		"LANG": true, "LC_ALL": true, "COLORTERM": true, "TERM": true,
		"PATH": false, "LD_PRELOAD": false, "BASH_ENV": false, "HOME": false, "LC_=X": false, "BASH_FUNC_x%%": false,
	} {
		if err := s.Setenv(name, "value"); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Setenv("LC_TIME", "../../x") == nil || s.Setenv("LC_TIME", "a\x00b") == nil || s.Setenv("LC_TIME", strings.Repeat("x", 5000)) == nil {
		t.Error("a locale may be any file")
	}
	out, err := s.Output("/usr/bin/env")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "LANG", "LC_ALL", "COLORTERM", "TERM":
			if value != "value" {
				t.Error(line)
			}
		case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERMINFO_DIRS", "SSL_CERT_FILE", "HISTFILE", "LESSHISTFILE", "INPUTRC", "EDITOR", "PAGER",
			"CARTSSHD_PERSON", "CARTSSHD_TARGET", "CARTSSHD_SESSION", "_", "SHLVL", "PWD":
		default:
			t.Error("came in:", line)
		}
	}
}

func TestALocaleInUTF8IsTheImages(t *testing.T) {
	for sent, want := range map[string]string{
		"":                   "LC_CTYPE=C.UTF-8",
		"LANG=en_US.UTF-8":   "LC_CTYPE=C.UTF-8",
		"LC_ALL=de_DE.UTF-8": "LC_CTYPE=C.UTF-8",
		"LC_ALL=C":           "LC_ALL=C",
	} {
		s := newHall(t).session()
		if name, value, ok := strings.Cut(sent, "="); ok {
			if err := s.Setenv(name, value); err != nil {
				t.Fatal(err)
			}
		}
		out, err := s.Output("/usr/bin/env | grep -E '^(LC_|LANG)'")
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q became %q, %v; want %q", sent, got, err, want)
		}
	}
}

func TestEnvIsBounded(t *testing.T) {
	h := newHall(t)
	s := h.session()
	taken := 0
	for n := range 1000 {
		if s.Setenv(fmt.Sprint("LC_", n), "x") == nil {
			taken++
		}
	}
	if taken != maxEnv {
		t.Fatalf("%d were taken", taken)
	}
}

func TestDeniedUnknownAmbiguousAndMalformedAreOneSentenceToThePersonAndFourToTheRecord(t *testing.T) {
	h := newHall(t)
	why := map[string]string{
		"db-1":       "no rule matches",
		"web-9":      "no such container",
		"twice":      "more than one container",
		"web-1\x1b[": "not the name of a container",
	}
	for login := range why {
		got := runOn(t, h.dial(login, h.alice), "true")
		want := "cartsshd: " + audit.Printable(login) + ": no container of that name is yours to enter\n"
		if got.code != 255 || got.err != want || got.out != "" {
			t.Errorf("%s: %+v", login, got)
		}
	}
	denied := h.recorded(audit.SessionDenied)
	if len(denied) != len(why) {
		t.Fatalf("%+v", denied)
	}
	for _, r := range denied {
		if r.Person.Name != "alice" || r.Command != "true" || !strings.Contains(r.Detail, why[r.Login]) {
			t.Errorf("%+v", r)
		}
	}
}

func TestTheToolsThatARuleDemandsAreOnTheRecordOrTheSessionDoesNotRun(t *testing.T) {
	h := newHall(t)
	for _, login := range []string{"web-1", "web-a"} {
		if got := runOn(t, h.dial(login, h.alice), "echo in"); got.out != "in\n" || got.code != 0 {
			t.Errorf("%s: %+v", login, got)
		}
	}
	got := runOn(t, h.dial("web-b", h.alice), "echo in")
	if want := (ran{err: "cartsshd: web-b: no container of that name is yours to enter\n", code: 255}); got != want {
		t.Errorf("got %+v", got)
	}
	opened := h.recorded(audit.SessionOpen)
	if len(opened) != 2 || opened[0].Tools != "sha256:a" || opened[1].Tools != "sha256:a" {
		t.Errorf("opened %+v", opened)
	}
	denied := h.recorded(audit.SessionDenied)
	if len(denied) != 1 || denied[0].Rule != "with-b" || denied[0].Detail != "there is no b on the shelf" || denied[0].Target == nil {
		t.Errorf("denied %+v", denied)
	}
	if n := h.tools.out.Load(); n != 0 {
		t.Errorf("%d tools were not given back", n)
	}
}

func TestAllowedCommandsRunWithoutAShell(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.bob)
	if got := runOn(t, client, "/bin/echo a '$(id)' ; b"); got.out != "a $(id) ; b\n" || got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := runOn(t, client, "/bin/nothing"); got.code != 127 || got.err != "cartsshd: /bin/nothing: command not found\n" {
		t.Errorf("%+v", got)
	}
	if got := runOn(t, client, "/etc/passwd"); got.code != 126 {
		t.Errorf("%+v", got)
	}
	if got := runOn(t, client, "/bin/id"); got.code != 255 {
		t.Errorf("%+v", got)
	}
	s := open(t, client)
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 255 {
		t.Errorf("a shell: %d", code)
	}
}

func TestAWayInThatFailsIsOneLineAndTheCauseIsRecorded(t *testing.T) {
	h := newHall(t)
	h.start = func(*nsexec.Cmd) (process, error) {
		return nil, &nsexec.JoinError{Step: "setns user", Err: unix.EPERM}
	}
	got := h.run("true")
	if got.code != 255 || got.err != "cartsshd: web-1 could not be entered; the server's log says why\n" {
		t.Fatalf("%+v", got)
	}
	closed := h.recorded(audit.SessionClose)
	if !strings.Contains(string(closed[0].Exit.Reason), "setns user: operation not permitted") {
		t.Fatalf("%+v", closed[0].Exit)
	}
}

func TestNothingRunsThatCannotBeRecorded(t *testing.T) {
	h := newHall(t)
	h.start = func(*nsexec.Cmd) (process, error) { t.Error("it ran"); return nil, unix.EPERM }
	client := h.dial("web-1", h.alice)
	h.server.Record.Close()
	got := runOn(t, client, "true")
	if got.code != 254 || got.err != "cartsshd: this session could not be recorded, so it was not run\n" {
		t.Fatalf("%+v", got)
	}
}

func TestAnEndThatCannotBeRecordedIsNoSuccess(t *testing.T) {
	o := newOpenSSH(t)
	for _, flags := range [][]string{nil, {"-tt"}} {
		c := o.cmd(flags...)
		c.Args = append(c.Args, "echo ready; read x")
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		var words bytes.Buffer
		c.Stderr = &words
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, len("ready\n")))
		o.server.Record.Close()
		io.WriteString(in, "\n")
		shown, _ := io.ReadAll(out)
		c.Wait()
		said := strings.Contains(string(shown)+words.String(), "cartsshd: how this session ended could not be recorded")
		if code := c.ProcessState.ExitCode(); code != 254 || !said {
			t.Errorf("%v: exit status %d, %q, %q", flags, code, shown, words.String())
		}
		o = newOpenSSH(t)
	}
}

func TestAContainerThatStopsEndsItsSessionsWithTheWords(t *testing.T) {
	h := newHall(t)
	s, other := h.session(), open(t, h.dial("web-2", h.alice))
	var words bytes.Buffer
	s.Stderr = &words
	out, _ := s.StdoutPipe()
	if err := s.Start("echo ready; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	otherIn, _ := other.StdinPipe()
	if err := other.Start("cat"); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("ready\n")))
	h.containers["web-1"].Process.Kill()
	if code, _ := result(t, s.Wait()); code != 137 || words.String() != "cartsshd: container web-1 stopped\n" {
		t.Fatalf("%d, %q", code, words.String())
	}
	otherIn.Close()
	if err := other.Wait(); err != nil {
		t.Fatal("the other container's session:", err)
	}
	if closed := h.recorded(audit.SessionClose); closed[0].Exit.Reason != "container web-1 stopped" {
		t.Fatalf("%+v", closed[0].Exit)
	}
}

func TestTheLastWordsAreOnTheRecordedScreen(t *testing.T) {
	h := newHall(t)
	s := h.session()
	out, _ := s.StdoutPipe()
	s.RequestPty("dumb", 24, 80, nil)
	if err := s.Start("echo ready; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("ready\r\n")))
	h.containers["web-1"].Process.Kill()
	rest, _ := io.ReadAll(out)
	s.Wait()
	if string(rest) != "\r\ncartsshd: container web-1 stopped\r\n" {
		t.Fatalf("%q", rest)
	}
	screen, err := audit.Transcript(h.record, h.recorded(audit.SessionOpen)[0].Session)
	if err != nil || !strings.Contains(screen, "container web-1 stopped") {
		t.Fatalf("%q, %v", screen, err)
	}
}

func TestAClientThatLeavesTakesItsCommandAlong(t *testing.T) {
	h := newHall(t)
	for name, leave := range map[string]func(*gossh.Client, *gossh.Session){
		"closes the channel": func(_ *gossh.Client, s *gossh.Session) { s.Close() },
		"hangs up":           func(c *gossh.Client, _ *gossh.Session) { c.Close() },
	} {
		ended := make(chan *here, 1)
		h.start = func(c *nsexec.Cmd) (process, error) {
			p, err := startHere(c)
			if err == nil {
				ended <- p.(*here)
			}
			return p, err
		}
		client := h.dial("web-1", h.alice)
		s := open(t, client)
		if err := s.Start("sleep 1000"); err != nil {
			t.Fatal(err)
		}
		p := <-ended
		leave(client, s)
		<-p.ended
		t.Log(name)
	}
	for _, r := range h.recorded(audit.SessionClose) {
		if r.Exit.Code != 255 || r.Exit.Reason != "client left" {
			t.Errorf("%+v", r.Exit)
		}
	}
}

func TestWhatIsNotServedIsRefusedAndRecorded(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	if _, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("forwarded")
	}
	if _, err := client.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("forwards back")
	}
	s := open(t, client)
	for _, name := range []string{"x11-req", "auth-agent-req@openssh.com"} {
		if ok, err := s.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if s.RequestSubsystem("netconf") == nil {
		t.Error("a subsystem")
	}
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	if ok, _ := s.SendRequest("exec", true, gossh.Marshal(&struct{ C string }{"id"})); ok {
		t.Error("a second command")
	}
	if ok, _ := s.SendRequest("pty-req", true, nil); ok {
		t.Error("a terminal, after all")
	}
	if ok, _ := open(t, client).SendRequest("exec", true, gossh.Marshal(&struct{ C string }{"true\x00; id"})); ok {
		t.Error("a command that is another to the kernel")
	}
	if ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Error("no answer to a keepalive")
	}
	client.Close()
	refused := map[string]bool{}
	for _, r := range h.recorded(audit.RequestRefused) {
		if r.Person.Name != "alice" || r.Login != "web-1" {
			t.Errorf("%+v", r)
		}
		refused[r.Detail] = true
	}
	for _, want := range []string{"channel direct-tcpip", "request tcpip-forward", "x11-req", "auth-agent-req@openssh.com",
		"subsystem netconf", "second exec on one channel", "pty-req: too late", "exec: a command with a NUL in it"} {
		if !refused[want] {
			t.Errorf("not recorded: %s, of %v", want, refused)
		}
	}
}

func TestRefusalsDoNotFloodTheRecord(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	for range 200 {
		client.SendRequest("tcpip-forward", true, nil)
	}
	client.Close()
	if n := len(h.recorded(audit.RequestRefused)); n != maxRefused {
		t.Fatalf("%d lines", n)
	}
}
