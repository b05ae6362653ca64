package authz

import (
	"errors"
	"unicode/utf8"
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

// compile is for parts of what was written: without text, g stays as it is.
func (g *Glob) compile(text string) (err error) {
	if text != "" {
		*g, err = compile(text)
	}
	return err
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

func (g Glob) allows(s string) bool {
	return g.pattern == nil || s != "" && g.Match(s)
}
