package authz

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Split splits a command by quoting rules, and by nothing else. Spaces, tabs
// and newlines separate words. Between single quotes everything is plain;
// between double quotes a backslash makes " \ $ and ` plain, and is itself
// plain before anything else; outside of quotes it makes any character plain.
// There is no expansion: ; & | < > $ ( ) * ? ~ # and = are plain characters.
func Split(command string) ([]string, error) {
	return split(command, func(word []byte, c byte) []byte { return append(word, c) })
}

// split appends what was quoted through quoted, so that patterns can tell it
// from what was not.
func split(command string, quoted func(word []byte, c byte) []byte) ([]string, error) {
	var (
		words  []string
		word   = []byte{}
		inWord bool
		quote  byte // ' or " inside of these
	)
	if strings.IndexByte(command, 0) >= 0 {
		return nil, errors.New("a NUL in the command")
	}
	for i := 0; i < len(command); i++ {
		c := command[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == '\'':
			word = quoted(word, c)
		case c == '\\' && i+1 == len(command):
			return nil, errors.New("a backslash at the end of the command")
		case quote == '"' && c == '\\' && strings.IndexByte("\"\\$`", command[i+1]) < 0:
			word = quoted(word, c)
		case c == '\\':
			i++
			word, inWord = quoted(word, command[i]), true
		case quote == '"':
			word = quoted(word, c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				words = append(words, string(word))
			}
			word, inWord = word[:0], false
		default:
			word, inWord = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c without its second in the command", quote)
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}

// Pattern allows commands, argument by argument. It is split like a command;
// in its words * and ? match as in a [Glob], unless they are quoted, and never
// beyond one argument. If the last word is * alone, any further arguments may
// follow, or none.
//
// The first word is the program: as the client writes it, a bare name or an
// absolute path without "." and "..", in which no * crosses a slash.
type Pattern struct {
	program []Glob // the path, cut at slashes
	args    []Glob
	more    bool // any arguments may follow
	text    string
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *Pattern) UnmarshalText(text []byte) error {
	words, err := split(string(text), quotedInPattern)
	if err != nil {
		return err
	}
	if len(words) == 0 || words[0] == "" {
		return errors.New("names no program")
	}
	if words[0] == "*" {
		return errors.New(`"*" is no program: name one, or allow shell`)
	}
	if !isProgram(words[0]) {
		return fmt.Errorf("%q is no program: it wants an absolute path without . and .., or a bare name", words[0])
	}
	p.program = globs(strings.Split(words[0], "/"))
	args := words[1:]
	if n := len(args); n > 0 && args[n-1] == "*" {
		p.more, args = true, args[:n-1]
	}
	p.args, p.text = globs(args), string(text)
	return nil
}

func quotedInPattern(word []byte, c byte) []byte {
	if c == '*' || c == '?' || c == '\\' {
		word = append(word, '\\')
	}
	return append(word, c)
}

// globs compiles what split has escaped, which cannot fail.
func globs(words []string) []Glob {
	var all []Glob
	for _, word := range words {
		g, _ := compile(word)
		all = append(all, g)
	}
	return all
}

// isProgram refuses /bin/../sbin/x and the like, which would be another
// program than the one that the pattern was compared with.
func isProgram(word string) bool {
	bare := !strings.Contains(word, "/")
	return path.Clean(word) == word && word != "/" && word != "." && word != ".." && (bare || word[0] == '/')
}

// Match reports whether the pattern allows the command.
func (p Pattern) Match(argv []string) bool {
	if len(p.program) == 0 || len(argv) == 0 || !isProgram(argv[0]) {
		return false
	}
	args := argv[1:]
	if len(args) < len(p.args) || len(args) > len(p.args) && !p.more {
		return false
	}
	steps := strings.Split(argv[0], "/")
	return len(steps) == len(p.program) && matchAll(p.program, steps) && matchAll(p.args, args[:len(p.args)])
}

func matchAll(globs []Glob, words []string) bool {
	for i, g := range globs {
		if !g.Match(words[i]) {
			return false
		}
	}
	return true
}
