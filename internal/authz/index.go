package authz

import "math/bits"

// An index finds the rules that name somebody, so that nobody has to wait for
// those of all others. Each list has places of rules, in their order.
type index struct {
	everyone []int
	people   map[string][]int
	groups   map[string][]int
	perhaps  []int // rules with patterns, which are asked
}

func indexOf(rules []rule) index {
	x := index{people: map[string][]int{}, groups: map[string][]int{}}
	for i := range rules {
		x.add(i, rules[i].who)
	}
	return x
}

func (x *index) add(i int, who persons) {
	switch {
	case who.everyone:
		x.everyone = append(x.everyone, i)
		return
	case len(who.principals) > 0:
		x.perhaps = append(x.perhaps, i)
	}
	for _, name := range who.people {
		x.people[name] = append(x.people[name], i)
	}
	for _, group := range who.groups {
		x.groups[group] = append(x.groups[group], i)
	}
}

// about yields the rules that name somebody, each once, in their order.
func (p *Policy) about(who Subject) func(yield func(*rule) bool) {
	return func(yield func(*rule) bool) {
		for w, set := range p.naming(who) {
			for ; set != 0; set &= set - 1 {
				if !yield(&p.rules[64*w+bits.TrailingZeros64(set)]) {
					return
				}
			}
		}
	}
}

// naming is a set of places of rules, 64 to a word: those for which names is true.
func (p *Policy) naming(who Subject) []uint64 {
	set := make([]uint64, (len(p.rules)+63)/64)
	add := func(places []int) {
		for _, i := range places {
			set[i/64] |= 1 << (i % 64)
		}
	}
	add(p.index.everyone)
	if who.isPerson() {
		add(p.index.people[who.Person])
	}
	for _, group := range who.Groups {
		add(p.index.groups[group])
	}
	for _, i := range p.index.perhaps {
		if p.rules[i].names(who) {
			set[i/64] |= 1 << (i % 64)
		}
	}
	return set
}
