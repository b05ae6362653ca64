package authz

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// People are the persons of a policy, as its file has them.
type People map[Name]strictyaml.At[Person]

// Person is who may sign in.
type Person struct {
	Keys           strictyaml.At[[]strictyaml.At[KeyLine]] `yaml:"keys"`
	AuthorizedKeys Paths                                   `yaml:"authorized_keys"`
	Groups         []Name                                  `yaml:"groups"`
	NotAfter       Expiry                                  `yaml:"not_after"`
	TOTP           strictyaml.At[string]                   `yaml:"totp"`
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

// Paths are files that a policy names: one, or a list.
type Paths []strictyaml.At[string]

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (p *Paths) UnmarshalStrict(n *strictyaml.Node) {
	list := make([]strictyaml.At[string], 1)
	if !n.IsList() {
		n.Decode(&list[0])
	} else {
		n.Decode(&list)
	}
	if len(list) == 0 {
		n.Problemf("names no file: take it out")
	}
	*p = list
}

// Expiry is when something is over. The file has a date, which is good through
// that day, UTC, or a time of RFC 3339: then it is over from that second on.
type Expiry struct{ time.Time }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (e *Expiry) UnmarshalText(text []byte) error {
	if day, err := time.Parse("2006-01-02", string(text)); err == nil {
		e.Time = day.AddDate(0, 0, 1)
		return nil
	}
	if err := e.Time.UnmarshalText(text); err != nil {
		e.Time = time.Time{}
		return errors.New("wants a date, such as 2027-01-31, or a time, such as 2027-01-31T18:00:00Z")
	}
	e.Time = e.UTC()
	return nil
}

// holder is who holds a plain key.
type holder struct {
	Subject
	from origins
	at   strictyaml.Pos
}

func (c *compiler) people() (_ map[string]holder, order []Subject) {
	byKey := make(map[string]holder, len(c.persons))
	for _, name := range c.inOrder() {
		who := c.person(name)
		keys := c.keys(name)
		for _, line := range keys {
			held := holder{who.with(line.Value), line.Value.limits.from, line.Pos}
			if owner, ok := byKey[string(held.Key)]; ok {
				c.problemf(line.Pos, "key is %s's already (%s): a key is one person's, once", owner.Person, seenFrom(line.Pos, owner.at))
				continue
			}
			byKey[string(held.Key)] = held
		}
		if len(keys) > 0 {
			who = who.with(keys[0].Value)
		}
		order = append(order, who)
	}
	return byKey, order
}

// seenFrom says where a place is, to who reads of another.
func seenFrom(here, there strictyaml.Pos) string {
	if here.File == there.File {
		return fmt.Sprintf("line %d", there.Line)
	}
	return fmt.Sprintf("%s:%d", there.File, there.Line)
}

// person is one as they are by whatever credential.
func (c *compiler) person(name Name) Subject {
	p := c.persons[name].Value
	return Subject{Person: string(name), Groups: c.closure(p.Groups), TOTP: p.TOTP.Value, Known: true, Until: p.NotAfter.Time}
}

// with is who a person is by one of their keys.
func (s Subject) with(line KeyLine) Subject {
	s.Key, s.Bounds = line.Key, line.limits.bounds
	s.Hardware = line.Key.hardware()
	s.Until = earlier(s.Until, line.limits.until)
	return s
}

// earlier is the first of two ends. Zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// keys are all of a person's. That files have none is no mistake: else who takes
// the last one out of them would find that it still opens the door, because the
// policy without it does not load.
func (c *compiler) keys(name Name) (keys []strictyaml.At[KeyLine]) {
	at := c.persons[name]
	p := at.Value
	if missing(p.Keys) && p.AuthorizedKeys == nil && !c.certified[name] || emptyList(p.Keys) {
		c.problemf(at.Pos, "%s has no key: write keys: [ssh-ed25519 AAAA…]", name)
	}
	for _, key := range p.Keys.Value {
		if key.Value.Key != "" { // else it was told while decoding
			keys = append(keys, key)
		}
	}
	for _, path := range p.AuthorizedKeys {
		keys = append(keys, c.authorized(path)...)
	}
	return keys
}

// authorized reads a file of keys. A bad line is not passed over, as sshd does:
// whoever wrote it wanted somebody to come in.
func (c *compiler) authorized(path strictyaml.At[string]) (keys []strictyaml.At[KeyLine]) {
	n := 0
	for text := range strings.Lines(string(c.read(path))) {
		n++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		line := strictyaml.At[KeyLine]{Pos: strictyaml.Pos{File: path.Value, Line: n, Column: 1}}
		if err := line.Value.UnmarshalText([]byte(text)); err != nil {
			c.problemf(line.Pos, "%v", err)
			continue
		}
		keys = append(keys, line)
	}
	return keys
}

// read returns what a file has that the policy names; nil if it cannot be read.
func (c *compiler) read(path strictyaml.At[string]) []byte {
	if path.Value == "" {
		return nil // told while decoding
	}
	if c.known.Read == nil {
		c.problemf(path.Pos, "no other files are read here")
		return nil
	}
	data, err := c.known.Read(path.Value)
	if err != nil {
		c.problemf(path.Pos, "%v", err)
	}
	return data
}

// inOrder returns the names in the order of the file.
func (c *compiler) inOrder() []Name {
	return slices.SortedFunc(maps.Keys(c.persons), func(a, b Name) int {
		return cmp.Or(inFile(c.persons[a].Pos, c.persons[b].Pos), cmp.Compare(a, b))
	})
}

func inFile(a, b strictyaml.Pos) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}
