package authz

import (
	"cmp"
	"maps"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Offer is what one rule has for somebody: what it allows and on what terms, or
// why it denies.
type Offer struct {
	Rule       string // or "grant ID", "lock ID"
	Line       int    // of the policy's file; 0: it is not from there
	Targets    []string
	Allow      []string // as the file may have it
	Deny       string   // why, instead
	When       string   // at what times and from where; empty: always, from everywhere
	BreakGlass bool     // for logins spelt breakglass+NAME
	Hardware   bool     // for keys in a hardware token
	Key        string   // what their key is bound to
	Terms      Terms
}

// Offers returns all that somebody may do to a target, at whatever time and from
// wherever they come: by the rules, each of them once, in their order, up to the
// one that decides whenever no other does; for plain logins first, and then
// those for emergencies; and by grants.
//
// A rule that denies for a while is among them if something comes after it, for
// the same logins. A lock is all there is.
func (p *Policy) Offers(who Subject, what Request) []Offer {
	if p.unaskable(who, what) != "" {
		return nil
	}
	if l := p.lock(who, what); l != nil {
		return []Offer{{Rule: "lock " + l.ID, Deny: l.why()}}
	}
	what.BreakGlass = false
	offers, denied := p.offers(who, what)
	if !denied {
		offers = append(offers, p.granted(who, what)...)
	}
	what.BreakGlass = true
	emergency, _ := p.offers(who, what)
	return append(telling(offers), telling(emergency)...)
}

// offers also tells whether the last of them is a denial that no grant is
// stronger than.
func (p *Policy) offers(who Subject, what Request) (offers []Offer, denied bool) {
	target := what.Target.read()
	for r := range p.about(who) {
		covers := r.covers(target)
		unknown := !covers && r.mayCover(target)
		if !covers && !unknown || !r.isFor(what) {
			continue
		}
		offer := r.offer(who)
		offer.BreakGlass = what.BreakGlass // to deny, rules are for both
		switch {
		case unknown:
			offer.Deny = "its labels are not known"
		case what.Target.Host && !r.terms.Host && r.deny == "":
			offer.Deny = "a process of the host itself"
		}
		offers = append(offers, offer)
		if r.window.words() == "" {
			return offers, unknown || r.deny != ""
		}
	}
	return offers, false
}

// granted are the grants that hold.
func (p *Policy) granted(who Subject, what Request) (offers []Offer) {
	for _, g := range p.grants {
		if g.holds(who, what) && !what.Target.Host {
			offers = append(offers, g.rule().offer(who))
		}
	}
	return offers
}

// telling leaves out the denials after which nothing comes: so is everything
// that is not there at all.
func telling(offers []Offer) []Offer {
	for len(offers) > 0 && offers[len(offers)-1].Deny != "" {
		offers = offers[:len(offers)-1]
	}
	return offers
}

func (r *rule) offer(who Subject) Offer {
	o := Offer{
		Rule: r.name, Line: r.line, Allow: r.allowed.said(), Deny: r.deny, When: r.window.words(),
		BreakGlass: r.breakGlass, Hardware: r.hardware, Key: who.Bounds.words(), Terms: r.terms,
	}
	for _, t := range r.targets {
		o.Targets = append(o.Targets, t.String())
	}
	return o
}

// Reach returns what the rules have for somebody, whatever runs: each rule that
// names them, in their order, those that deny as well, and their grants.
func (p *Policy) Reach(who Subject) []Offer {
	if p == nil || who.Person == "" {
		return nil
	}
	var offers []Offer
	for r := range p.about(who) {
		offers = append(offers, r.offer(who))
	}
	return offers
}

// Certificates returns those who may sign in with one: each pattern of principals that
// an authority may speak for, or a rule names, as if it were one. The name of each
// is the pattern; its Person is somebody of people where the policy says so.
func (p *Policy) Certificates() (patterns []string, holders []Subject) {
	if p == nil {
		return nil, nil
	}
	groups := map[string][]string{}
	persons := map[string]Subject{}
	for _, r := range p.rules {
		for _, g := range r.who.principals {
			groups[g.String()] = nil
		}
	}
	for _, a := range p.signed {
		for _, principal := range a.principals {
			name := principal.pattern.String()
			groups[name] = append(groups[name], principal.groups...)
			if who, err := a.subject(&ssh.Certificate{ValidPrincipals: []string{name}}); err == nil && principal.person != nil {
				persons[name] = who
			}
		}
	}
	for _, pattern := range slices.Sorted(maps.Keys(groups)) {
		who, ok := persons[pattern]
		if !ok {
			who = Certified(pattern, groups[pattern]...)
		}
		who.Certificate = &Certificate{}
		patterns, holders = append(patterns, pattern), append(holders, who)
	}
	return patterns, holders
}

// Certified is somebody who is not of people and has a certificate with that
// principal.
func Certified(name string, groups ...string) Subject {
	return Subject{Person: name, Groups: groups, Principals: []string{name}, Certificate: &Certificate{}}
}

// Principal returns who has a certificate with that principal, by the first
// authority that may speak for it, if there is one.
func (p *Policy) Principal(name string) (Subject, bool) {
	if p == nil {
		return Subject{}, false
	}
	inOrder := func(a, b *authority) int { return cmp.Compare(a.line, b.line) }
	for _, a := range slices.SortedFunc(maps.Values(p.signed), inOrder) {
		if who, err := a.subject(&ssh.Certificate{ValidPrincipals: []string{name}}); err == nil {
			who.Certificate = &Certificate{}
			return who, true
		}
	}
	return Subject{}, false
}
