package authz

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Groups are groups of groups, as a policy's file has them: whoever is in one of
// the members is in the group.
type Groups map[Name]strictyaml.At[[]strictyaml.At[Name]]

// members learns all that persons and principals are in, and who is certified.
func (c *compiler) members(d Document) {
	c.groups, c.certified = map[string]bool{}, map[Name]bool{}
	join := func(groups []Name) {
		for _, g := range groups {
			c.groups[string(g)] = true
		}
	}
	for _, at := range d.People {
		join(at.Value.Groups)
	}
	for _, a := range d.Authorities {
		for _, at := range a.Value.Principals.Value {
			join(at.Value.Groups)
			c.certified[at.Value.Person.Value] = true
		}
	}
}

// nest reads the groups of groups.
func (c *compiler) nest(groups Groups) {
	c.around = map[string][]string{}
	names := slices.SortedFunc(maps.Keys(groups), func(a, b Name) int {
		return cmp.Or(inFile(groups[a].Pos, groups[b].Pos), cmp.Compare(a, b))
	})
	for _, name := range names {
		c.groups[string(name)] = true
	}
	for _, name := range names {
		if emptyList(groups[name]) {
			c.problemf(groups[name].Pos, "group %s has no members: write groups that others are in, or take it out", name)
		}
		for _, member := range groups[name].Value {
			c.member(name, member)
		}
	}
	w := walk{c: c, groups: groups, done: map[Name]bool{}}
	for _, name := range names {
		w.into(strictyaml.At[Name]{Pos: groups[name].Pos, Value: name})
	}
}

func (c *compiler) member(group Name, member strictyaml.At[Name]) {
	_, isPerson := c.persons[member.Value]
	switch {
	case member.Value == "": // told while decoding
	case c.groups[string(member.Value)]:
		c.around[string(member.Value)] = append(c.around[string(member.Value)], string(group))
	case isPerson:
		c.problemf(member.Pos, "%s is a person: groups of theirs stand with them, groups: [%s]", member.Value, group)
	default:
		c.problemf(member.Pos, "nobody is in group %q (%s)", member.Value, strictyaml.Suggest(string(member.Value), slices.Sorted(maps.Keys(c.groups))))
	}
}

// walk goes down from group to member, to find what is in itself.
type walk struct {
	c      *compiler
	groups Groups
	path   []string
	done   map[Name]bool
}

func (w *walk) into(at strictyaml.At[Name]) {
	if i := slices.Index(w.path, string(at.Value)); i >= 0 {
		w.c.problemf(at.Pos, "group %s is in itself: %s", at.Value, chain(append(slices.Clone(w.path[i:]), string(at.Value))))
		return
	}
	if w.done[at.Value] {
		return
	}
	w.path = append(w.path, string(at.Value))
	for _, member := range w.groups[at.Value].Value {
		w.into(member)
	}
	w.path = w.path[:len(w.path)-1]
	w.done[at.Value] = true
}

// chain keeps the ends of what is too long to read.
func chain(names []string) string {
	if n := len(names); n > 8 {
		names = slices.Concat(names[:4], []string{"…"}, names[n-3:])
	}
	return strings.Join(names, " > ")
}

// closure are groups, and all that these are in.
func (c *compiler) closure(groups []Name) []string {
	var all []string
	for _, g := range groups {
		all = insert(all, string(g))
	}
	for i := 0; i < len(all); i++ {
		all = insert(all, c.around[all[i]]...)
	}
	return all
}

// insert appends those that are not there yet.
func insert(to []string, names ...string) []string {
	for _, name := range names {
		if !slices.Contains(to, name) {
			to = append(to, name)
		}
	}
	return to
}
