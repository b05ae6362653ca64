package image

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Manifest is the file MANIFEST of an image: what the image was made of, and
// every file in it but MANIFEST itself.
//
// As text it is a head of "key: value" lines, an empty line, and a line for
// each file: its sha256 (or "link"), x if it can be run (or -), its size in
// bytes, its package (or -), its name, and where a link leads. So a copy of the
// image can be checked without us:
//
//	sed -nE 's/^([0-9a-f]{64}) +[x-] +[0-9]+ +[^ ]+ +/\1  /p' MANIFEST | sha256sum -c
type Manifest struct {
	Profile string   // "min", "std", "full", "custom"
	Arch    string   // Go's name
	From    string   // "Debian GNU/Linux 12 (bookworm)", "the machine that built it: …"
	Inputs  []string // what the build was told besides: "--add nmap"
	Files   []File   // sorted by name
}

// File is a file or a symlink of an image. Of a link there is no more than its
// name, its package and where it leads.
type File struct {
	Name, SHA256, Link string
	Package            string // empty is our own
	Size               int64
	Exec               bool
}

// Package is a line of packages.lock: "name version sha256".
type Package struct{ Name, Version, SHA256 string }

const (
	manifestName = "MANIFEST"
	lockName     = "packages.lock"
	arrow        = " -> "

	// maxSize is more than any file has, and so little that no sum of sizes
	// overflows.
	maxSize = 1 << 40
)

// whereLicences and whereSources are owed to whoever gets a copy of the image.
const (
	whereLicences = "share/doc/PACKAGE/copyright"
	whereSources  = "apt-get source PACKAGE=VERSION, with the versions in packages.lock; Debian's snapshot archive (snapshot.debian.org) keeps every version"
)

// Text is the file MANIFEST. The order of m.Files does not matter.
func (m *Manifest) Text() ([]byte, error) {
	files := slices.SortedFunc(slices.Values(m.Files), func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	if err := m.writeHead(&out); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	width := 1
	for _, f := range files {
		width = max(width, len(f.Package))
	}
	for i, f := range files {
		if err := inOrder(files[:i], f); err != nil {
			return nil, fmt.Errorf("%s: %w", manifestName, err)
		}
		out.WriteString(f.line(width) + "\n")
	}
	return out.Bytes(), nil
}

func (m *Manifest) writeHead(out *bytes.Buffer) error {
	head := [][2]string{{"profile", m.Profile}, {"architecture", m.Arch}, {"from", m.From}}
	for _, input := range m.Inputs {
		head = append(head, [2]string{"input", input})
	}
	// Of a machine's own programs nobody knows where they came from.
	if slices.ContainsFunc(m.Files, func(f File) bool { return f.Package != "" }) {
		head = append(head, [2]string{"licences", whereLicences}, [2]string{"sources", whereSources})
	}
	for _, h := range head {
		if !plain(h[1]) {
			return fmt.Errorf("%s: %q: not a line of text", h[0], h[1])
		}
		fmt.Fprintf(out, "%s: %s\n", h[0], h[1])
	}
	out.WriteString("\n")
	return nil
}

func (f File) line(width int) string {
	sum, x, link := f.SHA256, "-", ""
	if f.Link != "" {
		sum, link = "link", arrow+f.Link
	}
	if f.Exec {
		x = "x"
	}
	return fmt.Sprintf("%-64s  %s  %9d  %-*s  %s%s", sum, x, f.Size, width, cmp.Or(f.Package, "-"), f.Name, link)
}

// inOrder says what is wrong with the file that follows these, if anything is.
func inOrder(before []File, f File) error {
	if n := len(before); n > 0 && before[n-1].Name >= f.Name {
		return fmt.Errorf("%q: after %q: not sorted, or named twice", f.Name, before[n-1].Name)
	}
	return f.check()
}

// check is for both directions: nothing is written that would not be read. What
// is printed to a terminal must not be able to steer it.
func (f File) check() error {
	switch {
	case !fs.ValidPath(f.Name) || f.Name == "." || !plain(f.Name) || strings.Contains(f.Name, arrow):
		return fmt.Errorf("%q: not a name that a file of the image can have", f.Name)
	case f.Name == manifestName:
		return errors.New("it lists itself")
	case f.Package != "" && !word(f.Package) || f.Package == "-":
		return fmt.Errorf("%s: %q: not the name of a package", f.Name, f.Package)
	case f.Size < 0 || f.Size > maxSize:
		return fmt.Errorf("%s: %d: not the size of a file", f.Name, f.Size)
	case f.Link == "" && !isSHA256(f.SHA256):
		return fmt.Errorf("%s: %q: not a sha256", f.Name, f.SHA256)
	case f.Link != "" && !plain(f.Link):
		return fmt.Errorf("%s: leads to %q: not a name", f.Name, f.Link)
	case f.Link != "" && (f.SHA256 != "" || f.Size != 0 || f.Exec):
		return fmt.Errorf("%s: a link with a digest, a size or a mode", f.Name)
	}
	return nil
}

// plain says that text can be a value: it is printable, and has a beginning and
// an end.
func plain(s string) bool {
	return s != "" && strings.TrimSpace(s) == s && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func word(s string) bool { return plain(s) && !strings.Contains(s, " ") }

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)

func isSHA256(s string) bool { return sha256Form.MatchString(s) }

// ParseManifest reads what Text wrote, and nothing else: its errors name the
// line.
func ParseManifest(text []byte) (*Manifest, error) {
	lines, err := linesOf(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	m := &Manifest{}
	body := slices.Index(lines, "")
	if body < 0 {
		body = len(lines)
	}
	for i, line := range lines[:body] {
		if err := m.parseHead(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", manifestName, i+1, err)
		}
	}
	if m.Profile == "" || m.Arch == "" || m.From == "" || body == len(lines) {
		return nil, fmt.Errorf("%s:%d: the head ends without profile, architecture, from and an empty line", manifestName, min(body+1, len(lines)))
	}
	for i, line := range lines[body+1:] {
		f, err := parseFile(line)
		if err == nil {
			err = inOrder(m.Files, f)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", manifestName, body+i+2, err)
		}
		m.Files = append(m.Files, f)
	}
	return m, nil
}

func linesOf(text []byte) ([]string, error) {
	if len(text) == 0 {
		return nil, errors.New("is empty")
	}
	whole, ok := strings.CutSuffix(string(text), "\n")
	if !ok {
		return nil, errors.New("its last line has no end: it was cut off")
	}
	return strings.Split(whole, "\n"), nil
}

func (m *Manifest) parseHead(line string) error {
	key, value, ok := strings.Cut(line, ": ")
	if !ok || !plain(value) {
		return fmt.Errorf("%q: not of the form \"key: value\"", shortened(line))
	}
	switch key {
	case "profile":
		return once(&m.Profile, key, value)
	case "architecture":
		return once(&m.Arch, key, value)
	case "from":
		return once(&m.From, key, value)
	case "input":
		m.Inputs = append(m.Inputs, value)
		return nil
	case "licences", "sources":
		return nil // they are for people
	}
	return fmt.Errorf("%q: not a key of a MANIFEST", shortened(key))
}

func once(field *string, key, value string) error {
	if *field != "" {
		return fmt.Errorf("%s: a second time", key)
	}
	*field = value
	return nil
}

var fileForm = regexp.MustCompile(`^([0-9a-f]{64}|link {60})  ([x-])  +(0|[1-9][0-9]{0,12})  ([^ ]+) +([^ ].*)$`)

func parseFile(line string) (File, error) {
	m := fileForm.FindStringSubmatch(line)
	if m == nil {
		return File{}, fmt.Errorf("%q: not of the form \"sha256 x size package name\"", shortened(line))
	}
	f := File{SHA256: m[1], Exec: m[2] == "x", Name: m[5]}
	if m[4] != "-" {
		f.Package = m[4]
	}
	if strings.HasPrefix(f.SHA256, "link") {
		f.SHA256 = ""
		if f.Name, f.Link, _ = strings.Cut(f.Name, arrow); f.Link == "" {
			return File{}, fmt.Errorf("%q: a link that leads nowhere", f.Name)
		}
	}
	var err error
	f.Size, err = strconv.ParseInt(m[3], 10, 64)
	return f, err
}

// shortened is as much of a line as a message needs.
func shortened(line string) string {
	if len(line) > 60 {
		return line[:60] + "…"
	}
	return line
}

// ParseLock reads packages.lock: a package a line, comments after '#'.
func ParseLock(text []byte) ([]Package, error) {
	var list []Package
	seen := map[string]bool{}
	for i, line := range strings.Split(string(text), "\n") {
		p, ok := parseLocked(line)
		if !ok {
			line, _, _ = strings.Cut(line, "#")
			return nil, fmt.Errorf("%s:%d: %q: not of the form \"package version sha256\"", lockName, i+1, shortened(line))
		}
		if p == (Package{}) {
			continue
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("%s:%d: %s: named twice", lockName, i+1, p.Name)
		}
		seen[p.Name] = true
		list = append(list, p)
	}
	return list, nil
}

// parseLocked reads a line of packages.lock. One that says nothing is no
// package.
func parseLocked(line string) (p Package, ok bool) {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if len(words) == 0 {
		return Package{}, true
	}
	if len(words) != 3 || !word(words[0]) || !word(words[1]) || !isSHA256(words[2]) {
		return Package{}, false
	}
	return Package{words[0], words[1], words[2]}, true
}
