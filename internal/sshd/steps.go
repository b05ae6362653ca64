package sshd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/router"
)

// given is what somebody gave at sign-in besides their key.
type given struct {
	reason string
	code   codeOf // whose one-time password it was; zero: nobody's
}

type codeOf struct{ person, secret string }

// answered is where the permissions of a connection keep what was given.
type answered struct{}

// steps are what a sign-in takes after the key was proved. They are of one
// connection, one key and one login, and asked for once.
type steps struct {
	conn   *conn
	key    gossh.PublicKey
	who    authz.Subject
	login  login
	reason *regexp.Regexp // to be asked for; nil: none
	code   bool           // a one-time password is to be asked for
	given  given
}

// stepsOf finds out what the rule that would decide asks for. Who would not get
// in is asked nothing: that they are denied they hear later, with the words that
// everybody hears.
func (c *conn) stepsOf(policy *authz.Policy, who authz.Subject, key gossh.PublicKey, l login) *steps {
	s := &steps{conn: c, key: key, who: who, login: l}
	if l.typed == deskLogin || !policy.AsksAnything(l.breakGlass) {
		return s
	}
	terms := c.termsFor(policy, who, l)
	if !l.batch {
		s.reason = terms.Reason
	}
	// Who has no secret would be asked for what they cannot know. They are denied
	// later, and then told so.
	s.code = terms.TOTP && who.TOTP != "" && c.server.TOTP != nil
	return s
}

func (c *conn) termsFor(policy *authz.Policy, who authz.Subject, l login) authz.Terms {
	ctx, cancel := context.WithTimeout(c.stop, c.server.Limits.LoginGrace)
	defer cancel()
	would := &session{conn: c, server: c.server, login: l} // the one that is to come
	begun := time.Now()
	terms, ok := would.terms(ctx, policy, who)
	if !ok {
		would.alike(ctx, begun)
	}
	return terms
}

// terms are those of the rule that would decide, if any could let them in.
func (s *session) terms(ctx context.Context, policy *authz.Policy, who authz.Subject) (_ authz.Terms, ok bool) {
	target, err := s.resolve(ctx)
	if err != nil {
		return authz.Terms{}, false
	}
	defer target.Close()
	return policy.Asks(who, s.question(ask{kind: authz.Shell}, Judged(target)))
}

func (s *steps) none() bool { return s.reason == nil && !s.code }

// demand lets the client go on with keyboard-interactive (RFC 4256), and with
// nothing else: not with another key, and x/crypto sees to it that the login
// stays the same.
func (s *steps) demand() error {
	s.conn.signin.asked = true
	s.conn.signin.grace.Reset(s.conn.graceTime())
	return &gossh.PartialSuccessError{Next: gossh.ServerAuthCallbacks{KeyboardInteractiveCallback: s.ask}}
}

func (s *steps) ask(meta gossh.ConnMetadata, challenge gossh.KeyboardInteractiveChallenge) (*gossh.Permissions, error) {
	if meta.User() != s.login.typed {
		return nil, errors.New("another login than the key was proved for")
	}
	if err := s.askReason(challenge); err != nil {
		return nil, err
	}
	if err := s.askCode(challenge); err != nil {
		return nil, err
	}
	return s.conn.admit(meta, s.key, s.who, s.given), nil
}

const reasonTries = 3

// askReason takes no answer for one: the reason may still come with the session,
// as a variable.
func (s *steps) askReason(challenge gossh.KeyboardInteractiveChallenge) error {
	if s.reason == nil || s.given.reason != "" { // or given before a wrong password
		return nil
	}
	prompt := "Reason for entering " + audit.Printable(brief(s.login.name)) + inBrackets(matching("must match", s.reason)) + ": "
	complaint := ""
	for range reasonTries {
		answer, err := askOne(challenge, complaint, prompt, true)
		answer = strings.TrimSpace(answer)
		if err != nil || answer == "" {
			return err
		}
		if fits(answer, s.reason) {
			s.given.reason = answer
			return nil
		}
		complaint = "That does not match, or is no line of at most 255 characters."
	}
	return errors.New("gave no reason" + matching(" that matches", s.reason))
}

// askCode tells nobody what was wrong with a password, nor how many more would
// be looked at.
func (s *steps) askCode(challenge gossh.KeyboardInteractiveChallenge) error {
	if !s.code {
		return nil
	}
	code, err := askOne(challenge, "", "One-time password: ", false)
	if err == nil {
		err = s.conn.server.TOTP(s.who.Person, s.who.TOTP, code)
	}
	if err != nil {
		s.conn.server.Logger.Warn("one-time password refused", "person", s.who.Person, "client", s.conn.RemoteAddr(), "err", err)
		return &gossh.BannerError{Err: err, Message: "cartsshd: not accepted: wait for the next one-time password; after many wrong ones, for some minutes\r\n"}
	}
	s.given.code = codeOf{s.who.Person, s.who.TOTP}
	return nil
}

func askOne(challenge gossh.KeyboardInteractiveChallenge, instruction, prompt string, echo bool) (string, error) {
	answers, err := challenge("", instruction, []string{prompt}, []bool{echo})
	if err != nil || len(answers) != 1 {
		return "", cmp.Or(err, errors.New("did not answer"))
	}
	return answers[0], nil
}

// matching is what to say of a pattern that must match; nothing of the one that
// any reason matches.
func matching(words string, pattern *regexp.Regexp) string {
	if pattern.String() == `\S` || pattern.String() == "." {
		return ""
	}
	return words + " " + audit.Printable(pattern.String())
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

const maxReason = 255 // characters

// fits tells whether a reason is one: it goes to every record of the session, and
// from there to people's terminals.
func fits(reason string, pattern *regexp.Regexp) bool {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	return reason != "" && utf8.ValidString(reason) && utf8.RuneCountInString(reason) <= maxReason &&
		!strings.ContainsFunc(reason, hidden) && pattern.MatchString(reason)
}

// The variables that may bring a reason: the first by SetEnv, said on purpose for
// one session; the second by what SendEnv has for every connection, mostly.
const (
	reasonEnv       = "REASON"
	reasonLocaleEnv = "LC_REASON"
)

// wantReason takes a variable if it is one that brings a reason. It never gets
// into the container.
func (s *session) wantReason(payload []byte) (is bool) {
	var p struct{ Name, Value string }
	if gossh.Unmarshal(payload, &p) != nil || p.Name != reasonEnv && p.Name != reasonLocaleEnv {
		return false
	}
	if s.reasons == nil {
		s.reasons = make(map[string]string)
	}
	s.reasons[p.Name] = strings.TrimSpace(p.Value)
	return true
}

// withhold denies a session whose rule asks for what the person has not given,
// or returns nil. They may enter, so they are told how. It is asked of each
// session: the rule may be another than at sign-in.
func (s *session) withhold(ask ask, who authz.Subject, target *router.Target, d authz.Decision) *ending {
	why, words := s.lacking(who, d.Terms)
	if why == "" {
		return nil
	}
	denied := s.deny(ask, who, target, authz.Decision{Rule: d.Rule, Why: why})
	denied.words = words
	return &denied
}

func (s *session) lacking(who authz.Subject, t authz.Terms) (why, words string) {
	switch {
	case t.TOTP && who.TOTP == "":
		return "the rule asks for a one-time password, and the person has no secret for one",
			"this needs a one-time password, and the policy has no secret of yours to check it with"
	case t.TOTP && s.given.code != codeOf{who.Person, who.TOTP}:
		return "the rule asks for a one-time password", "this needs a one-time password: sign in again"
	case t.Reason != nil && !s.justify(t.Reason):
		return "the rule asks for a reason" + matching(" that matches", t.Reason),
			fmt.Sprintf("this needs a reason%s: ssh again and answer, or ssh -o SetEnv=REASON=… %s@…",
				matching(" that matches", t.Reason), audit.Printable(brief(s.login.inBatch())))
	}
	return "", ""
}

// justify takes the first reason that will do: of this session, of this
// connection, of this client.
func (s *session) justify(pattern *regexp.Regexp) bool {
	all := []string{s.reasons[reasonEnv], s.given.reason, s.reasons[reasonLocaleEnv]}
	i := slices.IndexFunc(all, func(reason string) bool { return fits(reason, pattern) })
	if i < 0 {
		return false
	}
	s.reason = all[i]
	return true
}

// alarm tells the record and the log of emergency access, before it is had.
func (s *session) alarm(ask ask, who authz.Subject, target *router.Target, d authz.Decision) error {
	if !d.Terms.Emergency {
		return nil
	}
	s.server.Logger.Warn("BREAK-GLASS", "person", who.Person, "login", brief(s.login.typed), "rule", d.Rule, "reason", s.reason, "session", s.record.ID())
	event := s.event(audit.BreakGlass, ask.command, who, target, d.Rule)
	event.Session = s.record.ID()
	return s.server.Record.Event(event)
}

func unalarmed(err error) ending {
	e := unrecorded(err)
	e.reason = "the alarm could not be recorded"
	return e
}

// emergency is what the record of a session says of it.
func emergency(t authz.Terms) string {
	if t.Emergency {
		return "yes"
	}
	return ""
}

// personOf is what the record has of a person, and of the key that they proved.
func personOf(who authz.Subject, key gossh.PublicKey) audit.Person {
	if cert, ok := key.(*gossh.Certificate); ok {
		key = cert.Key // the certificate's own fingerprint is another with each renewal
	}
	return audit.Person{
		Name: who.Person, Key: gossh.FingerprintSHA256(key), Groups: who.Groups,
		Certificate: (*audit.Certificate)(who.Certificate),
	}
}
