// Package authz answers one question: may this person do this to that
// container, by which rule, on what terms.
//
// It is pure: no files, no network, no clock but the Request's.
package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// Credential is what somebody has proved to hold: a plain key or a certificate,
// and from where and when.
type Credential struct {
	Key  ssh.PublicKey // or *ssh.Certificate
	From netip.Addr
	Time time.Time
}

// Subject is a person who has proved a key. The zero Subject is nobody.
type Subject struct {
	Person     string // of a certificate that is no person's of the policy: its principal
	Groups     []string
	Principals []string // of the certificate: those that its authority may speak for
	Key        Key      // that was proved; of a certificate, the key in it
	Hardware   bool     // the key lives in a hardware token (sk-…)
	TOTP       string   // the name of the secret for one-time passwords; empty: they have none
	Known      bool     // Person is one of the policy's people, and not only a principal

	Certificate *Certificate // nil: a plain key
	Bounds      Bounds
	Until       time.Time // from when on they are nobody; zero: no end is known
}

// Certificate is what the record has of an SSH user certificate.
type Certificate struct {
	KeyID     string
	Serial    uint64
	Authority string // SHA256 fingerprint of the key that signed it
}

// Bounds are what a key itself may not be used for, whatever the rules allow:
// options of authorized_keys(5), critical options and extensions of certificates.
type Bounds struct {
	Command      string // the only one, run in place of what is asked for; empty: any
	NoPTY        bool
	NoForwarding bool // neither forward nor reverse
	NoAgent      bool
}

// Target is what the policy may know of a container. A process that is in no
// container (runtime "pid") has neither name nor image nor labels.
type Target struct {
	Runtime, ID, Name, Image string
	Namespace, Pod           string // of Kubernetes
	Labels                   map[string]string
	Host                     bool // it sees the host's own files
	Facts                    Facts
}

// Facts are what the kernel says of a target.
type Facts struct {
	Privileged bool // all capabilities, and no seccomp filter
	HostPID    bool // it is in the host's PID namespace
	HostNet    bool // it is in the host's network namespace
}

// Kind is what a person asks to do.
type Kind string

// The kinds of request. What else a Request says of them, see there.
const (
	Shell   Kind = "shell"
	Exec    Kind = "exec"
	Forward Kind = "forward" // a connection from the container's side, ssh -L
	Reverse Kind = "reverse" // a listener on the container's side, ssh -R
	Agent   Kind = "agent"
	Env     Kind = "env" // a variable that clients may not set otherwise
	SFTP    Kind = "sftp"
	SCP     Kind = "scp"
	Rsync   Kind = "rsync"
	Join    Kind = "join" // somebody's running session
	Kill    Kind = "kill" // the same
	Play    Kind = "play" // a recording
)

// The directions of transfers, as seen from the client.
const (
	Up   Direction = "up"
	Down Direction = "down"
)

// Request is one question.
type Request struct {
	Target     Target
	BreakGlass bool // the login was spelt breakglass+NAME
	Kind       Kind
	Command    string // of an exec, as the client sent it
	Object     string // of forward and reverse HOST:PORT; of env the name; of transfers Up or Down, or neither for both
	Time       time.Time
	From       netip.Addr
}

// Decision is the answer. The zero value denies.
type Decision struct {
	Allow   bool
	Rule    string   // the rule that decided, or "grant ID"; empty if none matched
	Why     string   // for the record, never for the person denied
	Command string   // what an exec runs: the request's, or the one that the key is bound to
	Argv    []string // of an exec that must run without a shell: Command, split; nil: the shell runs it
	Terms   Terms
}

// Policy is who may do what. A nil *Policy knows nobody and denies everything.
// It never changes, so any number of goroutines may ask it.
type Policy struct {
	people map[string]holder     // by the wire form of their keys
	signed map[string]*authority // the same, of those who sign certificates
	order  []Subject             // all people, each once, in the order of the file
	rules  []rule
	index  index
	grants []Grant
	locks  []Lock

	profile string // of grants that name none
}

// Identify returns the person who holds a credential. The error says, for the
// record, why it is nobody's.
func (p *Policy) Identify(c Credential) (Subject, error) {
	if p == nil || c.Key == nil {
		return Subject{}, errors.New("there is no policy")
	}
	who, err := p.holder(c)
	if err != nil {
		return Subject{}, err
	}
	who.Groups = slices.Clone(who.Groups)
	return who, nil
}

func (p *Policy) holder(c Credential) (Subject, error) {
	if cert, ok := c.Key.(*ssh.Certificate); ok {
		return p.certified(cert, c)
	}
	held, ok := p.people[string(c.Key.Marshal())]
	print := ssh.FingerprintSHA256(c.Key)
	switch {
	case !ok:
		return Subject{}, fmt.Errorf("%s is nobody's key", print)
	case over(held.Until, c.Time):
		return Subject{}, fmt.Errorf("%s was %s's key until %s", print, held.Person, stamp(held.Until))
	case !held.from.admit(c.From):
		return Subject{}, fmt.Errorf("%s is %s's key, and not for use from %s", print, held.Person, addressWords(c.From))
	}
	return held.Subject, nil
}

// over tells whether something has ended. While the time is not known, all has
// that has an end.
func over(until, now time.Time) bool {
	return !until.IsZero() && (now.IsZero() || !now.Before(until))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Images returns what the rules demand of the tools (Terms.Image), each once, in
// their order: whoever has the images can tell which demands nobody can meet.
func (p *Policy) Images() []string {
	if p == nil {
		return nil
	}
	var demands []string
	for _, r := range p.rules {
		if d := r.terms.Image; d != "" && !slices.Contains(demands, d) {
			demands = append(demands, d)
		}
	}
	return demands
}

// Decide judges by the first rule that matches: by who asks, from where and
// when, and by the target. What that rule does not allow is denied, and later
// rules are not asked. If none matches, the answer is no.
//
// A lock is stronger than every rule. A grant gives what the rules do not, unless
// the rule that matches says deny.
func (p *Policy) Decide(who Subject, what Request) Decision {
	if why := p.unaskable(who, what); why != "" {
		return Decision{Why: why}
	}
	if l := p.lock(who, what); l != nil {
		return Decision{Rule: "lock " + l.ID, Why: l.why()}
	}
	what = transferring(bound(who, what))
	r, unknown := p.first(who, what)
	switch {
	case unknown:
		return r.no("its labels are not known, and the rule asks for them")
	case r != nil && r.deny != "":
		return r.no("denied by rule: " + r.deny)
	}
	decision := Decision{Why: "no rule matches"}
	if r != nil {
		decision = r.decide(who, what)
	}
	if decision.Allow {
		return decision
	}
	if g := p.grant(who, what); g != nil {
		return g.rule().decide(who, what)
	}
	return decision
}

func (p *Policy) unaskable(who Subject, what Request) string {
	switch {
	case p == nil:
		return "there is no policy"
	case who.Person == "":
		return "nobody has signed in"
	case !what.Time.IsZero() && over(who.Until, what.Time):
		return who.Person + " is nobody since " + stamp(who.Until)
	case what.Target.Runtime == "" || what.Target.ID == "":
		return "no target was asked for"
	}
	return ""
}

// bound is what is really to be run by a key that is bound to one command.
func bound(who Subject, what Request) Request {
	if who.Bounds.Command != "" && (what.Kind == Shell || what.Kind == Exec) {
		what.Kind, what.Command = Exec, who.Bounds.Command
	}
	return what
}

// first returns the rule that decides, or nil. Whether it matches depends on
// labels that nobody could tell if unknown is true.
func (p *Policy) first(who Subject, what Request) (_ *rule, unknown bool) {
	target := what.Target.read()
	for r := range p.about(who) {
		covers := r.covers(target)
		unknown = !covers && r.mayCover(target)
		if (covers || unknown) && r.isFor(what) && r.isOpen(what) {
			return r, unknown
		}
	}
	return nil, false
}

// Asks returns the terms of the rule that would decide, whatever is to be done to
// the target, so that what they ask for can be asked at sign-in. It is false
// if the answer can only be no.
func (p *Policy) Asks(who Subject, what Request) (Terms, bool) {
	if p.unaskable(who, what) != "" || p.lock(who, what) != nil {
		return Terms{}, false
	}
	r, unknown := p.first(who, what)
	if unknown || r != nil && r.deny != "" {
		return Terms{}, false
	}
	if r != nil && r.refuses(who, what) == "" {
		return r.terms, true
	}
	given := func(g Grant) bool { return g.holds(who, what) && g.rule().refuses(who, what) == "" }
	return Terms{}, slices.ContainsFunc(p.grants, given)
}

// AsksAnything tells whether any rule for logins that are spelt so has something to
// ask at sign-in.
func (p *Policy) AsksAnything(breakGlass bool) bool {
	if p == nil {
		return false
	}
	for i := range p.rules { // by its place: a rule is large, and there may be thousands
		r := &p.rules[i]
		if r.breakGlass == breakGlass && (r.terms.Reason != nil || r.terms.TOTP) {
			return true
		}
	}
	return false
}

// MayApprove tells whether somebody is among those who may let a session begin, then.
// That they are not the one who asked, and that each counts once, the caller
// sees to.
func (p *Policy) MayApprove(who Subject, by Approve, at time.Time) bool {
	return p != nil && who.Person != "" && by.by.names(who) && p.lock(who, Request{Time: at}) == nil
}

// People returns everyone of people, in the order of the file, each as if they
// had signed in with their first key.
func (p *Policy) People() []Subject {
	if p == nil {
		return nil
	}
	return slices.Clone(p.order)
}

// Subject returns one of them by name.
func (p *Policy) Subject(name string) (Subject, bool) {
	if p == nil {
		return Subject{}, false
	}
	i := slices.IndexFunc(p.order, func(who Subject) bool { return who.Person == name })
	if i < 0 {
		return Subject{}, false
	}
	return p.order[i], true
}
