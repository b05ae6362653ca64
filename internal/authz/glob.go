package authz

import (
	"errors"
	"unicode/utf8"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Glob matches whole strings: * is any run of characters, ? any one of them,
// and a backslash makes the next character plain. Case counts. The zero Glob
// matches nothing.
type Glob struct{ pattern []rune }

// What * and ? are once compiled: no character is negative.
const (
	anyRun rune = -1
	anyOne rune = -2
)

// UnmarshalText implements [encoding.TextUnmarshaler].
func (g *Glob) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New(`is empty: "*" matches anything`)
	}
	compiled, err := compile(string(text))
	*g = compiled
	return err
}

func compile(text string) (Glob, error) {
	pattern := make([]rune, 0, len(text))
	plain := false
	for _, c := range text {
		switch {
		case plain:
			plain = false
		case c == '\\':
			plain = true
			continue
		case c == '*':
			c = anyRun
		case c == '?':
			c = anyOne
		}
		pattern = append(pattern, c)
	}
	if plain {
		return Glob{}, errors.New("ends in a backslash that makes nothing plain")
	}
	return Glob{pattern}, nil
}

// Match takes at most len(pattern) × len(s) steps: if a character does not fit,
// only the last * has to try one more.
func (g Glob) Match(s string) bool {
	if g.pattern == nil {
		return false
	}
	p, i := 0, 0
	star, from := -1, 0 // the last * met, and where in s what follows it was tried
	for i < len(s) {
		c, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case p < len(g.pattern) && g.pattern[p] == anyRun:
			star, from = p, i
			p++
		case p < len(g.pattern) && fits(g.pattern[p], c, size):
			p++
			i += size
		case star >= 0:
			_, size := utf8.DecodeRuneInString(s[from:])
			from += size
			p, i = star+1, from
		default:
			return false
		}
	}
	for p < len(g.pattern) && g.pattern[p] == anyRun {
		p++
	}
	return p == len(g.pattern)
}

func fits(pattern, c rune, size int) bool {
	if pattern == anyOne {
		return true
	}
	broken := c == utf8.RuneError && size == 1 // is not the � that a pattern may spell
	return pattern == c && !broken
}

// TargetPattern matches targets by everything it mentions. What a target does
// not have never matches, not even by "*": {name: "*"} is every container with
// a name, and no bare process.
type TargetPattern struct {
	Name    Glob            `yaml:"name"`
	Runtime Glob            `yaml:"runtime"`
	Image   Glob            `yaml:"image"`
	Labels  map[string]Glob `yaml:"labels"`
}

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (p *TargetPattern) UnmarshalStrict(n *strictyaml.Node) {
	type plain TargetPattern // without this method
	n.Decode((*plain)(p))
	if _, isText := n.Text(); !isText && n.Len() == 0 {
		n.Problemf(`target says nothing: write {name: "*"} for every container`)
	}
	if p.Labels != nil && len(p.Labels) == 0 {
		n.Problemf("labels name none: give one or take them out")
	}
}

// Match reports whether t is meant. The zero pattern means nothing.
func (p TargetPattern) Match(t Target) bool {
	if p.empty() {
		return false
	}
	return p.Name.allows(t.Name) && p.Runtime.allows(t.Runtime) && p.Image.allows(t.Image) && p.allowsLabels(t.Labels)
}

// labelsUnknown is a label of a target whose own labels could not be found out:
// it may have any. The router sets it, and no runtime can.
const labelsUnknown = "cartsshd.labels"

// matchesButForLabels reports whether t is meant if it has the labels that p
// asks for.
func (p TargetPattern) matchesButForLabels(t Target) bool {
	if len(p.Labels) == 0 {
		return false
	}
	p.Labels = nil
	return p.empty() || p.Match(t)
}

// String is the pattern, but for backslashes.
func (g Glob) String() string {
	text := make([]rune, len(g.pattern))
	for i, c := range g.pattern {
		switch c {
		case anyRun:
			c = '*'
		case anyOne:
			c = '?'
		}
		text[i] = c
	}
	return string(text)
}

func (p TargetPattern) empty() bool {
	return p.Name.pattern == nil && p.Runtime.pattern == nil && p.Image.pattern == nil && len(p.Labels) == 0
}

func (g Glob) allows(s string) bool {
	return g.pattern == nil || s != "" && g.Match(s)
}

func (p TargetPattern) allowsLabels(labels map[string]string) bool {
	for name, glob := range p.Labels {
		value, ok := labels[name]
		if !ok || !glob.Match(value) {
			return false
		}
	}
	return true
}
