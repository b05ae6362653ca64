package image

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed packages
var defaultList string

// pkg is a Debian package and what the image takes of it.
type pkg struct {
	name     string
	commands []command
}

// command is a program, or an alias of one.
type command struct{ name, of string }

func (c command) String() string {
	if c.of == "" {
		return c.name
	}
	return c.name + "=" + c.of
}

func parseList(lines []string) ([]pkg, error) {
	if lines == nil {
		lines = strings.Split(defaultList, "\n")
	}
	var list []pkg
	at := map[string]int{}
	for i, line := range lines {
		p, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("image: packages:%d: %w", i+1, err)
		}
		if p.name == "" {
			continue
		}
		if k, again := at[p.name]; again {
			list[k].commands = append(list[k].commands, p.commands...)
			continue
		}
		at[p.name] = len(list)
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("image: packages: none named")
	}
	return list, nil
}

func parseLine(line string) (pkg, error) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	if line == "" {
		return pkg{}, nil
	}
	name, commands, ok := strings.Cut(line, ":")
	name = strings.TrimSpace(name)
	if !ok || name == "" || strings.ContainsAny(name, " \t/=") || name[0] == '-' {
		return pkg{}, fmt.Errorf("%q: not of the form \"package: command command\"", line)
	}
	p := pkg{name: name}
	for _, word := range strings.Fields(commands) {
		c := command{name: word}
		c.name, c.of, _ = strings.Cut(word, "=")
		if c.name == "" || strings.Contains(word, "/") {
			return pkg{}, fmt.Errorf("%q: not the name of a command", word)
		}
		p.commands = append(p.commands, c)
	}
	return p, nil
}
