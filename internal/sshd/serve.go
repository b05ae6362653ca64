package sshd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

// serve is the story of one session: from what was asked for to how it ended.
func (s *session) serve(ctx context.Context, ask ask) ending {
	// The key was proved for the connection. Whose it is may have changed since.
	policy := s.server.Policy()
	who, err := s.identify(policy)
	if err != nil {
		return s.deny(ask, who, nil, authz.Decision{Why: err.Error()})
	}
	if s.login.typed == deskLogin {
		return s.serveDesk(ctx, ask, who)
	}
	target, err := s.resolve(ctx)
	if err != nil {
		denied := s.deny(ask, who, nil, authz.Decision{Why: err.Error()})
		denied.words = cmp.Or(s.explain(err, policy, who, ask), denied.words)
		return denied
	}
	s.keep(target)
	for _, w := range target.Warnings {
		s.server.Logger.Warn("looking for a container", "login", brief(s.login.name), "err", w)
	}
	question := s.question(ask, Judged(target))
	decision := policy.Decide(who, question)
	switch {
	case !decision.Allow:
		denied := s.deny(ask, who, target, decision)
		denied.words = cmp.Or(transferOff(policy, who, question), denied.words)
		return denied
	case s.pty != nil && who.Bounds.NoPTY:
		return s.deny(ask, who, target, authz.Decision{Rule: decision.Rule, Why: "the key is not for terminals"})
	case ask.kind == authz.SFTP:
		return s.unserved(ask)
	}
	if full, ok := s.sit(ask, who, target, decision); !ok {
		return full
	}
	if denied := s.withhold(ask, who, target, decision); denied != nil {
		return *denied
	}
	who, decision, err = s.approved(ctx, ask, who, target, decision)
	if err != nil {
		return s.unapproved(ask, who, target, decision, err)
	}
	s.tools, err = s.server.Tools(decision.Terms.Image)
	if err != nil {
		return s.deny(ask, who, target, authz.Decision{Rule: decision.Rule, Why: err.Error()})
	}
	s.keep(s.tools)

	cmd := &nsexec.Cmd{Target: target.Process, Profile: profile(decision.Terms)}
	given, err := s.server.privileges(cmd)
	if err != nil {
		return s.shut(ask, who, target, decision, err)
	}
	s.keep(cmd)

	s.record, err = s.server.Record.Begin(s.meta(ask, who, target, decision, given))
	if err != nil {
		return unrecorded(err)
	}
	if err := s.alarm(ask, who, target, decision); err != nil {
		return unalarmed(err)
	}
	s.streams, err = s.open()
	if err != nil {
		return notEntered(target, decision, err)
	}
	s.keep(s.streams)
	s.fill(cmd, ask, who, target, decision)
	cmd.Ready = func() error { return s.ready(policy, question) }
	process, err := s.server.enter(cmd, s.tools)
	s.streams.handedOver()
	if errors.Is(err, audit.ErrUnrecorded) {
		s.record = nil // there is none
		return unrecorded(err)
	}
	if err != nil {
		return notEntered(target, decision, err)
	}
	s.keep(process)
	s.conn.settle()

	if s.pty != nil && decision.Command == "" && ask.kind == authz.Shell {
		s.streams.greeting = s.greeting(who, target, decision)
	}
	s.stand(policy, standing{who, question, decision})
	s.streams.flow(process)
	return s.attend(ctx, process, target)
}

// run serves a session and ends it, in the order that its client and its record
// need: how it ended; what is still on its way to the screen; the record, on the
// disk; and only then CLOSE, upon which ssh(1) returns.
func (s *session) run(ctx context.Context, ask ask) {
	defer s.letGo()
	asked := time.Now()
	ending := s.serveGuarded(ctx, ask)
	if ending.words == s.nothing() {
		s.alike(ctx, asked)
	}
	said := s.farewell(ctx, ending)
	if err := s.endRecord(ending); err != nil && said && ending.code != codeUnrecorded {
		s.tellStatus(endUnrecorded) // once more: clients take the last
		s.tell(endUnrecorded.words)
	}
	s.streams.gone()
	s.seat.Close() // before the client can come again
	if said {      // or somebody still writes, and CloseWrite must not run beside it
		s.ch.CloseWrite()
	}
	s.ch.Close()
}

// serveGuarded ends a session that panics, and that one only.
func (s *session) serveGuarded(ctx context.Context, ask ask) (e ending) {
	defer func() {
		if p := recover(); p != nil {
			s.server.panicked("session", p)
			e = failed("internal error; this session was ended", "panic")
		}
	}()
	return s.serve(ctx, ask)
}

// keep takes what is to be closed after the session's end.
func (s *session) keep(c io.Closer) { s.kept = append(s.kept, c) }

func (s *session) letGo() {
	for _, c := range slices.Backward(s.kept) {
		if err := c.Close(); err != nil {
			s.server.Logger.Warn("left behind", "login", brief(s.login.name), "err", err)
		}
	}
}

func (s *session) resolve(ctx context.Context) (*router.Target, error) {
	ref, err := router.ParseRef(s.login.name)
	if err != nil {
		return nil, err
	}
	target, err := s.server.Targets.Resolve(ctx, ref)
	s.found = isFound(err)
	return target, err
}

func (s *session) question(ask ask, target authz.Target) authz.Request {
	return authz.Request{
		Target:     target,
		BreakGlass: s.login.breakGlass,
		Kind:       ask.kind,
		Command:    ask.command,
		Time:       time.Now(),
		From:       s.conn.from,
	}
}

// Judged is what the policy may know of a target.
func Judged(t *router.Target) authz.Target {
	return authz.Target{
		Runtime: t.Runtime, ID: t.ID, Name: t.Name, Image: t.Image, Namespace: t.Namespace, Pod: t.Pod,
		Labels: t.Labels, Host: t.Host, Facts: authz.Facts(t.Facts),
	}
}

// JudgedUnpinned is what it may know of a container that could not be pinned,
// and in each way that it may be.
func JudgedUnpinned(m router.Match) (targets []authz.Target, err error) {
	possible, err := m.Facts()
	for _, facts := range possible {
		targets = append(targets, authz.Target{
			Runtime: m.Runtime, ID: m.ID, Name: m.Name, Image: m.Image, Namespace: m.Namespace, Pod: m.Pod,
			Labels: m.Labels, Host: m.Host, Facts: authz.Facts(facts),
		})
	}
	return targets, err
}

// explain says why no container was found to those who may enter it, or them:
// all others learn no more of it than that they are denied. It is empty then.
func (s *session) explain(err error, policy *authz.Policy, who authz.Subject, ask ask) string {
	mayEnter := func(m router.Match) bool {
		targets, err := JudgedUnpinned(m)
		denied := func(t authz.Target) bool { return !policy.Decide(who, s.question(ask, t)).Allow }
		return err == nil && !slices.ContainsFunc(targets, denied)
	}
	login := audit.Printable(brief(s.login.name))
	if closed, ok := errors.AsType[*router.ClosedError](err); ok && mayEnter(closed.Match) {
		return login + " " + audit.Printable(closed.Match.Closed)
	}
	if ambiguous, ok := errors.AsType[*router.AmbiguousError](err); ok {
		theirs := *ambiguous
		theirs.Matches = slices.DeleteFunc(slices.Clone(ambiguous.Matches), func(m router.Match) bool { return !mayEnter(m) })
		if len(theirs.Matches) > 0 {
			return login + " may be more than one: say " + audit.Printable(strings.Join(theirs.Spellings(), " or "))
		}
	}
	return ""
}

func (s *session) meta(ask ask, who authz.Subject, target *router.Target, d authz.Decision, given nsexec.Privileges) audit.Meta {
	m := audit.Meta{
		Privileges: (*audit.Privileges)(&given),
		Person:     s.person(who),
		Client:     s.client(),
		Login:      s.login.typed,
		Target:     *Recorded(target),
		Rule:       d.Rule,
		Profile:    d.Terms.Profile,
		Reason:     s.reason,
		BreakGlass: emergency(d.Terms),
		Approvers:  s.approvers,
		Kind:       string(ask.kind),
		Command:    ask.command,
		Argv:       d.Argv,
		Tools:      s.tools.ID(),
	}
	if who.Bounds.Command != "" {
		m.Kind, m.Command, m.Asked = string(authz.Exec), d.Command, askedFor(ask)
	}
	if d.Terms.Output == authz.OutputNone {
		m.Output = audit.Unkept
	}
	if s.pty != nil {
		m.PTY = &audit.PTY{Term: s.pty.term, Cols: s.pty.size.Cols, Rows: s.pty.size.Rows}
	}
	return m
}

func (s *session) person(who authz.Subject) audit.Person {
	return personOf(who, s.key)
}

func (s *session) client() audit.Client { return s.conn.client(string(s.peer.ClientVersion())) }

// Recorded is what the record has of a container.
func Recorded(t *router.Target) *audit.Target {
	if t == nil {
		return nil
	}
	return &audit.Target{
		Runtime: t.Runtime, ID: t.ID, Name: t.Name, Image: t.Image, Digest: t.Digest, Source: t.Source,
		PID: t.PID, Started: t.Started, Namespaces: audit.Namespaces(t.Namespaces),
	}
}

// label is what a person calls a container.
func label(t *router.Target) string {
	if t.Name != "" {
		return audit.Printable(t.Name)
	}
	return audit.Printable(t.ID[:min(len(t.ID), 12)])
}

// event is what the record has of this session while it does not run.
func (s *session) event(name, command string, who authz.Subject, target *router.Target, rule string) audit.Event {
	person, client := s.person(who), s.client()
	return audit.Event{
		Event: name, Person: &person, Client: &client, Login: s.login.typed, Target: Recorded(target),
		Rule: rule, Reason: s.reason, Command: command,
	}
}

// deny records why, and says nothing of it: who asks for what is not theirs
// learns no more than who asks for what is not there.
func (s *session) deny(ask ask, who authz.Subject, target *router.Target, d authz.Decision) ending {
	s.server.Logger.Info("denied", "person", who.Person, "login", brief(s.login.name), "why", d.Why)
	event := s.event(audit.SessionDenied, ask.command, who, target, d.Rule)
	event.Detail = d.Why
	err := s.server.Record.Event(event)
	return ending{
		code:   codeFailed,
		words:  s.nothing(),
		reason: "denied",
		err:    err,
	}
}

// shut is for who may enter, and cannot: there is nothing to enter any more, or
// not on the rule's terms.
func (s *session) shut(ask ask, who authz.Subject, target *router.Target, d authz.Decision, err error) ending {
	denied := s.deny(ask, who, target, authz.Decision{Rule: d.Rule, Why: err.Error()})
	denied.words = notEntered(target, d, err).words
	return denied
}

// attend stays with a running command until the session is over, in whichever
// way that comes about.
func (s *session) attend(ctx context.Context, p process, target *router.Target) ending {
	ended := make(chan exit, 1)
	go func() { // until the command ends, or is closed
		status, err := p.Wait()
		ended <- exit{status, err}
	}()
	stopped := stopping(target)
	for {
		select {
		case e := <-ended:
			return s.exited(e, target, stopped)
		case <-stopped:
			return containerStopped(target)
		case <-s.record.Failed():
			return unrecordable
		case <-ctx.Done():
			return left(context.Cause(ctx))
		case e := <-s.over:
			go s.kill(p) // at once, whatever the client reads; gone waits for it
			return e
		case sig := <-s.signals:
			if err := p.Signal(sig); err != nil {
				s.server.Logger.Debug("signal", "session", s.record.ID(), "signal", sig, "err", err)
			}
		case <-s.resized:
			s.streams.resize(s.size())
		}
	}
}

func (s *session) kill(p process) {
	defer s.server.guard("end of a command")
	p.End()
}

func (s *session) size() size {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

type exit struct {
	status nsexec.Status
	err    error // nobody knows how it ended
}

// exited judges how a command ended. When a container stops, the kernel kills
// everything in it before its first process is gone.
func (s *session) exited(e exit, target *router.Target, stopped <-chan struct{}) ending {
	killed := e.err != nil || e.status.Signal == unix.SIGKILL
	if killed && isStopping(target, stopped) {
		return containerStopped(target)
	}
	if e.err != nil {
		return failed(label(target)+": the session was lost", audit.Reason("lost: "+e.err.Error()))
	}
	if e.status.Memory {
		return ending{status: &e.status, reason: outOfMemory, words: string(outOfMemory)}
	}
	return ending{status: &e.status, reason: "exited"}
}

const outOfMemory audit.Reason = "the session took more than its limit of memory, and was killed"

// ending is how a session ends. The zero value is a failure: a session that
// forgets to say how it ended must not look like a success.
type ending struct {
	status *nsexec.Status // how the command ended by itself, or nil
	code   int            // otherwise
	reason audit.Reason   // for the record
	words  string         // for the person, if there is something to say
	err    error          // for the log, if it is our fault

	patience time.Duration // with a client that does not read; zero: the usual
}

// The exit codes of what is not a command's own ending.
const (
	codeFailed        = 255 // as ssh(1) itself says
	codeUnrecorded    = 254
	codeNotFound      = 127 // as a shell says
	codeNotExecutable = 126
	codeStopped       = 137 // as if killed: 128 + SIGKILL, as docker exec says
)

func failed(words string, reason audit.Reason) ending {
	return ending{code: codeFailed, words: words, reason: reason}
}

func left(cause error) ending {
	e := ending{code: codeFailed, reason: audit.Reason(cause.Error())}
	if cause == errStopping {
		e.words = "the server is stopping; this session was ended"
	}
	return e
}

func unrecorded(err error) ending {
	return ending{code: codeUnrecorded, words: "this session could not be recorded, so it was not run", err: err}
}

var unrecordable = ending{
	code:   codeUnrecorded,
	words:  "this session could not be recorded any longer, so it was ended",
	reason: "recording failed",
}

var endUnrecorded = ending{
	code:  codeUnrecorded,
	words: "how this session ended could not be recorded",
}

func containerStopped(target *router.Target) ending {
	words := "container " + label(target) + " stopped"
	return ending{code: codeStopped, words: words, reason: audit.Reason(words)}
}

// notEntered tells a command that is not there, which is the person's affair,
// from a way in that failed, which is ours.
func notEntered(target *router.Target, d authz.Decision, err error) ending {
	var join *nsexec.JoinError
	if errors.As(err, &join) && join.Step == "execve" && d.Argv != nil {
		return notExecuted(audit.Printable(d.Argv[0]), join.Err)
	}
	return ending{
		code:   codeFailed,
		words:  label(target) + " could not be entered; the server's log says why",
		reason: audit.Reason("not entered: " + err.Error()),
		err:    err,
	}
}

func notExecuted(program string, err error) ending {
	e := ending{code: codeNotExecutable, words: program + ": " + err.Error()}
	if errors.Is(err, unix.ENOENT) {
		e.code, e.words = codeNotFound, program+": command not found"
	}
	e.reason = audit.Reason(e.words)
	return e
}

// outcome is what an ending is in numbers, and by the name of the signal.
func (e ending) outcome() (code int, signal string) {
	switch {
	case e.status != nil && e.status.Signal != 0:
		return 128 + int(e.status.Signal), signalName(e.status.Signal)
	case e.status != nil:
		return e.status.Code, ""
	case e.code == 0:
		return codeFailed, ""
	}
	return e.code, ""
}

func (s *session) endRecord(e ending) (err error) {
	log := s.server.Logger.With("login", brief(s.login.name))
	if s.record != nil {
		code, signal := e.outcome()
		if err = s.record.End(code, signal, e.reason); err != nil {
			log.Error("cannot record the end of a session", "err", err)
		}
	}
	if e.err != nil {
		log.Error("session failed", "err", e.err)
	}
	return err
}

// tellStatus tells the client the exit status, or the signal if SSH has a name for it
// (RFC 4254, section 6.10).
func (s *session) tellStatus(e ending) {
	code, signal := e.outcome()
	if signal == "" {
		status := struct{ Status uint32 }{uint32(code)}
		s.ch.SendRequest("exit-status", false, gossh.Marshal(&status))
		return
	}
	s.ch.SendRequest("exit-signal", false, gossh.Marshal(&struct {
		Signal   string
		Core     bool
		Message  string
		Language string
	}{signal, e.status.Core, "", ""}))
}

// patience is how long a session that is ended from outside waits for a client
// that reads no more.
const patience = 5 * time.Second

// farewell tells how it ended, kills what the command has left behind, so that
// its output ends, brings the rest of it to the client, and says the last words. A client may
// take its time to read what a command has written; but not if the session was
// ended from outside. It reports whether the client has it all.
func (s *session) farewell(ctx context.Context, e ending) bool {
	said := make(chan struct{})
	go func() { // ends at the latest when the client has closed its end
		defer close(said)
		defer s.server.guard("farewell")
		s.tellStatus(e)
		s.streams.finish()
		s.saying.Wait()
		s.tell(e.words)
	}()
	if e.status != nil {
		select {
		case <-said:
			return true
		case <-ctx.Done():
		case late := <-s.over:
			e.patience = late.patience
		}
	}
	select {
	case <-said:
		return true
	case <-s.left:
	case <-time.After(cmp.Or(e.patience, patience)):
	}
	return false
}

func (s *session) tell(words string) {
	if words == "" {
		return
	}
	words = s.line(words)
	if s.pty == nil {
		io.WriteString(s.ch.Stderr(), words)
		return
	}
	if _, err := io.WriteString(s.screen(), words); errors.Is(err, audit.ErrUnrecorded) {
		io.WriteString(s.ch, words) // ours, and the last: why nothing more is shown
	}
}

// line is what the session itself says to the person. A client with a terminal
// has it in raw mode, with the cursor anywhere.
func (s *session) line(words string) string {
	if s.pty == nil {
		return "cartsshd: " + words + "\n"
	}
	return "\r\ncartsshd: " + words + "\r\n"
}

// screen is where the output of a terminal goes: by way of its recording.
func (s *session) screen() io.Writer {
	if s.record == nil {
		return s.ch
	}
	return s.record.Output(s.ch)
}
