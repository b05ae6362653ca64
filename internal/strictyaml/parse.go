package strictyaml

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// parse returns the value of the one document in data, or tells why not.
func (d *decoder) parse(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		d.at(nil, "is larger than %d MiB", MaxSize>>20)
		return nil
	}
	if i := invalid(data); i >= 0 {
		d.at(data[:i], "is not UTF-8")
		return nil
	}
	var document, second yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(data))
	err := documents.Decode(&document)
	if errors.Is(err, io.EOF) {
		d.at(nil, "is empty")
		return nil
	}
	if err == nil {
		err = documents.Decode(&second)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		d.syntax(data, err)
		return nil
	}
	if err == nil {
		// yaml.Unmarshal would not have said a word, and half a policy
		// would be gone.
		d.problemf(&second, "a second document begins here: a file holds one")
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		d.problemf(root, "is empty")
		return nil
	}
	return root
}

// at tells a problem right after the part of the file that was fine.
func (d *decoder) at(fine []byte, format string, args ...any) {
	line := bytes.Count(fine, []byte("\n"))
	column := utf8.RuneCount(fine[bytes.LastIndexByte(fine, '\n')+1:])
	d.problems = append(d.problems, Pos{d.file, line + 1, column + 1}.Problemf(format, args...))
}

func invalid(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// slips are yaml.v3's words for what people really do wrong: the characters
// that it stumbled over, and what to say instead.
var slips = []struct{ yaml, culprits, say string }{
	{"expected alphabetic or numeric", "*&", `%q begins an alias or anchor here: quote globs, as in "*.x"`},
	{"unknown anchor", "*", `%q begins an alias here: quote globs, as in "*.x"`},
	{"cannot start any token", "\t@%`", "%q cannot begin a value: indent with spaces, quote the rest"},
	{"tab character", "\t", "%q: indent with spaces"},
	{"mapping values are not allowed", ":", "%q has no place here: is the indentation right? is text with a colon quoted?"},
}

// yaml.v3's own line is of the problem or of what it is in, by one too low or
// right, and sometimes missing.
var place = regexp.MustCompile(`^yaml: (line \d+: )?`)

func (d *decoder) syntax(data []byte, err error) {
	said := place.ReplaceAllString(err.Error(), "")
	read := data[:readUntilError(data)]
	for _, slip := range slips {
		if i := bytes.LastIndexAny(read, slip.culprits); i >= 0 && strings.Contains(said, slip.yaml) {
			d.at(read[:i], slip.say, read[i])
			return
		}
	}
	// The scanner looks a little ahead: the last thing it saw is near enough.
	fine := bytes.TrimRight(read, " \r\n")
	d.at(fine[:max(0, len(fine)-1)], "%s near here", said)
}

// readUntilError finds how far into data the parser got, by feeding it byte
// by byte.
func readUntilError(data []byte) int {
	r := &trickle{data: data}
	documents := yaml.NewDecoder(r)
	for {
		var n yaml.Node
		if documents.Decode(&n) != nil {
			return r.read
		}
	}
}

type trickle struct {
	data []byte
	read int
}

func (t *trickle) Read(p []byte) (int, error) {
	if t.read == len(t.data) {
		return 0, io.EOF
	}
	p[0] = t.data[t.read]
	t.read++
	return 1, nil
}
