package sshd

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/router"
)

// running are the sessions of a server that run, and who has how many.
type running struct {
	mu       sync.Mutex
	sessions map[*session]struct{}
	seats    map[*seat]struct{}

	judging sync.Mutex // or the verdict of an old policy could come last
}

// seat is what one person may have so many of by one rule. Somebody of the policy
// and a principal of the same name are two; whoever has a name in common is one,
// for certificates of one person may each have some of their principals.
type seat struct {
	names []string
	known bool
	rule  string
}

func seatOf(who authz.Subject, rule string) *seat {
	return &seat{append([]string{who.Person}, who.Principals...), who.Known, rule}
}

func (s *seat) same(other *seat) bool {
	return s.rule == other.rule && s.known == other.known &&
		slices.ContainsFunc(s.names, func(name string) bool { return slices.Contains(other.names, name) })
}

// take takes a seat if there are fewer taken than most; zero is no limit.
func (r *running) take(s *seat, most int) (has int, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if most > 0 {
		for other := range r.seats {
			if s.same(other) {
				has++
			}
		}
		if has >= most {
			return has, false
		}
	}
	if r.seats == nil {
		r.seats = make(map[*seat]struct{})
	}
	r.seats[s] = struct{}{}
	return has + 1, true
}

func (r *running) free(s *seat) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seats, s)
}

func (r *running) add(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = make(map[*session]struct{})
	}
	r.sessions[s] = struct{}{}
}

func (r *running) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
}

func (r *running) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*session, 0, len(r.sessions))
	for s := range r.sessions {
		all = append(all, s)
	}
	return all
}

// taken is a seat that was taken. It is freed once, whoever comes first.
type taken struct{ free func() }

func (t *taken) Close() error {
	if t != nil {
		t.free()
	}
	return nil
}

// sit takes a seat, which the session has until its command is gone. It tells
// how it ends if there is none.
func (s *session) sit(ask ask, who authz.Subject, target *router.Target, d authz.Decision) (_ ending, ok bool) {
	running, place := &s.server.running, seatOf(who, d.Rule)
	has, ok := running.take(place, d.Terms.Sessions)
	if ok {
		s.seat = &taken{sync.OnceFunc(func() { running.free(place) })}
		s.keep(s.seat)
		return ending{}, true
	}
	words := fmt.Sprintf("you have %s by %s already, and it allows no more", sessions(has), by(d.Rule))
	denied := s.deny(ask, who, target, authz.Decision{Rule: d.Rule, Why: words})
	denied.words = words
	return denied, false
}

func sessions(n int) string {
	if n == 1 {
		return "1 session"
	}
	return fmt.Sprint(n, " sessions")
}

// standing is by what a session runs.
type standing struct {
	who      authz.Subject
	question authz.Request
	decision authz.Decision
}

// stand has the session judged from now on, by its clock and by every policy
// that comes.
func (s *session) stand(policy *authz.Policy, on standing) {
	s.standing = on
	s.clock = newClock(s.streams.aside, s.dismiss)
	s.keep(s.clock)
	s.clock.set(limitsOf(on.who, on.decision, s.clock.began))
	running := &s.server.running
	running.add(s)
	s.keep(closer(func() { running.remove(s) }))

	// A policy that came while the way was made has judged without this one.
	running.judging.Lock()
	defer running.judging.Unlock()
	if newer := s.server.Policy(); newer != policy {
		s.judge(newer)
	}
}

// ready tells, when all is done but to run the command, whether it may run: it is
// on the record, and what locks somebody out meanwhile does so before, not after.
func (s *session) ready(policy *authz.Policy, question authz.Request) error {
	if err := s.record.Durable(); err != nil {
		return err
	}
	now := s.server.Policy()
	if now == policy {
		return nil
	}
	who, err := s.identify(now)
	if err != nil {
		return err
	}
	if d := now.Decide(who, question); !d.Allow {
		return errors.New("no longer allowed: " + d.Why)
	}
	return nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

// dismiss ends a session, without waiting until it has. It is for whoever is not
// the session itself.
func (s *session) dismiss(e ending) {
	select {
	case s.over <- e:
	default: // it ends already
	}
}

// Judge asks the policy again about every session that runs. It is to be called
// after each change of the policy, and waits for no client. A lock ends a session
// at once; whoever may not go on for another reason is warned, and has some
// seconds. If the policy has changed its mind by then, they stay.
func (s *Server) Judge() {
	s.once.Do(s.setUp) // grants and locks are read before anybody can come
	s.running.judging.Lock()
	defer s.running.judging.Unlock()
	policy := s.Policy()
	for _, session := range s.running.all() {
		session.judge(policy)
	}
	s.Approvals.Review()
}

// judge asks as when the session began, so that what it is in the middle of is
// not ended by the hours of its rule; but whose key it is must be true now.
func (s *session) judge(policy *authz.Policy) {
	defer s.server.guard("judging")
	who, d := s.verdict(policy)
	switch {
	case d.Allow:
		if s.clock.set(limitsOf(who, d, s.clock.began)) {
			s.streams.aside("the policy has changed again: this session stays")
		}
	case strings.HasPrefix(d.Rule, "lock "):
		s.dismiss(locked(d))
	default:
		s.clock.add(s.server.changed(d.Why))
	}
}

func (s *session) verdict(policy *authz.Policy) (authz.Subject, authz.Decision) {
	who, err := s.identify(policy)
	if err != nil {
		return who, authz.Decision{Why: err.Error()}
	}
	d := policy.Decide(who, s.standing.question)
	if why := s.outgrown(who, d); d.Allow && why != "" {
		return who, authz.Decision{Rule: d.Rule, Why: why}
	}
	return who, d
}

// identify tells whose key it is, now.
func (s *session) identify(policy *authz.Policy) (authz.Subject, error) {
	return policy.Identify(authz.Credential{Key: s.key, From: s.conn.from, Time: time.Now()})
}

// outgrown says what a session has that it would not be given any more; or "".
// Its limits of time are not among that: they can be changed while it runs.
func (s *session) outgrown(who authz.Subject, d authz.Decision) string {
	was, is := s.standing.decision.Terms, d.Terms
	switch {
	case who.Person != s.standing.who.Person:
		return "the key is " + who.Person + "'s now"
	case s.pty != nil && who.Bounds.NoPTY:
		return "the key is not for terminals any more"
	case d.Command != s.standing.decision.Command:
		return "the key is bound to another command"
	case was.Output == authz.OutputNone && is.Output != authz.OutputNone:
		return "it is to be recorded now"
	case was.Profile != is.Profile || was.User != is.User || was.Host != is.Host || was.SeccompMust != is.SeccompMust ||
		!slices.Equal(was.CapAdd, is.CapAdd) || !slices.Equal(was.CapDrop, is.CapDrop) || !slices.Equal(was.Namespaces, is.Namespaces):
		return by(d.Rule) + " gives other privileges"
	}
	return ""
}

// locked ends a session whose output may be stuck, and whose client may not
// listen to any words: it gets little time for that.
func locked(d authz.Decision) ending {
	words := "this session was ended: " + audit.Printable(d.Why)
	return ending{code: codeFailed, words: words, reason: audit.Reason(words), patience: time.Second}
}

// leave is how long a session may go on that the policy allows no longer.
const leave = 10 * time.Second

func (s *Server) changed(why string) limit {
	wait := cmp.Or(s.leave, leave)
	return limit{
		name: limitPolicy, at: time.Now().Add(wait), notice: wait,
		words:  func(left string) string { return "the policy has changed: this session ends in " + left },
		ending: failed("the policy has changed: this session was ended", audit.Reason("no longer allowed: "+why)),
	}
}
