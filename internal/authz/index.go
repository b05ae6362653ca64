package authz

import "math/bits"

// An index finds the rules that may name somebody, so that nobody has to wait for
// those of all others: each list has places of rules, in their order.
type index struct {
	everyone   []int
	people     map[string][]int
	groups     map[string][]int
	principals []int // by patterns, for whoever has a certificate
}

func indexOf(rules []rule) index {
	x := index{people: map[string][]int{}, groups: map[string][]int{}}
	for i := range rules {
		x.add(i, rules[i].who)
	}
	return x
}

func (x *index) add(i int, who persons) {
	if who.everyone {
		x.everyone = append(x.everyone, i)
		return
	}
	for _, name := range who.people {
		x.people[name] = append(x.people[name], i)
	}
	for _, group := range who.groups {
		x.groups[group] = append(x.groups[group], i)
	}
	if len(who.principals) > 0 {
		x.principals = append(x.principals, i)
	}
}

func (x *index) lists(who Subject) [][]int {
	lists := append(make([][]int, 0, 8), x.everyone, x.people[who.Person])
	for _, group := range who.Groups {
		lists = append(lists, x.groups[group])
	}
	if len(who.Principals) > 0 {
		lists = append(lists, x.principals)
	}
	return lists
}

// about yields the rules that may name somebody, each once, in their order. No
// other does.
func (p *Policy) about(who Subject) func(yield func(*rule) bool) {
	return func(yield func(*rule) bool) {
		for w, set := range p.index.of(who, len(p.rules)) {
			for ; set != 0; set &= set - 1 {
				if !yield(&p.rules[64*w+bits.TrailingZeros64(set)]) {
					return
				}
			}
		}
	}
}

// of is a set of places: 64 to a word.
func (x *index) of(who Subject, rules int) []uint64 {
	set := make([]uint64, (rules+63)/64)
	for _, list := range x.lists(who) {
		for _, i := range list {
			set[i/64] |= 1 << (i % 64)
		}
	}
	return set
}
