package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a file. Line and column count from 1, the column in
// characters. The zero Pos is nowhere.
type Pos struct {
	File         string
	Line, Column int
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// Problemf returns a problem at this place.
func (p Pos) Problemf(format string, args ...any) Problem {
	return Problem{p, fmt.Sprintf(format, args...)}
}

// Problem is one thing wrong with a file.
type Problem struct {
	Pos
	Text string
}

// Error reads "config.yaml:12:3: unknown key …".
func (p Problem) Error() string { return p.Pos.String() + ": " + p.Text }

// Problems are all that is wrong with a file, and with those that it names. It is
// an error with one line for each, in the order of the files.
type Problems []Problem

// shown is how many problems anyone will read.
const shown = 100

func (ps Problems) Error() string {
	var lines []string
	for _, p := range ps[:min(len(ps), shown)] {
		lines = append(lines, p.Error())
	}
	if more := len(ps) - shown; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// Err returns nil if there are no problems, and the problems sorted otherwise:
// files by which was the first to have one.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	files := map[string]int{}
	for _, p := range ps {
		if _, ok := files[p.File]; !ok {
			files[p.File] = len(files)
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(files[a.File], files[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ps
}

// Join makes one error of several of type Problems; nil ones do not count.
func Join(errs ...error) error {
	var all Problems
	for _, err := range errs {
		var ps Problems
		if errors.As(err, &ps) {
			all = append(all, ps...)
		}
	}
	return all.Err()
}

// Suggest offers the known name that the wrong one was probably meant to be,
// or all of them if they are few.
func Suggest(wrong string, known []string) string {
	best, distance := "", 3
	for _, name := range known {
		if d := edits(wrong, name); d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	switch {
	case len(known) == 0:
		return "none is known"
	case len(known) > 12:
		return fmt.Sprintf("none of the %d known ones is near", len(known))
	}
	return "known: " + strings.Join(known, ", ")
}

// edits counts the characters to insert, delete, replace or swap with their
// neighbour to turn a into b; 100 if either is too long to be a slip.
func edits(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 100
	}
	var before, last, row [41]int
	for j := range len(b) + 1 {
		row[j] = j
	}
	for i := range len(a) {
		before, last = last, row
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, replace)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// clip keeps a message to one line of a screen.
func clip(s string) string {
	r := []rune(s)
	if len(r) <= 40 {
		return s
	}
	return string(r[:40]) + "…"
}
