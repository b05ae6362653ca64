package sshd

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/totp"
)

// counter is a hall whose rules ask for something, and the stock client with
// somebody before it.
type counter struct {
	*openssh
	answers string        // file: what they answer, one a line, to one question after the other
	prompts string        // file: what they were asked
	now     time.Time     // of one-time passwords
	policy  atomic.Value  // *authz.Policy
	checked atomic.Uint32 // one-time passwords that were looked at
}

const deskRules = `
rules:
  - {name: vault, who: ["*"], targets: [{name: db-1}], deny: "ask security"}
  - {name: ticket, who: [alice], targets: [{name: web-1}], allow: [shell], terms: {reason: '^INC-\d+'}}
  - {name: code, who: [alice, bob], targets: [{name: web-2}], allow: [shell], terms: {totp: true}}
  - {name: both, who: [alice], targets: [{name: web-a}], allow: [shell], terms: {reason: '.', totp: true}}
  - {name: free, who: [alice], targets: [{name: web-b}], allow: [shell]}
  - {name: emergency, who: [alice], targets: [{name: "*"}], break_glass: true, allow: [shell]}
`

func newDesk(t *testing.T) *counter {
	t.Helper()
	path := need.Tool(t, "ssh", "openssh-client")
	dir := t.TempDir()
	alice, key := keyFile(t)
	d := &counter{answers: filepath.Join(dir, "answers"), prompts: filepath.Join(dir, "prompts"), now: time.Unix(1_800_000_000, 0)}
	secret := filepath.Join(dir, "secret")
	write(t, secret, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n", 0o600)
	write(t, filepath.Join(dir, "askpass"), askpass, 0o700)
	d.rules(t, alice, secret, deskRules)
	checker := &totp.Checker{Dir: filepath.Join(dir, "state"), Now: func() time.Time { return d.now }}
	hall := newHallOf(t, alice, func(s *Server) {
		s.Policy = func() *authz.Policy { return d.policy.Load().(*authz.Policy) }
		s.TOTP = func(person, file, code string) error {
			d.checked.Add(1)
			return checker.Check(person, file, code)
		}
	})
	d.openssh = &openssh{hall, key, path, "web-1"}
	return d
}

func (d *counter) rules(t *testing.T, alice gossh.Signer, secret, rules string) {
	t.Helper()
	if secret != "" {
		secret = ", totp: " + secret
	}
	people := fmt.Sprintf("people:\n  alice: {keys: [%s]%s}\n  bob: {keys: [%s]}\n", authorized(alice), secret, authorized(newKey(t)))
	d.policy.Store(policyOf(t, people+rules))
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// askpass is a person: ssh-askpass(1) that takes the next answer of the list. When
// there is none, they go away.
const askpass = `#!/bin/sh
cd "${0%/*}"
printf '%s\n' "$1" >>prompts
read -r answer <answers || exit 1
tail -n +2 answers >rest && mv rest answers
printf '%s\n' "$answer"
`

// ask runs ssh(1) as a person who answers so, and returns what they were asked.
func (d *counter) ask(login, command string, answers []string, args ...string) (ran, []string) {
	d.t.Helper()
	os.WriteFile(d.prompts, nil, 0o600)
	os.WriteFile(d.answers, []byte(strings.Join(answers, "\n")+"\n"), 0o600)
	if answers == nil {
		os.WriteFile(d.answers, nil, 0o600)
	}
	d.login = login
	c := d.cmd(args...)
	c.Args = append(slices.DeleteFunc(c.Args, func(arg string) bool { return arg == "BatchMode=yes" }), command)
	// The -o before it wants something.
	c.Args = slices.Insert(c.Args, slices.Index(c.Args, "IdentityAgent=none")+2, "LogLevel=INFO")
	c.Env = append(os.Environ(), "SSH_ASKPASS="+filepath.Join(filepath.Dir(d.answers), "askpass"), "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
	var out, err strings.Builder
	c.Stdout, c.Stderr = &out, &err
	if e := c.Run(); e != nil && c.ProcessState == nil {
		d.t.Fatal(e)
	}
	asked, _ := os.ReadFile(d.prompts)
	_, said, _ := strings.Cut(err.String(), "list of known hosts.\r\n")
	return ran{out: out.String(), err: said, code: c.ProcessState.ExitCode()}, strings.Split(strings.TrimSuffix(string(asked), "\n"), "\n")
}

func TestAReasonIsAskedForAndInEveryRecord(t *testing.T) {
	d := newDesk(t)
	got, asked := d.ask("web-1", "echo in", []string{"INC-7 disk is full"}, "-tt")
	if got.out != "in\r\n" || got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if len(asked) != 1 || !strings.HasSuffix(asked[0], `Reason for entering web-1 (must match ^INC-\d+): `) {
		t.Fatalf("%q", asked)
	}
	journal := d.journal()
	for _, event := range []string{audit.SigninOK, audit.SessionOpen, audit.SessionClose} {
		i := slices.IndexFunc(journal, func(r audit.Record) bool { return r.Event == event })
		if i < 0 || journal[i].Reason != "INC-7 disk is full" {
			t.Errorf("%s: %+v", event, journal)
		}
	}
	recording, err := filepath.Glob(filepath.Join(d.record, "recordings", "*.cast"))
	if err != nil || len(recording) != 1 {
		t.Fatal(recording, err)
	}
	if text, _ := os.ReadFile(recording[0]); !strings.Contains(string(text), `"REASON":"INC-7 disk is full"`) {
		t.Errorf("%s", text)
	}
}

func TestAReasonMustMatchAndMayBeTriedThreeTimes(t *testing.T) {
	d := newDesk(t)
	got, asked := d.ask("web-1", "echo in", []string{"because", "INC7", "INC-7"})
	if got.out != "in\n" || len(asked) != 3 || strings.Count(got.err, "That does not match") != 2 {
		t.Errorf("%+v, %q", got, asked)
	}
	if got, _ := d.ask("web-1", "echo in", []string{"a", "b", "c"}, "-o", "NumberOfPasswordPrompts=1"); got.out != "" || got.code != 255 {
		t.Errorf("%+v", got)
	}
	failed := d.recorded(audit.SigninFailed)
	if len(failed) != 1 || failed[0].Detail != `gave no reason that matches ^INC-\d+` || failed[0].Person.Name != "alice" {
		t.Errorf("%+v", failed)
	}
}

func TestAReasonHasNoControlsAndAnEnd(t *testing.T) {
	d := newDesk(t)
	for _, reason := range []string{"INC-7 \x1b[2J", "INC-7 \u202egpj", "INC-7 \xff", "INC-7 " + strings.Repeat("é", maxReason)} {
		got, asked := d.ask("web-1", "echo in", []string{reason, "INC-7"})
		if got.out != "in\n" || len(asked) != 2 {
			t.Errorf("%q: %+v, %q", reason, got, asked)
		}
	}
	for _, opened := range d.recorded(audit.SessionOpen) {
		if opened.Reason != "INC-7" {
			t.Errorf("%q", opened.Reason)
		}
	}
}

func TestAScriptGivesItsReasonAsAVariable(t *testing.T) {
	d := newDesk(t)
	d.login = "batch+web-1"
	for _, args := range [][]string{{"-o", "SetEnv=REASON=INC-8"}, {"-o", `SetEnv="LC_REASON=INC-8"`}} {
		if got := d.run(nil, "echo $REASON$LC_REASON.", args...); got.out != ".\n" || got.code != 0 {
			t.Errorf("%v: %+v", args, got)
		}
	}
	for _, args := range [][]string{nil, {"-o", "SetEnv=REASON=because"}, {"-o", "SetEnv=LANG=INC-8"}} {
		got := d.run(nil, "echo in", args...)
		if got.code != 255 || got.err != `cartsshd: this needs a reason that matches ^INC-\d+: ssh again and answer, or ssh -o SetEnv=REASON=… batch+web-1@…`+"\n" {
			t.Errorf("%v: %+v", args, got)
		}
	}
	journal := d.journal()
	for _, r := range journal {
		if r.Event == audit.SessionOpen && (r.Reason != "INC-8" || r.Login != "batch+web-1") {
			t.Errorf("%+v", r)
		}
		if r.Event == audit.SessionDenied && (r.Rule != "ticket" || r.Detail != `the rule asks for a reason that matches ^INC-\d+`) {
			t.Errorf("%+v", r)
		}
	}
}

func TestNoAnswerLeavesTheReasonToAVariable(t *testing.T) {
	d := newDesk(t)
	if got, _ := d.ask("web-1", "echo in", []string{""}, "-o", "SetEnv=REASON=INC-9"); got.out != "in\n" {
		t.Errorf("%+v", got)
	}
	if got, _ := d.ask("web-1", "echo in", []string{""}); got.code != 255 || !strings.Contains(got.err, "this needs a reason that matches") {
		t.Errorf("%+v", got)
	}
}

// What is said for one session is said on purpose; LC_REASON may be in a profile
// since last year.
func TestTheReasonNearestToTheSessionCounts(t *testing.T) {
	d := newDesk(t)
	d.ask("web-1", "true", []string{"INC-2"}, "-o", `SetEnv=LC_REASON=INC-1`)
	d.ask("web-1", "true", []string{"INC-2"}, "-o", `SetEnv=REASON=INC-3 LC_REASON=INC-1`)
	var reasons []string
	for _, r := range d.recorded(audit.SessionOpen) {
		reasons = append(reasons, r.Reason)
	}
	if !slices.Equal(reasons, []string{"INC-2", "INC-3"}) {
		t.Errorf("%q", reasons)
	}
}

func TestAOneTimePasswordIsTakenOnce(t *testing.T) {
	d := newDesk(t)
	code := passwordAt(d.now)
	got, asked := d.ask("web-2", "echo in", []string{code})
	if got.out != "in\n" || len(asked) != 1 || !strings.HasSuffix(asked[0], "One-time password: ") {
		t.Fatalf("%+v, %q", got, asked)
	}
	got, asked = d.ask("web-2", "echo in", []string{code, "000000", passwordAt(d.now.Add(30 * time.Second))})
	if got.out != "in\n" || len(asked) != 3 || !strings.Contains(got.err, "wait for the next one-time password") {
		t.Fatalf("%+v, %q", got, asked)
	}
	got, _ = d.ask("web-2", "echo in", []string{code, code}, "-o", "NumberOfPasswordPrompts=2")
	if got.code != 255 || got.out != "" {
		t.Fatalf("%+v", got)
	}
	failed := d.recorded(audit.SigninFailed)
	if len(failed) != 1 || failed[0].Detail != totp.ErrUsed.Error() || failed[0].Person.Name != "alice" {
		t.Fatalf("%+v", failed)
	}
}

func TestAScriptIsAskedForItsOneTimePasswordAllTheSame(t *testing.T) {
	d := newDesk(t)
	d.login = "batch+web-2"
	if got := d.run(nil, "echo in"); got.code != 255 || !strings.Contains(got.err, "Permission denied (keyboard-interactive)") {
		t.Errorf("%+v", got)
	}
	got, asked := d.ask("batch+web-a", "echo in", []string{passwordAt(d.now)}, "-o", "SetEnv=REASON=because")
	if got.out != "in\n" || len(asked) != 1 {
		t.Errorf("%+v, %q", got, asked)
	}
	failed := d.recorded(audit.SigninFailed)
	if len(failed) != 1 || failed[0].Detail != "left before answering what was asked" {
		t.Errorf("%+v", failed)
	}
}

func TestAReasonIsNotAskedForAgainAfterAWrongPassword(t *testing.T) {
	d := newDesk(t)
	got, asked := d.ask("web-a", "echo in", []string{"because", "000000", passwordAt(d.now)})
	if got.out != "in\n" || len(asked) != 3 || !strings.HasSuffix(asked[0], "Reason for entering web-a: ") {
		t.Errorf("%+v, %q", got, asked)
	}
}

func TestRulesThatAskNothingAskNothing(t *testing.T) {
	d := newDesk(t)
	if got, asked := d.ask("web-b", "echo in", nil); got.out != "in\n" || asked[0] != "" {
		t.Errorf("%+v, %q", got, asked)
	}
}

func TestWhomNoRuleLetsInIsAskedNothing(t *testing.T) {
	d := newDesk(t)
	for _, login := range []string{"db-1", "breakglass+db-1", "nothing", "twice", "breakglass+nothing", "../x", "batch+batch+web-1"} {
		got, asked := d.ask(login, "echo in", nil)
		name := parseLogin(login).name
		if got.code != 255 || asked[0] != "" || got.err != "cartsshd: "+name+": no container of that name is yours to enter\n" {
			t.Errorf("%s: %+v, %q", login, got, asked)
		}
	}
}

func TestBreakGlassRaisesAnAlarmBeforeItIsLetIn(t *testing.T) {
	d := newDesk(t)
	real := d.start
	d.start = func(c *nsexec.Cmd) (process, error) {
		d.await(audit.BreakGlass) // and if it comes later, the test never ends
		return real(c)
	}
	got, asked := d.ask("breakglass+web-b", "echo in", []string{"all is down"})
	if got.out != "in\n" || !strings.HasSuffix(asked[0], "Reason for entering web-b: ") {
		t.Fatalf("%+v, %q", got, asked)
	}
	if !strings.Contains(d.log.String(), "BREAK-GLASS") {
		t.Error("the log says nothing")
	}
	journal := d.journal()
	i := slices.IndexFunc(journal, func(r audit.Record) bool { return r.Event == audit.BreakGlass })
	j := slices.IndexFunc(journal, func(r audit.Record) bool { return r.Event == audit.SessionOpen })
	if i < 0 || j < 0 {
		t.Fatalf("%+v", journal)
	}
	if a := journal[i]; a.Reason != "all is down" || a.Rule != "emergency" || a.Person.Name != "alice" || a.Target.Name != "web-b" || a.Login != "breakglass+web-b" || a.Session != journal[j].Session {
		t.Errorf("%+v", a)
	}
	if o := journal[j]; o.BreakGlass != "yes" || o.Reason != "all is down" || o.Login != "breakglass+web-b" {
		t.Errorf("%+v", o)
	}
}

// onAlarm is a log whose reader does something when there is an alarm.
type onAlarm struct {
	slog.Handler
	do func()
}

func (h onAlarm) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "BREAK-GLASS" {
		h.do()
	}
	return h.Handler.Handle(ctx, r)
}

func TestWithoutTheAlarmOnDiskNobodyIsLetIn(t *testing.T) {
	d := newDesk(t)
	d.start = func(*nsexec.Cmd) (process, error) { t.Error("it ran"); return nil, unix.EPERM }
	client := d.dial("batch+breakglass+web-1", d.alice)
	s := open(t, client)
	var words strings.Builder
	s.Stderr = &words
	s.Setenv("REASON", "fire")
	d.server.Logger = slog.New(onAlarm{d.server.Logger.Handler(), func() { d.server.Record.Close() }})
	code, _ := result(t, s.Run("true"))
	if code != 254 || words.String() != "cartsshd: this session could not be recorded, so it was not run\n" {
		t.Fatalf("%d, %q", code, words.String())
	}
}

func TestBreakGlassInAScript(t *testing.T) {
	d := newDesk(t)
	for _, d.login = range []string{"batch+breakglass+web-1", "breakglass+batch+web-1"} {
		if got := d.run(nil, "echo in", "-o", "SetEnv=REASON=fire"); got.out != "in\n" {
			t.Errorf("%+v", got)
		}
		if got := d.run(nil, "echo in"); got.code != 255 || got.err != "cartsshd: this needs a reason: ssh again and answer, or ssh -o SetEnv=REASON=… batch+breakglass+web-1@…\n" {
			t.Errorf("%+v", got)
		}
	}
	if alarms := d.recorded(audit.BreakGlass); len(alarms) != 2 {
		t.Errorf("%+v", alarms)
	}
}

// A rule that has come since sign-in asks for what nobody could have given then.
func TestTermsAreJudgedAtEachSession(t *testing.T) {
	d := newDesk(t)
	client := d.dial("web-b", d.alice)
	if got := runOn(t, client, "echo in"); got.out != "in\n" {
		t.Fatalf("%+v", got)
	}
	secret := filepath.Join(filepath.Dir(d.answers), "secret")
	d.rules(t, d.alice, secret, `
rules:
  - {name: new, who: [alice], targets: [{name: web-b}], allow: [shell], terms: {totp: true}}
`)
	if got := runOn(t, client, "echo in"); got.code != 255 || got.err != "cartsshd: this needs a one-time password: sign in again\n" {
		t.Fatalf("%+v", got)
	}
	d.rules(t, d.alice, "", `
rules:
  - {name: new, who: [alice], targets: [{name: web-b}], allow: [shell], terms: {totp: true}}
`)
	if got := runOn(t, client, "echo in"); got.code != 255 || !strings.Contains(got.err, "the policy has no secret of yours") {
		t.Fatalf("%+v", got)
	}
}

func TestAPasswordOfAnotherSecretIsNone(t *testing.T) {
	d := newDesk(t)
	client, err := d.tryDial("web-2", gossh.PublicKeys(d.alice), gossh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		return []string{passwordAt(d.now)}[:len(questions)], nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := runOn(t, client, "echo in"); got.out != "in\n" {
		t.Fatalf("%+v", got)
	}
	other := filepath.Join(t.TempDir(), "other")
	d.rules(t, d.alice, other, deskRules)
	if got := runOn(t, client, "echo in"); got.code != 255 {
		t.Fatalf("%+v", got)
	}
}

func TestNothingIsAskedBeforeAKeyIsProved(t *testing.T) {
	d := newDesk(t)
	c := dialRaw(t, d.addr)
	c.startAuth()
	if m := c.auth("web-1", "keyboard-interactive", gossh.Marshal(&struct{ Lang, Methods string }{})); m[0] != msgAuthFailure {
		t.Fatalf("%q", m)
	}
	c.offer("web-1", d.alice.PublicKey())
	if m := c.auth("web-1", "keyboard-interactive", gossh.Marshal(&struct{ Lang, Methods string }{})); m[0] != msgAuthFailure {
		t.Fatalf("%q", m)
	}
	if m := c.prove("web-1", newKey(t)); m[0] != msgAuthFailure || !strings.Contains(string(m), "publickey") || m[len(m)-1] != 0 {
		t.Fatalf("%q", m)
	}
}

func TestTheLoginCannotBeChangedBetweenTwoSteps(t *testing.T) {
	d := newDesk(t)
	for _, login := range []string{"web-b", "breakglass+web-1", "batch+web-1"} {
		c := dialRaw(t, d.addr)
		c.startAuth()
		if m := c.prove("web-1", d.alice); m[0] != msgAuthFailure || m[len(m)-1] != 1 || !strings.Contains(string(m), "keyboard-interactive") {
			t.Fatalf("%q", m)
		}
		if m := c.auth(login, "keyboard-interactive", gossh.Marshal(&struct{ Lang, Methods string }{})); m != nil {
			t.Fatalf("%q", m)
		}
	}
	failed := d.recorded(audit.SigninFailed)
	if len(failed) != 3 || !strings.Contains(failed[0].Detail, "changed the user") {
		t.Fatalf("%+v", failed)
	}
}

func TestNoOtherKeyServesBetweenTwoSteps(t *testing.T) {
	d := newDesk(t)
	c := dialRaw(t, d.addr)
	c.startAuth()
	c.prove("web-1", d.alice)
	if m := c.prove("web-1", d.alice); m[0] != msgAuthFailure || m[len(m)-1] != 0 {
		t.Fatalf("%q", m)
	}
	if m := c.auth("web-1", "none", nil); m[0] != msgAuthFailure {
		t.Fatalf("%q", m)
	}
}

// Whoever is asked has more time, and not for ever.
func TestWhoDoesNotAnswerIsHungUpOn(t *testing.T) {
	d := newDesk(t)
	hall := newHallOf(t, d.alice, func(s *Server) {
		s.Policy = d.server.Policy
		s.Limits.LoginGrace = time.Second / 4
	})
	c := dialRaw(t, hall.addr)
	c.startAuth()
	if m := c.prove("web-1", d.alice); m[0] != msgAuthFailure {
		t.Fatalf("%q", m)
	}
	if m := c.auth("web-1", "keyboard-interactive", gossh.Marshal(&struct{ Lang, Methods string }{})); m[0] != 60 {
		t.Fatalf("%q", m)
	}
	if m := c.recv(); m != nil { // and if nobody hangs up, the test never ends
		t.Fatalf("%q", m)
	}
	hall.await(audit.SigninFailed)
	if failed := hall.recorded(audit.SigninFailed); failed[0].Detail != "took longer than 1s" {
		t.Fatalf("%+v", failed)
	}
}

func TestACheckerThatFailsLetsNobodyIn(t *testing.T) {
	d := newDesk(t)
	hall := newHallOf(t, d.alice, func(s *Server) {
		s.Policy = d.server.Policy
		s.TOTP = func(string, string, string) error { return errors.New("the disk is broken") }
	})
	_, err := hall.tryDial("web-2", gossh.PublicKeys(d.alice), gossh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		if len(echos) > 0 && echos[0] {
			t.Error("the password is echoed")
		}
		return []string{"123456"}[:len(questions)], nil
	}))
	if err == nil {
		t.Fatal("signed in")
	}
	if failed := hall.recorded(audit.SigninFailed); len(failed) != 1 || failed[0].Detail != "the disk is broken" {
		t.Fatalf("%+v", failed)
	}
}

func TestACertificateIsNobodysUntilThePolicySaysWhose(t *testing.T) {
	d := newDesk(t)
	authority := newKey(t)
	cert := &gossh.Certificate{Key: d.alice.PublicKey(), CertType: gossh.UserCert, ValidPrincipals: []string{"web-b", "alice"}, ValidBefore: gossh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewCertSigner(cert, d.alice)
	if err != nil {
		t.Fatal(err)
	}
	c := dialRaw(t, d.addr)
	c.startAuth()
	if m := c.offer("web-b", cert); m[0] != msgAuthKeyOK { // as every key
		t.Fatalf("%q", m)
	}
	if _, err := d.tryDial("web-b", gossh.PublicKeys(signer)); err == nil {
		t.Fatal("signed in")
	}
	failed := d.recorded(audit.SigninFailed)
	if !slices.ContainsFunc(failed, func(r audit.Record) bool { return strings.Contains(r.Detail, "no authority here") && r.Person == nil }) {
		t.Fatalf("%+v", failed)
	}
}

func TestOfACertificateTheRecordHasTheKeyInIt(t *testing.T) {
	key := newKey(t).PublicKey()
	who := authz.Subject{Person: "ci@corp", Certificate: &authz.Certificate{KeyID: "build 7", Serial: 7, Authority: "SHA256:x"}}
	got := personOf(who, &gossh.Certificate{Key: key})
	if got.Key != gossh.FingerprintSHA256(key) || *got.Certificate != (audit.Certificate{KeyID: "build 7", Serial: 7, Authority: "SHA256:x"}) {
		t.Errorf("%+v", got)
	}
	if got := personOf(authz.Subject{Person: "alice"}, key); got.Certificate != nil {
		t.Errorf("%+v", got)
	}
}

// passwordAt is what a phone shows that has the counter's secret.
func passwordAt(now time.Time) string {
	mac := hmac.New(sha1.New, []byte("12345678901234567890"))
	binary.Write(mac, binary.BigEndian, now.Unix()/30)
	sum := mac.Sum(nil)
	at := sum[19] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}
