package authz

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Rules are the rules of a policy in their order, as its file has them.
type Rules []strictyaml.At[Rule]

// Rule says whom and what it is about, and either what it allows or why it
// denies.
type Rule struct {
	Name        strictyaml.At[Name]                           `yaml:"name"`
	Who         strictyaml.At[[]strictyaml.At[string]]        `yaml:"who"`
	Targets     strictyaml.At[[]strictyaml.At[TargetPattern]] `yaml:"targets"`
	When        strictyaml.At[When]                           `yaml:"when"`
	BreakGlass  strictyaml.At[Switch]                         `yaml:"break_glass"`
	HardwareKey strictyaml.At[Switch]                         `yaml:"hardware_key"`
	Allow       strictyaml.At[[]Permission]                   `yaml:"allow"`
	Deny        strictyaml.At[string]                         `yaml:"deny"`
	Terms       strictyaml.At[TermsOfRule]                    `yaml:"terms"`
}

// Known is what rules may name besides people.
type Known struct {
	Profiles     []string // at least one; the first is for rules that name none
	Runtimes     []string // at least one
	Images       []string
	Capabilities []string // without CAP_
	Namespaces   []string
	Unconfined   []string                             // profiles without a seccomp filter
	User         func(string) error                   // what is wrong with a user; nil: nothing is a user
	Read         func(path string) ([]byte, error)    // a file that the policy names; nil: there are none
	Zone         func(string) (*time.Location, error) // a time zone by its name; nil: there are none

	// Revoked reads a list of revoked keys and certificates; name is its file's. What it returns says
	// why one is revoked, or "". The error may be of type [strictyaml.Problems]. nil: no lists are read.
	Revoked func(name string, data []byte) (func(ssh.PublicKey) string, error)
}

// Document is a policy as its file has it.
type Document struct {
	People      People
	Groups      Groups
	Authorities Authorities
	Rules       Rules
	Tests       Tests
}

// New makes a policy of what a file says. The error is of type
// [strictyaml.Problems] and has all that decoding could not see.
func New(d Document, known Known) (*Policy, error) {
	c := compiler{known: known, persons: d.People, lines: map[Name]int{}}
	c.members(d)
	c.nest(d.Groups)
	policy := &Policy{profile: known.Profiles[0]}
	policy.people, policy.order = c.people()
	policy.signed = c.authorities(d.Authorities)
	for _, r := range d.Rules {
		policy.rules = append(policy.rules, c.rule(r))
	}
	if c.problems == nil {
		c.claims(policy, d.Tests)
	}
	if err := c.problems.Err(); err != nil {
		return nil, err
	}
	return policy, nil
}

type compiler struct {
	known     Known
	persons   People
	certified map[Name]bool       // of them, those that a principal is
	groups    map[string]bool     // all that somebody is in
	around    map[string][]string // the groups that a group is in
	lines     map[Name]int        // of the rules so far
	problems  strictyaml.Problems
}

func (c *compiler) problemf(at strictyaml.Pos, format string, args ...any) {
	c.problems = append(c.problems, at.Problemf(format, args...))
}

func (c *compiler) rule(at strictyaml.At[Rule]) rule {
	r := at.Value
	if missing(r.Name) && missing(r.Who) && missing(r.Targets) && missing(r.Allow) && missing(r.Deny) {
		c.problemf(at.Pos, "rule says nothing: it wants name, who, targets, and allow or deny")
		return rule{}
	}
	compiled := rule{
		name: string(r.Name.Value), line: r.Name.Line, deny: r.Deny.Value, terms: c.terms(r.Terms.Value), window: c.when(r.When.Value),
		breakGlass: bool(r.BreakGlass.Value), hardware: bool(r.HardwareKey.Value),
	}
	c.checkName(at)
	compiled.who = c.who(at)
	c.targets(at, &compiled)
	c.allow(at, &compiled)
	c.emergency(&compiled)
	return compiled
}

// emergency rules always ask why.
func (c *compiler) emergency(r *rule) {
	if !r.breakGlass {
		return
	}
	r.terms.Emergency = true
	if r.terms.Reason == nil {
		r.terms.Reason = regexp.MustCompile(`\S`)
	}
}

func (c *compiler) checkName(at strictyaml.At[Rule]) {
	name := at.Value.Name
	if missing(name) {
		c.problemf(at.Pos, "rule has no name")
		return
	}
	if line, ok := c.lines[name.Value]; ok && name.Value != "" {
		c.problemf(name.Pos, "rule %s again (first in line %d)", name.Value, line)
		return
	}
	c.lines[name.Value] = name.Line
}

func (c *compiler) who(at strictyaml.At[Rule]) persons {
	who := at.Value.Who
	if missing(who) || emptyList(who) {
		c.problemf(at.Pos, `rule has no who: write who: ["*"] for everyone`)
	}
	return c.some(who.Value, true)
}

// some are the persons of a list.
func (c *compiler) some(list []strictyaml.At[string], everyone bool) (s persons) {
	for _, w := range list {
		s.words = append(s.words, w.Value)
		group, isGroup := strings.CutPrefix(w.Value, "group:")
		principal, isPrincipal := strings.CutPrefix(w.Value, "principal:")
		_, isPerson := c.persons[Name(w.Value)]
		switch {
		case w.Value == "": // told while decoding
		case w.Value == "*" && everyone:
			s.everyone = true
		case isGroup && c.groups[group]:
			s.groups = append(s.groups, group)
		case isGroup:
			c.problemf(w.Pos, "nobody is in group %q (%s)", group, strictyaml.Suggest(group, slices.Sorted(maps.Keys(c.groups))))
		case isPrincipal:
			s.principals = append(s.principals, c.principal(w.Pos, principal))
		case isPerson:
			s.people = append(s.people, w.Value)
		default:
			c.problemf(w.Pos, "%s", c.nobody(w.Value))
		}
	}
	return s
}

func (c *compiler) principal(at strictyaml.Pos, text string) (g Glob) {
	if err := g.UnmarshalText([]byte(text)); err != nil {
		c.problemf(at, "principal %v", err)
	}
	return g
}

// nobody says what is wrong with a name that is nobody's.
func (c *compiler) nobody(name string) string {
	switch {
	case c.groups[name]:
		return fmt.Sprintf("%q is a group: write group:%s", name, name)
	case strings.ContainsAny(name, "*?"):
		return fmt.Sprintf(`%q: who knows no pattern but "*" alone, everyone, and principal:PATTERN`, name)
	}
	return fmt.Sprintf("unknown person %q (%s)", name, strictyaml.Suggest(name, c.names()))
}

func (c *compiler) names() []string {
	var names []string
	for name := range c.persons {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

func (c *compiler) targets(at strictyaml.At[Rule], r *rule) {
	targets := at.Value.Targets
	if missing(targets) || emptyList(targets) {
		c.problemf(at.Pos, `rule has no targets: write targets: [{name: "*"}] for every container`)
	}
	for _, t := range targets.Value {
		if !slices.ContainsFunc(c.known.Runtimes, t.Value.Runtime.allows) {
			c.problemf(t.Pos, "unknown runtime %q (%s)", t.Value.Runtime, strictyaml.Suggest(t.Value.Runtime.String(), c.known.Runtimes))
		}
		r.targets = append(r.targets, t.Value)
	}
}

func (c *compiler) allow(at strictyaml.At[Rule], r *rule) {
	allow, deny, terms := at.Value.Allow, at.Value.Deny, at.Value.Terms
	switch {
	case missing(allow) && missing(deny):
		c.problemf(at.Pos, "rule neither allows nor denies: write allow: [shell] or deny: why")
	case !missing(allow) && !missing(deny):
		c.problemf(deny.Pos, "rule both allows and denies: write two rules")
	case !missing(deny) && !missing(terms):
		c.problemf(terms.Pos, "rule denies, and has terms for it")
	case !missing(deny) && r.breakGlass:
		c.problemf(at.Value.BreakGlass.Pos, "rule denies, and break_glass makes no difference to that: leave it out")
	case !missing(deny) && r.hardware:
		c.problemf(at.Value.HardwareKey.Pos, "rule denies, and hardware_key makes no difference to that: leave it out")
	case emptyList(allow):
		c.problemf(allow.Pos, "allow names nothing: write deny: why if that is meant")
	}
	for _, p := range allow.Value {
		r.allowed.add(p)
	}
	r.terms.Env = r.allowed.env
}

func missing[T any](a strictyaml.At[T]) bool { return a.Line == 0 }

// emptyList is not for a list that could not be decoded: that one is nil.
func emptyList[T any](a strictyaml.At[[]T]) bool { return a.Value != nil && len(a.Value) == 0 }
