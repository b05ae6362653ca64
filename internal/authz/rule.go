package authz

import (
	"fmt"
	"slices"
	"strings"
)

// A rule is one that can be asked.
type rule struct {
	name       string
	line       int
	who        persons
	targets    []TargetPattern
	window     window
	breakGlass bool // for logins that say breakglass only
	hardware   bool // a key in a hardware token is asked for
	deny       string
	allowed    permissions
	terms      Terms
}

// persons are some of those who can sign in.
type persons struct {
	everyone   bool
	people     []string
	groups     []string
	principals []Glob
	words      []string // as the file has them
}

// names never takes the holder of a certificate for a person whose name is only
// the same as their principal's.
func (s persons) names(who Subject) bool {
	return s.everyone ||
		(who.Known || who.Certificate == nil) && slices.Contains(s.people, who.Person) ||
		slices.ContainsFunc(s.groups, func(group string) bool { return slices.Contains(who.Groups, group) }) ||
		slices.ContainsFunc(s.principals, func(g Glob) bool { return slices.ContainsFunc(who.Principals, g.Match) })
}

func (r *rule) names(who Subject) bool { return r.who.names(who) }

// isFor tells whether a rule is one at all for how the login was spelt. To deny,
// all are.
func (r *rule) isFor(what Request) bool { return r.deny != "" || r.breakGlass == what.BreakGlass }

func (r *rule) covers(target Target) bool {
	for i := range r.targets {
		if r.targets[i].Match(target) {
			return true
		}
	}
	return false
}

// mayCover tells whether it depends on labels that nobody could tell.
func (r *rule) mayCover(target Target) bool {
	return target.Labels[labelsUnknown] != "" &&
		slices.ContainsFunc(r.targets, func(p TargetPattern) bool { return p.matchesButForLabels(target) })
}

func (r *rule) decide(who Subject, what Request) Decision {
	if why := r.refuses(who, what); why != "" {
		return r.no(why)
	}
	switch {
	case what.Kind == Shell && r.allowed.has(Shell):
		return r.yes("shell allowed", Decision{})
	case what.Kind == Exec && r.allowed.has(Shell):
		return r.yes("shell allowed", Decision{Command: what.Command})
	case what.Kind == Exec && len(r.allowed.exec) > 0:
		return r.decideCommand(what.Command)
	case isTransfer(what.Kind) && r.allowed.allows(what):
		return r.decideTransfer(what)
	case r.allowed.allows(what):
		return r.yes(string(what.Kind)+" allowed", Decision{})
	}
	return r.no("rule does not allow " + strings.TrimSpace(string(what.Kind)+" "+what.Object))
}

// refuses says why a rule that matches gives nothing, whatever it allows; or "".
func (r *rule) refuses(who Subject, what Request) string {
	bounds := who.Bounds
	switch {
	case what.Target.Host && !r.terms.Host:
		return "a process of the host itself, and the rule does not say host: true"
	case r.hardware && !who.Hardware:
		return "the rule asks for a hardware key"
	case bounds.Command != "" && what.Command != bounds.Command && what.Kind != Exec && what.Kind != Shell && what.Kind != "":
		return "the key is bound to one command"
	case bounds.NoForwarding && (what.Kind == Forward || what.Kind == Reverse):
		return "the key is not for forwarding"
	case bounds.NoAgent && what.Kind == Agent:
		return "the key is not for agents"
	}
	return ""
}

func (r *rule) decideCommand(command string) Decision {
	argv, err := Split(command)
	if err != nil {
		return r.no(err.Error())
	}
	if !slices.ContainsFunc(r.allowed.exec, func(p Pattern) bool { return p.Match(argv) }) {
		return r.no("no exec pattern of the rule matches the command")
	}
	return r.yes("command allowed", Decision{Command: command, Argv: argv})
}

func (r *rule) yes(why string, d Decision) Decision {
	d.Allow, d.Rule, d.Why, d.Terms = true, r.name, why, r.terms
	return d
}

func (r *rule) no(why string) Decision { return Decision{Rule: r.name, Why: why} }

// misses says which conditions of the rule do not hold. None: it decides, if no
// earlier one does.
func (r *rule) misses(who Subject, what Request) (words []string) {
	if !r.names(who) {
		words = append(words, fmt.Sprintf("who: %s is not among %s", who.Person, strings.Join(r.who.words, ", ")))
	}
	if !r.isFor(what) {
		words = append(words, breakGlassWords(what))
	}
	if !r.covers(what.Target) && !r.mayCover(what.Target) {
		words = append(words, "targets: "+r.missed(what.Target))
	}
	return append(words, r.window.misses(what)...)
}

func breakGlassWords(what Request) string {
	if what.BreakGlass {
		return "break_glass: the login asks for emergency access, and the rule is none of that"
	}
	return "break_glass: the rule is for logins spelt breakglass+NAME"
}

// missed says what of the targets does not fit, of the one that fits best.
func (r *rule) missed(target Target) string {
	var best []string
	for _, p := range r.targets {
		if misses := p.misses(target); best == nil || len(misses) < len(best) {
			best = misses
		}
	}
	return strings.Join(best, ", ")
}
