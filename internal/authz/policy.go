package authz

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Rules are the rules of a policy in their order, as its file has them.
type Rules []strictyaml.At[Rule]

// Rule says whom and what it is about, and either what it allows or why it
// denies.
type Rule struct {
	Name    strictyaml.At[Name]                           `yaml:"name"`
	Who     strictyaml.At[[]strictyaml.At[string]]        `yaml:"who"`
	Targets strictyaml.At[[]strictyaml.At[TargetPattern]] `yaml:"targets"`
	Allow   strictyaml.At[[]Permission]                   `yaml:"allow"`
	Deny    strictyaml.At[string]                         `yaml:"deny"`
	Terms   strictyaml.At[TermsOfRule]                    `yaml:"terms"`
}

// Permission is one entry of allow: the word shell, or exec and its patterns.
type Permission struct {
	Shell bool      `yaml:"-"`
	Exec  []Pattern `yaml:"exec"`
}

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (p *Permission) UnmarshalStrict(n *strictyaml.Node) {
	word, ok := n.Text()
	switch {
	case ok && word == string(Shell):
		p.Shell = true
	case ok && word == string(Exec):
		n.Problemf(`exec names no command: write exec: ["/dev/crashcart/bin/tcpdump *"]`)
	case ok:
		n.Problemf("unknown permission %q (%s)", word, strictyaml.Suggest(word, []string{"shell", "exec"}))
	default:
		type plain Permission // without this method
		n.Decode((*plain)(p))
	}
	if n.Len() == 0 && !ok || p.Exec != nil && len(p.Exec) == 0 {
		n.Problemf("allows nothing")
	}
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
}

// Document is a policy as its file has it.
type Document struct {
	People People
	Rules  Rules
}

// New makes a policy of what a file says. The error is of type
// [strictyaml.Problems] and has all that decoding could not see.
func New(d Document, known Known) (*Policy, error) {
	c := compiler{known: known, groups: map[string]bool{}, lines: map[Name]int{}}
	policy := &Policy{people: c.people(d.People)}
	for _, r := range d.Rules {
		policy.rules = append(policy.rules, c.rule(r))
	}
	if err := c.problems.Err(); err != nil {
		return nil, err
	}
	return policy, nil
}

type compiler struct {
	known    Known
	persons  People
	groups   map[string]bool // all that somebody is in
	lines    map[Name]int    // of the rules so far
	problems strictyaml.Problems
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
	compiled := rule{name: string(r.Name.Value), deny: r.Deny.Value, terms: c.terms(r.Terms.Value)}
	c.checkName(at)
	c.who(at, &compiled)
	c.targets(at, &compiled)
	c.allow(at, &compiled)
	return compiled
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

func (c *compiler) who(at strictyaml.At[Rule], r *rule) {
	who := at.Value.Who
	if missing(who) || emptyList(who) {
		c.problemf(at.Pos, `rule has no who: write who: ["*"] for everyone`)
	}
	for _, w := range who.Value {
		group, isGroup := strings.CutPrefix(w.Value, "group:")
		_, isPerson := c.persons[Name(w.Value)]
		switch {
		case w.Value == "": // told while decoding
		case w.Value == "*":
			r.everyone = true
		case isGroup && c.groups[group]:
			r.groups = append(r.groups, group)
		case isGroup:
			c.problemf(w.Pos, "nobody is in group %q (%s)", group, strictyaml.Suggest(group, slices.Sorted(maps.Keys(c.groups))))
		case isPerson:
			r.people = append(r.people, w.Value)
		case c.groups[w.Value]:
			c.problemf(w.Pos, "%q is a group: write group:%s", w.Value, w.Value)
		case strings.ContainsAny(w.Value, "*?"):
			c.problemf(w.Pos, `%q: who knows no pattern but "*" alone, everyone`, w.Value)
		default:
			c.problemf(w.Pos, "unknown person %q (%s)", w.Value, strictyaml.Suggest(w.Value, c.names()))
		}
	}
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
	case emptyList(allow):
		c.problemf(allow.Pos, "allow names nothing: write deny: why if that is meant")
	}
	for _, p := range allow.Value {
		r.shell = r.shell || p.Shell
		r.exec = append(r.exec, p.Exec...)
	}
}

func missing[T any](a strictyaml.At[T]) bool { return a.Line == 0 }

// emptyList is not for a list that could not be decoded: that one is nil.
func emptyList[T any](a strictyaml.At[[]T]) bool { return a.Value != nil && len(a.Value) == 0 }
