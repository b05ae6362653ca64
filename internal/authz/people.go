package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// People are the persons of a policy, as its file has them.
type People map[Name]strictyaml.At[Person]

// Person is who may sign in.
type Person struct {
	Keys   strictyaml.At[[]strictyaml.At[Key]] `yaml:"keys"`
	Groups []Name                              `yaml:"groups"`
	TOTP   strictyaml.At[string]               `yaml:"totp"`
}

// Name names a person, a group or a rule. It is ASCII, so that no two names
// look alike.
type Name string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (n *Name) UnmarshalText(text []byte) error {
	if !isName(string(text)) {
		return fmt.Errorf("%.80q is no name: that is a letter or digit, then letters, digits and . _ @ + -, at most 64", text)
	}
	*n = Name(text)
	return nil
}

func isName(s string) bool {
	const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return s != "" && len(s) <= 64 &&
		strings.IndexByte(alphanumeric, s[0]) >= 0 &&
		strings.Trim(s, alphanumeric+"._@+-") == ""
}

func (c *compiler) people(people People) (_ map[string]Subject, order []Subject) {
	c.persons = people
	byKey := make(map[string]Subject, len(people))
	lines := make(map[string]int, len(people))
	for _, name := range c.inOrder() {
		who := Subject{Person: string(name), Groups: c.groupsOf(people[name].Value), TOTP: people[name].Value.TOTP.Value, Known: true}
		order = append(order, who)
		keys := people[name].Value.Keys
		if missing(keys) || emptyList(keys) {
			c.problemf(people[name].Pos, "%s has no key: write keys: [ssh-ed25519 AAAA…]", name)
		}
		for _, key := range keys.Value {
			if key.Value == "" {
				continue // told while decoding
			}
			if owner, ok := byKey[string(key.Value)]; ok {
				c.problemf(key.Pos, "key is %s's already (line %d): a key is one person's, once", owner.Person, lines[string(key.Value)])
				continue
			}
			byKey[string(key.Value)], lines[string(key.Value)] = who, key.Line
		}
	}
	return byKey, order
}

// inOrder returns the names in the order of the file.
func (c *compiler) inOrder() []Name {
	return slices.SortedFunc(maps.Keys(c.persons), func(a, b Name) int {
		p, q := c.persons[a].Pos, c.persons[b].Pos
		return cmp.Or(cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column), cmp.Compare(a, b))
	})
}

func (c *compiler) groupsOf(p Person) []string {
	var groups []string
	for _, g := range p.Groups {
		groups = append(groups, string(g))
		c.groups[string(g)] = true
	}
	return groups
}
