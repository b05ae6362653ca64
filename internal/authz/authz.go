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
	Up   = "up"
	Down = "down"
)

// Request is one question.
type Request struct {
	Target     Target
	BreakGlass bool // the login was spelt breakglass+NAME
	Kind       Kind
	Command    string // of an exec, as the client sent it
	Object     string // of forward and reverse HOST:PORT; of env the name; of transfers Up or Down
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
	people map[string]Subject // by the wire form of their keys
	rules  []rule
}

type rule struct {
	name     string
	everyone bool
	people   []string
	groups   []string
	targets  []TargetPattern
	deny     string
	shell    bool
	exec     []Pattern
	terms    Terms
}

// Identify returns the person who holds a credential. The error says, for the
// record, why it is nobody's.
func (p *Policy) Identify(c Credential) (Subject, error) {
	if p == nil || c.Key == nil {
		return Subject{}, errors.New("there is no policy")
	}
	who, ok := p.people[string(c.Key.Marshal())]
	if !ok {
		return Subject{}, fmt.Errorf("%s is nobody's key", ssh.FingerprintSHA256(c.Key))
	}
	who.Groups = slices.Clone(who.Groups)
	return who, nil
}

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

// Decide judges by the first rule whose people and targets match: what that
// rule does not allow is denied, and later rules are not asked. If none
// matches, the answer is no.
func (p *Policy) Decide(who Subject, what Request) Decision {
	if p == nil {
		return Decision{Why: "there is no policy"}
	}
	if who.Person == "" {
		return Decision{Why: "nobody has signed in"}
	}
	if what.Target.Runtime == "" || what.Target.ID == "" {
		return Decision{Why: "no target was asked for"}
	}
	for i := range p.rules {
		r := &p.rules[i]
		switch {
		case !r.names(who):
		case r.covers(what.Target):
			return r.decide(what)
		case r.mayCover(what.Target):
			return r.no("its labels are not known, and the rule asks for them")
		}
	}
	return Decision{Why: "no rule matches"}
}

// Asks returns the terms of the rule that would decide, whatever is to be done to
// the target, so that what they ask for can be asked at sign-in. They are zero
// if the answer can only be no.
func (p *Policy) Asks(who Subject, what Request) Terms { return Terms{} }

// MayApprove tells whether somebody is among those who may let a session begin.
// That they are not the one who asked, and that each counts once, the caller
// sees to.
func (p *Policy) MayApprove(who Subject, by Approve) bool { return false }

// Grant is access to one container that was given beside the rules. A rule that
// denies, and says so, is stronger.
type Grant struct {
	ID      string
	Person  string
	Target  string    // its name, and RUNTIME:NAME for one runtime's only
	Exec    []Pattern // only these commands; none: a shell
	Profile string    // empty: the default
	Until   time.Time
	Reason  string
	By      string // who gave it
}

// Lock denies everything to somebody, or about a container. It is stronger than
// all rules and grants, and a running session is under it as well.
type Lock struct {
	ID     string
	Person string    // only this one; empty: everybody
	Target string    // only what is so called: a name, RUNTIME:NAME, or the beginning of an ID; empty: all
	Until  time.Time // zero: until it is taken away
	Reason string
	By     string
}

// With returns the policy with grants and locks beside its rules, instead of
// those that it had.
func (p *Policy) With(grants []Grant, locks []Lock) *Policy { return p }

func (r *rule) names(who Subject) bool {
	return r.everyone ||
		slices.Contains(r.people, who.Person) ||
		slices.ContainsFunc(r.groups, func(group string) bool { return slices.Contains(who.Groups, group) })
}

func (r *rule) covers(target Target) bool {
	return slices.ContainsFunc(r.targets, func(p TargetPattern) bool { return p.Match(target) })
}

// mayCover tells whether it depends on labels that nobody could tell.
func (r *rule) mayCover(target Target) bool {
	return target.Labels[labelsUnknown] != "" &&
		slices.ContainsFunc(r.targets, func(p TargetPattern) bool { return p.matchesButForLabels(target) })
}

func (r *rule) decide(what Request) Decision {
	switch {
	case r.deny != "":
		return r.no("denied by rule: " + r.deny)
	case what.Target.Host && !r.terms.Host:
		return r.no("a process of the host itself, and the rule does not say host: true")
	case what.Kind == Shell && r.shell:
		return r.yes("shell allowed", nil)
	case what.Kind == Exec && r.shell:
		return r.yes("shell allowed", nil)
	case what.Kind == Exec && len(r.exec) > 0:
		return r.decideCommand(what.Command)
	}
	return r.no("rule does not allow " + string(what.Kind))
}

func (r *rule) decideCommand(command string) Decision {
	argv, err := Split(command)
	if err != nil {
		return r.no(err.Error())
	}
	if !slices.ContainsFunc(r.exec, func(p Pattern) bool { return p.Match(argv) }) {
		return r.no("no exec pattern of the rule matches the command")
	}
	return r.yes("command allowed", argv)
}

func (r *rule) yes(why string, argv []string) Decision {
	return Decision{Allow: true, Rule: r.name, Why: why, Argv: argv, Terms: r.terms}
}

func (r *rule) no(why string) Decision { return Decision{Rule: r.name, Why: why} }
