package authz

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Tests are what a policy claims of itself.
type Tests []strictyaml.At[Test]

// Test is a question and its answer. A policy that answers otherwise is not
// loaded.
type Test struct {
	Who         strictyaml.At[string]       `yaml:"who"` // a person, or principal:NAME
	Groups      []Name                      `yaml:"groups"`
	Target      strictyaml.At[TargetOfTest] `yaml:"target"`
	Exec        string                      `yaml:"exec"` // neither this nor what follows: a shell
	Forward     string                      `yaml:"forward"`
	Do          strictyaml.At[string]       `yaml:"do"` // another kind, such as agent or "scp up"
	BreakGlass  Switch                      `yaml:"break_glass"`
	HardwareKey Switch                      `yaml:"hardware_key"`
	At          Instant                     `yaml:"at"`
	From        strictyaml.At[Address]      `yaml:"from"`

	Allow *Switch `yaml:"allow"`
	Deny  *Switch `yaml:"deny"`
	Rule  Name    `yaml:"rule"` // that decides
}

// TargetOfTest is a container that need not exist.
type TargetOfTest struct {
	Name       string            `yaml:"name"`
	Runtime    string            `yaml:"runtime"`
	Image      string            `yaml:"image"`
	Namespace  string            `yaml:"namespace"`
	Pod        string            `yaml:"pod"`
	Labels     map[string]string `yaml:"labels"`
	Privileged Switch            `yaml:"privileged"`
	HostPID    Switch            `yaml:"host_pid"`
	HostNet    Switch            `yaml:"host_net"`
	Host       Switch            `yaml:"host"`
}

// Instant is a time of RFC 3339.
type Instant struct{ Time time.Time }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (i *Instant) UnmarshalText(text []byte) error {
	if err := i.Time.UnmarshalText(text); err != nil {
		return fmt.Errorf("wants a time, such as 2026-11-25T18:00:00Z")
	}
	return nil
}

// Address is that of a client.
type Address struct{ netip.Addr }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (a *Address) UnmarshalText(text []byte) error {
	addr, err := netip.ParseAddr(string(text))
	if err != nil {
		return fmt.Errorf("wants an address, such as 10.1.2.3")
	}
	a.Addr = addr.Unmap()
	return nil
}

// claims asks a policy what it claims of itself.
func (c *compiler) claims(p *Policy, tests Tests) {
	for _, at := range tests {
		who, what, ok := c.question(p, at)
		if !ok {
			continue
		}
		if free := p.dependsOn(who, what); free != "" {
			c.problemf(at.Pos, "the answer depends on %s: say it", free)
			continue
		}
		got := p.Decide(who, what)
		if got.Allow != at.Value.allows() || at.Value.Rule != "" && string(at.Value.Rule) != got.Rule {
			c.problemf(at.Pos, "test fails: %s (it wants %s)", got.answer(who, what), at.Value.wants())
		}
	}
}

func (t Test) wants() string {
	answer := "deny"
	if t.allows() {
		answer = "allow"
	}
	if t.Rule != "" {
		answer += ", by rule " + string(t.Rule)
	}
	return answer
}

func (t Test) allows() bool {
	return t.Allow != nil && bool(*t.Allow) || t.Deny != nil && !bool(*t.Deny)
}

// answer is a decision in a sentence.
func (d Decision) answer(who Subject, what Request) string {
	verb := "may"
	if !d.Allow {
		verb = "may not"
	}
	rule := "no rule"
	if d.Rule != "" {
		rule = "rule " + d.Rule
	}
	return fmt.Sprintf("%s %s %s in %s, by %s: %s", who.Person, verb, what.Words(), cmp.Or(what.Target.Name, what.Target.ID), rule, d.Why)
}

// Words is what is asked for, as in "alice may …".
func (r Request) Words() string {
	switch r.Kind {
	case Shell:
		return "have a shell"
	case Exec:
		return fmt.Sprintf("run %q", r.Command)
	case Forward, Reverse:
		return string(r.Kind) + " " + r.Object
	case SFTP, SCP, Rsync:
		return "send files " + r.Object + " by " + string(r.Kind)
	}
	return strings.TrimSpace("do " + string(r.Kind) + " " + r.Object)
}

func (c *compiler) question(p *Policy, at strictyaml.At[Test]) (who Subject, what Request, ok bool) {
	t, before := at.Value, len(c.problems)
	if missing(t.Who) || missing(t.Target) || (t.Allow == nil) == (t.Deny == nil) {
		c.problemf(at.Pos, "test wants who, target, and allow: true or deny: true")
	} else if !bool(deref(t.Allow)) && !bool(deref(t.Deny)) {
		c.problemf(at.Pos, "test wants allow: true or deny: true, and not what is false")
	}
	who = c.asked(p, t)
	what = Request{Target: c.imagined(t.Target), BreakGlass: bool(t.BreakGlass), Time: t.At.Time, From: t.From.Value.Addr, Kind: Shell}
	c.kind(at, &what)
	return who, what, len(c.problems) == before
}

func deref(s *Switch) Switch { return s != nil && *s }

// asked is who the test is about, with groups of their own only if they are none
// of the people.
func (c *compiler) asked(p *Policy, t Test) Subject {
	if principal, ok := strings.CutPrefix(t.Who.Value, "principal:"); ok {
		return c.stranger(principal, t)
	}
	who, ok := p.Subject(t.Who.Value)
	if !ok && !missing(t.Who) {
		c.problemf(t.Who.Pos, "%s", c.nobody(t.Who.Value))
	}
	if len(t.Groups) > 0 {
		c.problemf(t.Who.Pos, "%s has groups already: groups is for principal:NAME", t.Who.Value)
	}
	who.Bounds, who.Hardware = Bounds{}, bool(t.HardwareKey)
	return who
}

// stranger is somebody who has a certificate.
func (c *compiler) stranger(principal string, t Test) Subject {
	if principal == "" {
		c.problemf(t.Who.Pos, "principal: names nobody: write principal:NAME")
	}
	for _, g := range t.Groups {
		if !c.groups[string(g)] && g != "" {
			c.problemf(t.Who.Pos, "%s", c.nobodyIn(string(g)))
		}
	}
	who := Certified(principal, c.closure(t.Groups)...)
	who.Hardware = bool(t.HardwareKey)
	return who
}

func (c *compiler) imagined(at strictyaml.At[TargetOfTest]) Target {
	t := at.Value
	runtime := cmp.Or(t.Runtime, c.known.Runtimes[0])
	if !slices.Contains(c.known.Runtimes, runtime) {
		c.problemf(at.Pos, "unknown runtime %q (%s)", runtime, strictyaml.Suggest(runtime, c.known.Runtimes))
	}
	return Target{
		Runtime: runtime, ID: cmp.Or(t.Name, "test"), Name: t.Name, Image: t.Image, Namespace: t.Namespace, Pod: t.Pod, Labels: t.Labels, Host: bool(t.Host),
		Facts: Facts{Privileged: bool(t.Privileged), HostPID: bool(t.HostPID), HostNet: bool(t.HostNet)},
	}
}

func (c *compiler) kind(at strictyaml.At[Test], what *Request) {
	t := at.Value
	said := 0
	for _, text := range []string{t.Exec, t.Forward, t.Do.Value} {
		if text != "" {
			said++
		}
	}
	switch {
	case said > 1:
		c.problemf(at.Pos, "test asks for more than one thing: exec, forward or do")
	case t.Exec != "":
		what.Kind, what.Command = Exec, t.Exec
	case t.Forward != "":
		what.Kind, what.Object = Forward, t.Forward
	case t.Do.Value != "":
		kind, object, err := Doing(t.Do.Value)
		if err != nil {
			c.problemf(t.Do.Pos, "%v", err)
			return
		}
		what.Kind, what.Object = kind, object
	}
	if why := what.misspelt(); why != "" {
		c.problemf(cmp.Or(t.Do.Pos, at.Pos), "%s", why)
	}
}

// misspelt says why no rule can allow what is asked for; or "". A test that is
// not understood would be denied, and so pass.
func (r Request) misspelt() string {
	switch r.Kind {
	case Forward, Reverse:
		if host, _, err := net.SplitHostPort(r.Object); err != nil || host == "" {
			return fmt.Sprintf("%s wants HOST:PORT, as in %[1]s localhost:8080", r.Kind)
		}
	case SFTP, SCP, Rsync:
		if d := Direction(r.Object); d != Up && d != Down {
			return fmt.Sprintf("%s goes up or down: write %[1]s up", r.Kind)
		}
	case Env:
		if r.Object == "" {
			return "env wants a name, as in env APP_ENV"
		}
	case Exec:
		if r.Command == "" {
			return `write exec: "COMMAND"`
		}
	case Shell, Agent, Join, Kill, Play:
		if r.Object != "" {
			return fmt.Sprintf("%s is about nothing more: leave out %q", r.Kind, r.Object)
		}
	default:
		return fmt.Sprintf("unknown thing to do %q (%s)", r.Kind, strictyaml.Suggest(string(r.Kind), kinds))
	}
	return ""
}

// Doing reads what there is to do besides to run a command: "agent", "scp up".
func Doing(text string) (kind Kind, object string, err error) {
	word, object, _ := strings.Cut(text, " ")
	if word == string(Exec) {
		return "", "", errors.New("a command is asked for by exec, and not by what there is to do besides")
	}
	if !slices.Contains(kinds, word) {
		return "", "", fmt.Errorf("unknown thing to do %q (%s)", word, strictyaml.Suggest(word, kinds))
	}
	if why := (Request{Kind: Kind(word), Object: object}).misspelt(); why != "" {
		return "", "", errors.New(why)
	}
	return Kind(word), object, nil
}

// dependsOn says what of the question was left open that some rule on its way
// asks for; or "".
func (p *Policy) dependsOn(who Subject, what Request) string {
	target := what.Target.read()
	for r := range p.about(who) {
		switch {
		case !r.covers(target) || !r.isFor(what) || r.window.shut(what):
		case r.window.lacks(what) != "":
			return r.window.lacks(what) + ", by rule " + r.name
		default:
			return ""
		}
	}
	return ""
}
