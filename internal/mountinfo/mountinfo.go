// Package mountinfo reads what the kernel says of a process's mounts.
//
// Mount points are what a container calls them: escape them before a terminal
// sees them, and do not follow symlinks on the way to them.
package mountinfo

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	Major, Minor uint32 // of the file system
	Root         string // of the file system, what is mounted
	Point        string // relative to the process's root
	Options      []string
	Type, Source string
	Super        []string // options of the file system
}

// Has tells whether the mount has all of these options.
func (m Mount) Has(options ...string) bool {
	return !slices.ContainsFunc(options, func(o string) bool { return !slices.Contains(m.Options, o) })
}

// Of returns the mounts that a process sees.
func Of(pid int) ([]Mount, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

func parse(text string) (list []Mount, err error) {
	for line := range strings.Lines(text) {
		m, err := parseLine(line)
		if err != nil {
			return list, err
		}
		list = append(list, m)
	}
	return list, nil
}

func parseLine(line string) (Mount, error) {
	head, tail, ok := strings.Cut(line, " - ")
	f, rest := strings.Fields(head), strings.Fields(tail)
	if !ok || len(f) < 6 || len(rest) < 2 {
		return Mount{}, fmt.Errorf("mountinfo: cannot be read: %q", line)
	}
	m := Mount{
		Root: unescape(f[3]), Point: unescape(f[4]), Options: strings.Split(f[5], ","),
		Type: rest[0], Source: unescape(rest[1]), Super: strings.Split(rest[len(rest)-1], ","),
	}
	major, minor, _ := strings.Cut(f[2], ":")
	var errs [2]error
	m.Major, errs[0] = number(major)
	m.Minor, errs[1] = number(minor)
	return m, errors.Join(errs[:]...)
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// unescape undoes what the kernel does to blanks, tabs, newlines and
// backslashes: a backslash and three octal digits.
func unescape(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n, err := strconv.ParseUint(after[:min(3, len(after))], 8, 8)
		if err != nil || len(after) < 3 {
			b.WriteByte('\\')
			s = after
			continue
		}
		b.WriteByte(byte(n))
		s = after[3:]
	}
}
