package authz

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Grant is access to one container that was given beside the rules. A rule that
// denies, and says so, is stronger.
type Grant struct {
	ID      string
	Person  string
	Target  string    // its name, or RUNTIME:NAME
	Exec    []Pattern // only these commands; none: a shell
	Profile string    // empty: the default
	Until   time.Time
	Reason  string
	By      string // who gave it
}

// Lock denies everything to somebody, or about a container. It is stronger than
// all rules and grants, and a session that runs is under it as well.
type Lock struct {
	ID     string
	Person string    // only this one; empty: everybody
	Target string    // only what is so called: a name, an ID, or RUNTIME: and one of these; empty: all
	Until  time.Time // zero: until it is taken away
	Reason string
	By     string
}

// With returns the policy with grants and locks beside its rules, instead of
// those that it had.
func (p *Policy) With(grants []Grant, locks []Lock) *Policy {
	if p == nil {
		return nil
	}
	with := *p
	with.grants, with.locks = slices.Clone(grants), slices.Clone(locks)
	for i := range with.grants {
		with.grants[i].Profile = cmp.Or(with.grants[i].Profile, p.profile)
	}
	return &with
}

// lock returns one that somebody or their target is under, or nil. When it was
// set does not matter: it also ends what began before.
func (p *Policy) lock(who Subject, what Request) *Lock {
	for i, l := range p.locks {
		over := !l.Until.IsZero() && !what.Time.Before(l.Until)
		if !over && (l.Person == "" || l.isOf(who)) && (l.Target == "" || called(what.Target, l.Target)) {
			return &p.locks[i]
		}
	}
	return nil
}

// isOf takes a person by any of their names.
func (l Lock) isOf(who Subject) bool {
	return l.Person == who.Person || slices.Contains(who.Principals, l.Person)
}

func (l Lock) why() string {
	return strings.TrimSpace("locked by " + l.By + ": " + l.Reason)
}

// grant returns one that gives what is asked for, or nil.
func (p *Policy) grant(who Subject, what Request) *Grant {
	for i, g := range p.grants {
		if g.holds(who, what) && g.rule().decide(who, what).Allow {
			return &p.grants[i]
		}
	}
	return nil
}

// holds tells whether a grant is for somebody, for a target, now.
func (g Grant) holds(who Subject, what Request) bool {
	known := who.Known || who.Certificate == nil
	return known && !what.BreakGlass && g.Person == who.Person && called(what.Target, g.Target) && what.Time.Before(g.Until)
}

// rule is what a grant is as one.
func (g Grant) rule() *rule {
	r := &rule{name: "grant " + g.ID, terms: Terms{Profile: g.Profile, Cgroup: CgroupSession, Output: OutputFull, Until: g.Until}}
	r.allowed.exec = g.Exec
	if len(g.Exec) == 0 {
		r.allowed.words = []string{string(Shell)}
	}
	return r
}

// called tells whether a target goes by a name, or has an ID, exactly: no
// pattern, and no beginning of one, may lock or let in what nobody thought of.
func called(t Target, name string) bool {
	return name != "" && (name == t.Name || name == t.ID || name == t.Runtime+":"+t.Name && t.Name != "" || name == t.Runtime+":"+t.ID)
}
