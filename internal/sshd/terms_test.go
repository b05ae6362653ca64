package sshd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// changing is a hall whose policy changes.
type changing struct {
	*hall
	policy atomic.Pointer[authz.Policy]
}

func newChanging(t *testing.T, rules string, adjust ...func(*Server)) *changing {
	t.Helper()
	c := new(changing)
	c.hall = newHall(t, append(adjust, func(s *Server) { s.Policy = c.policy.Load })...)
	c.change(rules)
	return c
}

func (c *changing) change(rules string) { c.policy.Store(c.policyOf(rules)) }

// started is a command that runs, and has said so.
type started struct {
	*gossh.Session
	in  io.WriteCloser
	out io.Reader
	err *syncBuffer
}

func start(t testing.TB, client *gossh.Client, pty bool, command string) *started {
	t.Helper()
	s := &started{Session: open(t, client), err: new(syncBuffer)}
	s.Stderr = s.err
	s.in, _ = s.StdinPipe()
	s.out, _ = s.StdoutPipe()
	if pty {
		if err := s.RequestPty("dumb", 24, 80, gossh.TerminalModes{gossh.ECHO: 0}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start("echo ready; " + command); err != nil {
		t.Fatal(err)
	}
	s.awaitOutput(t, "ready")
	return s
}

// awaitOutput reads until something was said.
func (s *started) awaitOutput(t testing.TB, want string) string {
	t.Helper()
	var got []byte
	for b := make([]byte, 1); !bytes.Contains(got, []byte(want)); {
		if _, err := s.out.Read(b); err != nil {
			t.Fatalf("%q, and no %q", got, want)
		}
		got = append(got, b...)
	}
	return string(got)
}

const webRule = `  - {name: web, who: [alice, bob], targets: [{name: "web-*"}], allow: [shell]}`

func webTerms(terms string) string {
	return `  - {name: web, who: [alice, bob], targets: [{name: "web-*"}], allow: [shell], terms: {` + terms + `}}`
}

func TestASessionsHourEndsItWithWordsAndOnTheRecord(t *testing.T) {
	for _, pty := range []bool{false, true} {
		h := newChanging(t, webTerms("max: 3s"))
		s := start(t, h.dial("web-1", h.alice), pty, "sleep 1000")
		rest, _ := io.ReadAll(s.out)
		code, _ := result(t, s.Wait())
		warning, last := "cartsshd: this session ends in 0 s (max 3s by rule web)", "cartsshd: the session's hour is over (max 3s by rule web)"
		want := ran{err: warning + "\n" + last + "\n", code: 255}
		if pty {
			want = ran{out: "\r\n" + warning + "\r\n\r\n" + last + "\r\n", code: 255}
		}
		got := ran{strings.TrimPrefix(strings.TrimPrefix(string(rest), "\r"), "\n"), s.err.String(), code, ""}
		if pty {
			got.out = "\r\n" + strings.TrimLeft(string(rest), "\r\n")
		}
		if got != want {
			t.Errorf("pty %v: %+v", pty, got)
		}
		closed := h.recorded(audit.SessionClose)
		if e := closed[0].Exit; e.Code != 255 || e.Reason != "the session's hour is over (max 3s by rule web)" {
			t.Errorf("%+v", e)
		}
		if screen, err := audit.Transcript(h.record, closed[0].Session); pty && (err != nil || !strings.Contains(screen, warning) || !strings.Contains(screen, last)) {
			t.Errorf("%q, %v", screen, err)
		}
	}
}

func TestASessionInWhichNothingIsTypedEnds(t *testing.T) {
	h := newChanging(t, webTerms("idle: 300ms"))
	s := start(t, h.dial("web-1", h.alice), false, "while :; do echo output counts for nothing; sleep 0.01; done")
	go io.Copy(io.Discard, s.out)
	code, _ := result(t, s.Wait())
	if code != 255 || !strings.HasSuffix(s.err.String(), "cartsshd: nothing was typed for too long (idle 300ms by rule web)\n") {
		t.Errorf("%d, %q", code, s.err)
	}
}

func TestSoManySessionsOfOnePersonByOneRule(t *testing.T) {
	h := newChanging(t, webTerms("sessions: 2"))
	client := h.dial("web-1", h.alice)
	first, second := start(t, client, false, "cat"), start(t, h.dial("web-2", h.alice), false, "cat")
	got := runOn(t, client, "true")
	if got.code != 255 || got.err != "cartsshd: you have 2 sessions by rule web already, and it allows no more\n" {
		t.Errorf("%+v", got)
	}
	if got := runOn(t, h.dial("web-1", h.bob), "true"); got.code != 0 {
		t.Errorf("bob: %+v", got)
	}
	first.in.Close()
	first.Wait()
	for range 20 { // one after the other: a place is free when its client hears of the end
		if got := runOn(t, client, "true"); got.code != 0 {
			t.Fatalf("after one has ended: %+v", got)
		}
	}
	second.in.Close()
	second.Wait()
	denied := h.recorded(audit.SessionDenied)
	if len(denied) != 1 || denied[0].Rule != "web" || denied[0].Detail != "you have 2 sessions by rule web already, and it allows no more" {
		t.Errorf("%+v", denied)
	}
	if len(h.server.running.seats) != 0 || len(h.server.running.sessions) != 0 {
		t.Errorf("left: %v, %v", h.server.running.seats, h.server.running.sessions)
	}
}

func TestAPlaceIsFreeAfterAPanicToo(t *testing.T) {
	h := newChanging(t, webTerms("sessions: 1"))
	h.start = func(*nsexec.Cmd) (process, error) { panic("no") }
	client := h.dial("web-1", h.alice)
	for range 3 {
		if got := runOn(t, client, "true"); !strings.Contains(got.err, "internal error") {
			t.Fatalf("%+v", got)
		}
	}
}

func TestManyComeForTheLastPlace(t *testing.T) {
	var r running
	var in atomic.Int32
	done := make(chan bool)
	for range 100 {
		go func() {
			if _, ok := r.take(&seat{names: []string{"alice"}}, 7); ok {
				in.Add(1)
			}
			done <- true
		}()
	}
	for range 100 {
		<-done
	}
	if in.Load() != 7 {
		t.Errorf("%d", in.Load())
	}
}

func (c *changing) lock(l authz.Lock) {
	c.policy.Store(c.policy.Load().With(nil, []authz.Lock{l}))
}

func TestALockEndsWhatRunsAndNothingElse(t *testing.T) {
	h := newChanging(t, webRule)
	alice, bob := start(t, h.dial("web-1", h.alice), false, "sleep 1000"), start(t, h.dial("web-1", h.bob), false, "cat")
	h.lock(authz.Lock{ID: "l1", Person: "alice", Reason: "INC-9", By: "root"})
	h.server.Judge()
	code, _ := result(t, alice.Wait())
	if code != 255 || alice.err.String() != "cartsshd: this session was ended: locked by root: INC-9\n" {
		t.Errorf("%d, %q", code, alice.err)
	}
	h.server.Judge()
	bob.in.Close()
	if err := bob.Wait(); err != nil || bob.err.String() != "" {
		t.Errorf("bob: %v, %q", err, bob.err)
	}
	closed := h.recorded(audit.SessionClose)
	if e := closed[0].Exit; e.Code != 255 || e.Reason != "this session was ended: locked by root: INC-9" {
		t.Errorf("%+v", e)
	}
}

// The client takes nothing any more, not even its packets: it stands still.
func TestALockEndsASessionWhoseClientStandsStill(t *testing.T) {
	h := newChanging(t, webRule)
	ended := make(chan *here, 1)
	h.start = func(c *nsexec.Cmd) (process, error) {
		p, err := startHere(c)
		if err == nil {
			ended <- p.(*here)
		}
		return p, err
	}
	client := h.dial("web-1", h.alice)
	for _, pty := range []bool{false, true} {
		s := start(t, client, pty, "cat /dev/zero") // and nobody reads s.out
		p := <-ended
		h.lock(authz.Lock{ID: "l1", Person: "alice", By: "root"})
		h.server.Judge()
		<-p.ended
		h.awaitTimes(audit.SessionClose, map[bool]int{false: 1, true: 2}[pty]) // while the client still reads nothing
		s.Close()
		h.change(webRule)
	}
}

// frozen is a network on which nothing arrives at the client while it is held.
type frozen struct {
	net.Conn
	held sync.RWMutex
}

func (f *frozen) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p[:min(len(p), 1<<10)])
	f.held.RLock()
	defer f.held.RUnlock()
	return n, err
}

func TestALockEndsSessionsOfAConnectionThatIsStuck(t *testing.T) {
	h := newChanging(t, webRule)
	raw, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	raw.(*net.TCPConn).SetReadBuffer(4 << 10)
	network := &frozen{Conn: raw}
	conn, channels, requests, err := gossh.NewClientConn(network, h.addr, &gossh.ClientConfig{User: "web-1", Auth: []gossh.AuthMethod{gossh.PublicKeys(h.alice)}, HostKeyCallback: gossh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	client := gossh.NewClient(conn, channels, requests)
	defer client.Close()
	const many = 6
	var all []*started
	for range many {
		all = append(all, start(t, client, false, "read x; cat /dev/zero"))
	}
	network.held.Lock()
	defer network.held.Unlock()
	for _, s := range all {
		io.WriteString(s.in, "\n")
	}
	wire := h.server.running.all()[0].conn.wire
	for full := false; !full; {
		wire.mu.Lock()
		full = len(wire.queue) > queueSize-64<<10
		wire.mu.Unlock()
	}
	h.lock(authz.Lock{ID: "l1", Person: "alice", By: "root"})
	h.server.Judge()
	h.awaitTimes(audit.SessionClose, many)
}

// awaitTimes returns when an event is so often in the record.
func (h *hall) awaitTimes(event string, want int) {
	for n := 0; n < want; {
		n = 0
		for r, err := range audit.ReadJournal(h.record) {
			if err == nil && r.Event == event {
				n++
			}
		}
	}
}

func TestWhoIsNoLongerAllowedIsWarnedAndThenEnded(t *testing.T) {
	h := newChanging(t, webRule, func(s *Server) { s.leave = 100 * time.Millisecond })
	s := start(t, h.dial("web-1", h.alice), true, "sleep 1000")
	h.change(`  - {name: web, who: [bob], targets: [{name: "web-*"}], allow: [shell]}`)
	h.server.Judge()
	s.awaitOutput(t, "cartsshd: the policy has changed: this session ends in 0 s\r\n")
	s.awaitOutput(t, "cartsshd: the policy has changed: this session was ended\r\n")
	if code, _ := result(t, s.Wait()); code != 255 {
		t.Error(code)
	}
	if e := h.recorded(audit.SessionClose)[0].Exit; e.Reason != "no longer allowed: no rule matches" {
		t.Errorf("%+v", e)
	}
}

func TestAPolicyThatIsPutRightInTimeKeepsTheSession(t *testing.T) {
	h := newChanging(t, webRule)
	s := start(t, h.dial("web-1", h.alice), true, "read x; exit 7")
	h.change(`  - {name: other, who: [bob], targets: [{name: "web-*"}], allow: [shell]}`)
	h.server.Judge()
	s.awaitOutput(t, "this session ends in 10 s\r\n")
	h.change(webRule)
	h.server.Judge()
	s.awaitOutput(t, "this session stays\r\n")
	for session := range h.server.running.sessions {
		if n := len(session.clock.limits); n != 0 {
			t.Errorf("%d limits are left", n)
		}
	}
	io.WriteString(s.in, "\n")
	if code, _ := result(t, s.Wait()); code != 7 {
		t.Error(code)
	}
}

func TestASessionMayNotGoOnWithOtherPrivileges(t *testing.T) {
	h := newChanging(t, webRule, func(s *Server) { s.leave = 50 * time.Millisecond })
	s := start(t, h.dial("web-1", h.alice), false, "sleep 1000")
	h.change(webTerms("profile: restricted"))
	h.server.Judge()
	if code, _ := result(t, s.Wait()); code != 255 {
		t.Error(code)
	}
	if e := h.recorded(audit.SessionClose)[0].Exit; e.Reason != "no longer allowed: rule web gives other privileges" {
		t.Errorf("%+v", e)
	}
}

func TestASessionThatRunsGetsNewLimits(t *testing.T) {
	h := newChanging(t, webRule)
	s := start(t, h.dial("web-1", h.alice), false, "sleep 1000")
	h.change(webTerms("max: 1ms"))
	h.server.Judge()
	if code, _ := result(t, s.Wait()); code != 255 || s.err.String() != "cartsshd: the session's hour is over (max 1ms by rule web)\n" {
		t.Errorf("%d, %q", code, s.err)
	}
}

func TestAPolicyThatComesWhileASessionBeginsHoldsForIt(t *testing.T) {
	h := newChanging(t, webRule)
	h.start = func(c *nsexec.Cmd) (process, error) {
		h.lock(authz.Lock{ID: "l1", By: "root", Reason: "all"})
		h.server.Judge() // knows nothing of it yet
		return startHere(c)
	}
	if got := h.run("sleep 1000"); got.code != 255 || got.err != "cartsshd: this session was ended: locked by root: all\n" {
		t.Errorf("%+v", got)
	}
}

func TestSessionsAreNotEndedByTheHoursOfTheirRule(t *testing.T) {
	h := newChanging(t, webRule)
	s := start(t, h.dial("web-1", h.alice), false, "cat")
	for session := range h.server.running.sessions {
		if age := time.Since(session.standing.question.Time); age <= 0 {
			t.Errorf("asked as of %v", session.standing.question.Time)
		}
	}
	h.server.Judge()
	s.in.Close()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// bind has alice's key bound by these options.
func (c *changing) bind(options string) *changing {
	c.options = options
	c.change(webRule)
	return c
}

func TestABoundKeyRunsItsCommandWhateverIsAskedFor(t *testing.T) {
	h := newChanging(t, webRule).bind(`command="echo \"bound, not ${SSH_ORIGINAL_COMMAND-a shell}\""`)
	client := h.dial("web-1", h.alice)
	if got := runOn(t, client, "id; $(id)"); got.out != "bound, not id; $(id)\n" || got.code != 0 {
		t.Errorf("%+v", got)
	}
	s := open(t, client)
	var out bytes.Buffer
	s.Stdout = &out
	s.RequestPty("dumb", 24, 80, nil)
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 0 || out.String() != "bound, not a shell\r\n" {
		t.Errorf("%d, %q", code, out.String())
	}
	opened := h.recorded(audit.SessionOpen)
	for i, asked := range []string{"id; $(id)", "a shell"} {
		if r := opened[i]; r.Kind != "exec" || !strings.HasPrefix(r.Command, "echo ") || r.Asked != asked {
			t.Errorf("%+v", r)
		}
	}
}

func TestAKeyThatIsNotForTerminalsGetsNone(t *testing.T) {
	h := newChanging(t, webRule).bind("no-pty")
	s := h.session()
	if s.RequestPty("dumb", 24, 80, nil) == nil {
		t.Error("it has a terminal")
	}
	if out, err := s.Output("tty"); string(out) != "not a tty\n" {
		t.Errorf("%q, %v", out, err)
	}
	if r := h.recorded(audit.RequestRefused); len(r) != 1 || r[0].Detail != "pty-req: the key is not for terminals" {
		t.Errorf("%+v", r)
	}
}

func TestAKeyThatIsNotForTerminalsAnyMoreGetsNone(t *testing.T) {
	h := newChanging(t, webRule)
	s := h.session()
	if err := s.RequestPty("dumb", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	h.bind("no-pty")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 255 {
		t.Error(code)
	}
}

func TestVariablesComeInByTheRulesList(t *testing.T) {
	h := newChanging(t, `  - {name: web, who: [alice], targets: [{name: "web-*"}], allow: [shell, env: ["APP_*"]]}`)
	s := h.session()
	for name, ok := range map[string]bool{"APP_ENV": true, "OTHER": true, "PATH": false, "LD_PRELOAD": false, "APP_ENV=X": false, "GIT_CONFIG_COUNT": false, "CARTSSHD_PERSON": false} {
		if err := s.Setenv(name, "a/b c"); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Setenv("APP_CONTROL", "a\nb") == nil {
		t.Error("a value of two lines")
	}
	out, err := s.Output("/usr/bin/env | grep -E '^(APP|OTHER)'")
	if string(out) != "APP_ENV=a/b c\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAScreenThatIsNotToBeRecordedIsNot(t *testing.T) {
	h := newChanging(t, webTerms("record: {output: none}"))
	s := h.session()
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("exit 6\n"), &out
	s.RequestPty("dumb", 24, 80, nil)
	s.Shell()
	code, _ := result(t, s.Wait())
	opened := h.recorded(audit.SessionOpen)[0]
	if code != 6 || opened.Recording != nil || opened.Output != audit.Unkept || opened.PTY == nil {
		t.Errorf("%d, %+v", code, opened)
	}
	if want := "alice in web-1 · screen not recorded, in the journal as " + opened.Session + " · rule web\r\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("%q", out.String())
	}
	if _, err := audit.Transcript(h.record, opened.Session); err == nil {
		t.Error("there is a recording")
	}
}

func TestTheGreetingNamesTheLimits(t *testing.T) {
	h := newChanging(t, webTerms("max: 1h, idle: 10m"))
	s := h.session()
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("exit\n"), &out
	s.RequestPty("dumb", 24, 80, nil)
	s.Shell()
	s.Wait()
	greeting, _, _ := strings.Cut(out.String(), "\r\n")
	if !strings.Contains(greeting, " · rule web · until ") || !strings.HasSuffix(greeting, " (max 1h) · ends after 10m idle") {
		t.Errorf("%q", greeting)
	}
}

func TestThousandsAreJudgedWithoutWaitingForAnyone(t *testing.T) {
	h := newChanging(t, webRule)
	policy := h.policy.Load()
	for n := range 5000 {
		s := &session{conn: &conn{}, server: h.server, key: h.alice.PublicKey(), over: make(chan ending, 1)}
		who, _ := policy.Identify(authz.Credential{Key: s.key})
		s.standing = standing{who: who, question: authz.Request{Kind: authz.Shell, Target: authz.Target{Runtime: "docker", ID: "x", Name: fmt.Sprint("web-", n)}}}
		s.standing.decision = policy.Decide(who, s.standing.question)
		s.clock = newClock(func(string) {}, s.dismiss)
		h.server.running.add(s)
	}
	h.server.Judge()
	h.lock(authz.Lock{ID: "l", Target: "web-7"})
	h.server.Judge()
	h.server.Judge() // whoever ends already is not waited for
	n := 0
	for _, s := range h.server.running.all() {
		n += len(s.over)
	}
	if n != 1 {
		t.Errorf("%d were ended", n)
	}
}

func TestTheServerStopsWhileItsSessionsAreLocked(t *testing.T) {
	h := newChanging(t, webRule)
	var all []*started
	for range 10 {
		all = append(all, start(t, h.dial("web-1", h.alice), false, "sleep 1000"))
	}
	h.lock(authz.Lock{ID: "l", By: "root"})
	go h.server.Judge()
	if err := h.stop(); err != nil && err != context.Canceled {
		t.Error(err)
	}
	for _, s := range all {
		if code, _ := result(t, s.Wait()); code != 255 {
			t.Error(code)
		}
	}
}

func TestWhoHasANameInCommonIsOneAndSitsOnOneOfTheSeats(t *testing.T) {
	var r running
	first := &seat{names: []string{"a@corp", "b@corp"}, rule: "web"}
	for _, test := range []struct {
		seat *seat
		ok   bool
	}{
		{first, true},
		{&seat{names: []string{"b@corp", "a@corp"}, rule: "web"}, false},
		{&seat{names: []string{"b@corp"}, rule: "web"}, false},
		{&seat{names: []string{"c@corp"}, rule: "web"}, true},
		{&seat{names: []string{"b@corp"}, rule: "db"}, true},
		{&seat{names: []string{"b@corp"}, rule: "web", known: true}, true},
	} {
		if _, ok := r.take(test.seat, 1); ok != test.ok {
			t.Errorf("%+v: %v", test.seat, ok)
		}
	}
	r.free(first)
	if _, ok := r.take(&seat{names: []string{"b@corp"}, rule: "web"}, 1); !ok {
		t.Error("the seat is not free again")
	}
}

func TestALockThatComesWhileTheWayIsMadeComesBeforeTheCommand(t *testing.T) {
	h := newChanging(t, webRule)
	h.start = func(c *nsexec.Cmd) (process, error) {
		h.policy.Store(h.policy.Load().With(nil, []authz.Lock{{ID: "1", Person: "alice", Reason: "laptop stolen", By: "root"}}))
		if err := c.Ready(); err != nil {
			return nil, err
		}
		return startHere(c)
	}
	if got := h.run("echo ran"); got.out != "" || got.code != 255 {
		t.Errorf("%+v", got)
	}
	if r := h.recorded(audit.SessionClose); len(r) != 1 || !strings.Contains(string(r[0].Exit.Reason), "no longer allowed: locked by root: laptop stolen") {
		t.Errorf("%+v", r)
	}
}
