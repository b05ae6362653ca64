package image

import (
	_ "embed"
	"fmt"
	"path"
	"slices"
	"strings"
)

//go:embed packages
var defaultList string

// Profiles are the lists that there are, each with all of the one before.
var Profiles = []string{"min", "std", "full"}

// pkg is a Debian package and what the image takes of it.
type pkg struct {
	name     string
	arches   []string // Debian's; none is all
	commands []command
	all      bool // every command that it has
}

// command is a program, or an alias of one. What it is an alias of may be a
// path with wildcards, of a program that is in none of the usual directories.
type command struct{ name, of string }

func (c command) String() string {
	if c.of == "" {
		return c.name
	}
	return c.name + "=" + c.of
}

// wanted is the list that the options come to.
func (b *build) wanted() (list, error) {
	lines, profile := b.Packages, Profiles[0]
	if lines == nil {
		lines, profile = strings.Split(defaultList, "\n"), b.Profile
	}
	l, err := parseList(lines, profile)
	if err != nil {
		return nil, err
	}
	for _, line := range b.Remove {
		if l, err = l.without(line); err != nil {
			return nil, err
		}
	}
	for _, line := range b.Add {
		p, err := parseAdded(line)
		if err != nil {
			return nil, err
		}
		for _, c := range p.commands {
			b.asked[c.name] = true
		}
		l = l.with(p)
	}
	return l.of(b.arch), nil
}

type list []pkg

// parseList reads lines of the form of the file packages, down to the end of
// this profile. Lines before the first heading are in all of them.
func parseList(lines []string, profile string) (list, error) {
	var l list
	section := Profiles[0]
	for i, line := range lines {
		if name, ok := heading(line); ok {
			if !slices.Contains(Profiles, name) {
				return nil, fmt.Errorf("image: packages:%d: profile %q: not one of %s", i+1, name, strings.Join(Profiles, ", "))
			}
			section = name
			continue
		}
		p, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("image: packages:%d: %w", i+1, err)
		}
		if p.name != "" && slices.Index(Profiles, section) <= slices.Index(Profiles, profile) {
			l = l.with(p)
		}
	}
	if len(l) == 0 {
		return nil, fmt.Errorf("image: packages: none named")
	}
	return l, nil
}

// with adds what a line says. A command that had another meaning loses it, and
// a package of which nothing is left goes.
func (l list) with(p pkg) list {
	for _, c := range p.commands {
		l = l.forget(c.name)
	}
	i := slices.IndexFunc(l, func(q pkg) bool { return q.name == p.name })
	if i < 0 {
		return append(l, p)
	}
	l[i].commands = append(l[i].commands, p.commands...)
	l[i].all = l[i].all || p.all
	return l
}

func (l list) forget(name string) list {
	for i, p := range l {
		k := slices.IndexFunc(p.commands, func(c command) bool { return c.name == name })
		if k < 0 {
			continue
		}
		l[i].commands = slices.Delete(p.commands, k, k+1)
		if len(l[i].commands) == 0 && !p.all {
			l = slices.Delete(l, i, i+1)
		}
		break // it is named once
	}
	return l
}

// without takes a package away, or one command.
func (l list) without(name string) (list, error) {
	if i := slices.IndexFunc(l, func(p pkg) bool { return p.name == name }); i >= 0 {
		return slices.Delete(l, i, i+1), nil
	}
	if slices.ContainsFunc(l.commands(), func(c command) bool { return c.name == name }) {
		return l.forget(name), nil
	}
	return nil, fmt.Errorf("image: --remove %s: no package and no command of that name is on the list", name)
}

func (l list) commands() []command {
	var all []command
	for _, p := range l {
		all = append(all, p.commands...)
	}
	return all
}

// of leaves out what Debian does not have for this architecture.
func (l list) of(a arch) list {
	return slices.DeleteFunc(l, func(p pkg) bool {
		return p.arches != nil && !slices.Contains(p.arches, a.debian)
	})
}

func heading(line string) (string, bool) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	name, ok := strings.CutPrefix(line, "[")
	return strings.TrimSuffix(name, "]"), ok && strings.HasSuffix(name, "]")
}

// parseAdded reads an argument of --add: a line, or a package all of whose
// commands are wanted.
func parseAdded(line string) (pkg, error) {
	if !strings.Contains(line, ":") {
		line += ":"
	}
	p, err := parseLine(line)
	if err != nil {
		return pkg{}, fmt.Errorf("image: --add: %w", err)
	}
	if p.name == "" {
		return pkg{}, fmt.Errorf("image: --add: no package named")
	}
	p.all = p.commands == nil
	return p, nil
}

func parseLine(line string) (pkg, error) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	if line == "" {
		return pkg{}, nil
	}
	left, commands, ok := strings.Cut(line, ":")
	p := pkg{name: strings.TrimSpace(left)}
	if name, arches, some := strings.Cut(p.name, "["); some {
		p.name, p.arches = strings.TrimSpace(name), strings.Fields(strings.TrimSuffix(arches, "]"))
	}
	if !ok || p.name == "" || strings.ContainsAny(p.name, " \t/=]") || p.name[0] == '-' {
		return pkg{}, fmt.Errorf("%q: not of the form \"package: command command\"", line)
	}
	for _, word := range strings.Fields(commands) {
		c := command{name: word}
		c.name, c.of, _ = strings.Cut(word, "=")
		if c.name == "" || strings.Contains(c.name, "/") || strings.Contains(c.of, "/") && !path.IsAbs(c.of) {
			return pkg{}, fmt.Errorf("%q: not the name of a command", word)
		}
		p.commands = append(p.commands, c)
	}
	return p, nil
}
