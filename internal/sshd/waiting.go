package sshd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/approval"
	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/router"
)

// approved returns when the session may begin as far as others have a say in
// it: at once, or when enough of them have approved. Who asks, and what they
// are given, are as the policy has it by then.
func (s *session) approved(ctx context.Context, ask ask, who authz.Subject, target *router.Target, d authz.Decision) (authz.Subject, authz.Decision, error) {
	if d.Terms.Approve == nil {
		return who, d, nil
	}
	by, err := s.await(ctx, ask, who, target, d)
	if err != nil {
		return who, d, err
	}
	s.approvers = recordedApprovers(by)
	if err := s.say(ctx, "cartsshd: approved by "+names(by)+"\n"); err != nil {
		return who, d, err
	}
	return s.stillMay(ask, who, target, d, by)
}

// errDeaf keeps an approval from being saved for later: a client that does not
// read would begin whenever it likes.
var errDeaf = approval.Refused("the client did not read that it waits")

// await has the session wait, on the record before anybody can approve it.
func (s *session) await(ctx context.Context, ask ask, who authz.Subject, target *router.Target, d authz.Decision) ([]approval.Approver, error) {
	r := s.petition(ask, who, target, d)
	event := s.event(audit.SessionWaiting, r.Command, who, target, r.Rule)
	event.Detail = fmt.Sprintf("%s: for %s, until %s", r.ID, wanted(d), r.Expires.UTC().Format(time.RFC3339))
	if err := s.server.Record.Event(event); err != nil {
		return nil, err
	}
	w, err := s.server.Approvals.Ask(r)
	if err != nil {
		return nil, err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	stopped := stopping(target)
	go func() { // until await returns
		select {
		case <-stopped:
			giveUp(approval.Refused("container " + label(target) + " stopped"))
		case <-ctx.Done():
		}
	}()
	defer s.listen(giveUp)()
	if err := s.say(ctx, instructions(r, d)); err != nil {
		giveUp(err)
		w.Wait(ctx) // it is over, whatever was approved meanwhile
		return nil, err
	}
	return w.Wait(ctx)
}

// petition is what the session asks others for.
func (s *session) petition(ask ask, who authz.Subject, target *router.Target, d authz.Decision) approval.Request {
	now := time.Now()
	r := approval.Request{
		ID:      approval.NewID(),
		Host:    gossh.FingerprintSHA256(s.server.HostKeys[0].PublicKey()),
		Person:  who.Person,
		Also:    who.Principals,
		Key:     approval.Fingerprint(s.key),
		Login:   s.login.typed,
		Target:  target.Runtime + ":" + target.ID,
		Name:    target.Name,
		Rule:    d.Rule,
		Profile: d.Terms.Profile,
		Kind:    string(ask.kind),
		Command: cmp.Or(d.Command, ask.command),
		Env:     s.allowed(d.Terms),
		Reason:  s.reason,
		Asked:   now,
		Expires: now.Add(d.Terms.Approve.Within),
		Count:   d.Terms.Approve.Count,
	}
	if who.Bounds.Command != "" {
		r.Kind, r.Sent = string(authz.Exec), askedFor(ask)
	}
	r.Still = func() error {
		_, whoNow, now := s.askAgain(ask, target)
		return changed(who, whoNow, d, now)
	}
	r.May = func(by approval.Approver) bool {
		policy, whoNow, now := s.askAgain(ask, target)
		return changed(who, whoNow, d, now) == nil && mayApprove(policy, now.Terms.Approve, by)
	}
	r.Record = func(all []approval.Approver) error {
		last := all[len(all)-1]
		event := s.event(audit.SessionApproved, r.Command, who, target, r.Rule)
		event.Approvers = recordedApprovers(all)
		event.Detail = fmt.Sprintf("%s: %s %s, %d of %d", r.ID, last.Name, last.Via, len(all), r.Count)
		return s.server.Record.Event(event)
	}
	return r
}

// wanted says whose approval a decision wants.
func wanted(d authz.Decision) string {
	return fmt.Sprintf("%d of %s", d.Terms.Approve.Count, strings.Join(d.Terms.Approve.By, ", "))
}

// instructions are for the one who waits. HOST is how they came here, which the
// server cannot know.
func instructions(r approval.Request, d authz.Decision) string {
	return fmt.Sprintf(`cartsshd: this session waits for the approval of %[1]s

%[2]s
To approve it:    ssh %[3]s@HOST approve %[4]s
or, offline:      ssh %[3]s@HOST request %[4]s >request
                  ssh-keygen -Y sign -n %[5]s -f KEY request
and bring that:   ssh %[3]s@HOST approve %[4]s <request.sig
`, wanted(d), r.Text(), deskLogin, r.ID, approval.Namespace)
}

// askAgain asks the policy of now whether the session may begin, if it is approved.
func (s *session) askAgain(ask ask, target *router.Target) (*authz.Policy, authz.Subject, authz.Decision) {
	policy := s.server.Policy()
	who, err := s.identify(policy)
	if err != nil {
		return policy, who, authz.Decision{Why: err.Error()}
	}
	return policy, who, policy.Decide(who, s.question(ask, Judged(target)))
}

// mayApprove tells whether an approver is still who they were, and among those
// who are asked for. A key that is bound to one command is for nothing else.
func mayApprove(policy *authz.Policy, by *authz.Approve, a approval.Approver) bool {
	now := time.Now()
	who, err := policy.Identify(authz.Credential{Key: a.Key, From: a.From, Time: now})
	return err == nil && by != nil && who.Person == a.Name && who.Bounds.Command == "" && policy.MayApprove(who, *by, now)
}

// changed says why a decision is not the one any more that was to be approved.
// A rule may go by the same name and give more, and a key be another person's.
func changed(who, whoNow authz.Subject, before, now authz.Decision) error {
	switch {
	case !now.Allow:
		return errors.New(now.Why)
	case who.Person != whoNow.Person || who.Bounds != whoNow.Bounds || !reflect.DeepEqual(promise(before), promise(now)):
		return errChanged
	}
	return nil
}

var errChanged = approval.Refused("the policy has changed while this session waited: ask again")

// promise is all that a decision gives and asks for, but for the approval: that
// is counted again by itself.
func promise(d authz.Decision) authz.Decision {
	d.Why, d.Terms.Approve = "", nil
	return d
}

// stillMay judges a session anew that has waited: everything may have changed
// meanwhile, and those who approved it may not be who they were.
func (s *session) stillMay(ask ask, who authz.Subject, target *router.Target, before authz.Decision, by []approval.Approver) (authz.Subject, authz.Decision, error) {
	policy, whoNow, now := s.askAgain(ask, target)
	if err := changed(who, whoNow, before, now); err != nil {
		return who, before, err
	}
	valid := 0
	for _, a := range by {
		if mayApprove(policy, now.Terms.Approve, a) {
			valid++
		}
	}
	if need := now.Terms.Approve; need != nil && valid < need.Count {
		return who, before, errChanged
	}
	return whoNow, now, nil
}

// unapproved denies a session that was not let begin. To that the rules would
// let its person in if others agreed, they may know how that went.
func (s *session) unapproved(ask ask, who authz.Subject, target *router.Target, d authz.Decision, err error) ending {
	if errors.Is(err, audit.ErrUnrecorded) {
		return unrecorded(err)
	}
	why, words := err.Error(), ""
	if refused, ok := errors.AsType[approval.Refused](err); ok {
		words = string(refused)
	}
	if denied, ok := errors.AsType[*approval.DeniedError](err); ok {
		words = why
		why += " (" + approval.Fingerprint(denied.By.Key) + ") " + denied.By.Via
	}
	if err == errStopping {
		words = left(err).words
	}
	ending := s.deny(ask, who, target, authz.Decision{Rule: d.Rule, Why: why})
	ending.words = cmp.Or(words, ending.words)
	return ending
}

// say tells the client something. A client that does not read is not waited for.
func (s *session) say(ctx context.Context, text string) error {
	said := make(chan struct{})
	s.saying.Go(func() { // ends at the latest when the channel is closed
		defer s.server.guard("words")
		defer close(said)
		if s.pty == nil {
			io.WriteString(s.ch.Stderr(), text)
			return
		}
		io.WriteString(s.ch, strings.ReplaceAll(text, "\n", "\r\n"))
	})
	select {
	case <-said:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		return errDeaf
	}
}

func recordedApprovers(by []approval.Approver) (all []audit.Approver) {
	for _, a := range by {
		all = append(all, audit.Approver{Name: a.Name, Key: approval.Fingerprint(a.Key), How: a.How})
	}
	return all
}

func names(by []approval.Approver) string {
	var all []string
	for _, a := range by {
		all = append(all, audit.Printable(a.Name))
	}
	return strings.Join(all, " and ")
}

// listen hears what is typed at the terminal of a session that waits, until the
// func that it returns is called. Without a terminal there is no ^C to hear.
func (s *session) listen(giveUp context.CancelCauseFunc) (enough func()) {
	if s.pty == nil {
		return func() {}
	}
	s.ahead = &typeahead{from: s.ch, chunks: make(chan []byte, 16), gone: s.left}
	go func() {
		defer s.server.guard("type-ahead")
		s.ahead.hear(func() { giveUp(approval.Refused("given up by ^C")) })
	}()
	return func() { s.ahead.handed.Store(true) }
}

// input is where what the client sends comes from.
func (s *session) input() io.Reader {
	if s.ahead != nil {
		return s.ahead
	}
	return s.ch
}

// typeahead is what was typed while a session waited. Except for ^C it is the
// command's, as on any terminal. Nobody can take a Read back, so one may still
// be under way when the command begins: what it brings comes first.
type typeahead struct {
	from   io.Reader
	chunks chan []byte
	gone   <-chan struct{} // closed when nobody will read any more
	handed atomic.Bool     // to the command

	next []byte // only Read touches it
}

func (t *typeahead) hear(interrupted func()) {
	const ctrlC = 3
	defer close(t.chunks)
	for !t.handed.Load() {
		buf := make([]byte, 512)
		n, err := t.from.Read(buf)
		if !t.handed.Load() && bytes.IndexByte(buf[:n], ctrlC) >= 0 {
			interrupted()
			return
		}
		select {
		case t.chunks <- buf[:n]:
		case <-t.gone:
			return
		}
		if err != nil {
			return
		}
	}
}

func (t *typeahead) Read(p []byte) (int, error) {
	for len(t.next) == 0 {
		chunk, ok := <-t.chunks
		if !ok {
			return t.from.Read(p)
		}
		t.next = chunk
	}
	n := copy(p, t.next)
	t.next = t.next[n:]
	return n, nil
}
