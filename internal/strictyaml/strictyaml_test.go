package strictyaml_test

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

type sample struct {
	Name  string                      `yaml:"name"`
	Count int                         `yaml:"count"`
	Loud  bool                        `yaml:"loud"`
	Wait  time.Duration               `yaml:"wait"`
	Words []string                    `yaml:"words"`
	Part  *part                       `yaml:"part"`
	Parts map[colour]part             `yaml:"parts"`
	Where strictyaml.At[string]       `yaml:"where"`
	Many  []strictyaml.At[colour]     `yaml:"many"`
	Each  either                      `yaml:"each"`
	Plain map[string]string           `yaml:"plain"`
	Boxes []strictyaml.At[[]struct{}] `yaml:"boxes"`
}

type part struct {
	Size int `yaml:"size"`
}

type colour string

func (c *colour) UnmarshalText(text []byte) error {
	if string(text) != "red" && string(text) != "blue" {
		return fmt.Errorf("no colour: %s", text)
	}
	*c = colour(text)
	return nil
}

// either is a word, or a part.
type either struct {
	word string
	part part
}

func (e *either) UnmarshalStrict(n *strictyaml.Node) {
	if word, ok := n.Text(); ok {
		e.word = word
		return
	}
	n.Decode(&e.part)
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	got := sample{Count: 7, Name: "default"}
	err := strictyaml.Decode("f.yaml", []byte(`# comment
wait: 1h30m
loud: true
words: [a, "*"]
part: {size: -3}
parts: {red: {size: 1}, blue: {}}
where: here
many:
  - red
each: {size: 5}
plain: {a: "", b: c}
`), &got)
	// An empty string is a problem of its own; all the rest is there.
	wantProblems(t, err, "f.yaml:11:12: is empty: give it a value or take it out")
	if got.Name != "default" || got.Count != 7 {
		t.Errorf("what the file does not mention was changed: %+v", got)
	}
	if got.Wait != 90*time.Minute || !got.Loud || got.Words[1] != "*" || got.Part.Size != -3 {
		t.Errorf("scalars: %+v", got)
	}
	if len(got.Parts) != 2 || got.Parts["red"].Size != 1 || got.Each.part.Size != 5 || got.Plain["b"] != "c" {
		t.Errorf("parts: %+v", got)
	}
	if got.Where.String() != "f.yaml:7:8" || got.Many[0].Pos.String() != "f.yaml:9:5" {
		t.Errorf("positions: %v, %v", got.Where.Pos, got.Many[0].Pos)
	}
	if got.Boxes != nil {
		t.Errorf("boxes: %v", got.Boxes)
	}
}

func TestEachProblemHasItsPlaceAndAWayOut(t *testing.T) {
	for _, test := range []struct{ name, yaml, want string }{
		{"unknown key, near one known", "nmae: x", `1:1: unknown key "nmae" (did you mean "name"?)`},
		{"unknown key, near none", "part: {zzz: 1}", `1:8: unknown key "zzz" (known: size)`},
		{"duplicate key", "name: a\ncount: 1\nname: b", `3:1: key "name" again (first in line 1)`},
		{"duplicate key where nobody reads", "zzzzzzzz: {a: 1, a: 2}", `known: `},
		{"duplicate map key", "plain: {a: b, a: c}", `1:15: key "a" again (first in line 1)`},
		{"number wanted, list given", "count: [1]", `1:8: wants a number, is a list`},
		{"number wanted, text given", "count: many", `1:8: wants a number, is text`},
		{"octal", "count: 010", `1:8: wants a plain decimal number`},
		{"too large a number", "count: 99999999999999999999", `1:8: wants a number`},
		{"text wanted, number given", "name: 12", `1:7: wants text, is a number: quote it`},
		{"text wanted, date given", "name: 2026-01-02", `1:7: wants text, is a date: quote it`},
		{"text wanted, true given", "name: true", `1:7: wants text, is true or false: quote it`},
		{"yes is not true", "loud: yes", `1:7: wants true or false, is text`},
		{"off is not false", "loud: off", `1:7: wants true or false, is text`},
		{"list wanted, text given", "words: a", `1:8: wants a list, is text: put it in [ ]`},
		{"keys wanted, list given", "part: []", `1:7: wants keys and values, is a list`},
		{"the whole is a list", "- a", `1:1: wants keys and values, is a list`},
		{"no value", "name:\ncount: 1", `1:6: is empty: give it a value or take it out`},
		{"no part", "part:", `1:6: is empty: write {} if that is meant`},
		{"null", "words: ~", `1:8: is empty: write [] if that is meant`},
		{"duration without unit", "wait: 30", `1:7: wants a duration above zero, such as 30s`},
		{"duration of nothing", "wait: 0s", `1:7: wants a duration above zero`},
		{"duration list", "wait: [1s]", `1:7: wants a duration, such as 30s, is a list`},
		{"a type's own check", "many: [red, green]", `1:13: no colour: green`},
		{"a type's own check of keys", "parts: {green: {}}", `1:9: no colour: green`},
		{"in a part of either shape", "each: {sise: 1}", `1:8: unknown key "sise" (did you mean "size"?)`},

		{"empty", "", `1:1: is empty`},
		{"comments only", "# nothing\n", `1:1: is empty`},
		{"null document", "~", `1:1: is empty`},
		{"second document", "name: a\n---\nname: b\n", `2:1: a second document begins here`},
		{"second document, empty", "name: a\n---\n", `a second document begins here`},
		{"something after the document", "{name: a}}", `1:10: did not find expected <document start> near here`},
		{"not UTF-8", "name: a\n# caf\xe9\n", `2:6: is not UTF-8`},
		{"UTF-16", "\xff\xfen\x00", `1:1: is not UTF-8`},
		{"control character", "name: \x01", `1:7: control characters are not allowed near here`},
		{"tab", "part:\n\tsize: 1\n", `2:1: '\t' cannot begin a value: indent with spaces`},
		{"tab, later", "name: a\n\tcount: 1\n", `2:1: '\t': indent with spaces`},

		{"bare * in a list", "words: [*]\nname: x\n", `1:9: '*' begins an alias or anchor here: quote globs`},
		{"glob in a list", "words: [a, *.x]\n", `1:12: '*' begins an alias or anchor here: quote globs`},
		{"bare *", "name: *\ncount: 1\n", `1:7: '*' begins an alias or anchor here: quote globs`},
		{"glob that looks like an alias", "name: *web\ncount: 1\n", `1:7: '*' begins an alias here: quote globs`},
		{"alias", "name: &a x\nwhere: *a\n", `2:8: *a is an alias, and those are not read: quote globs, as in "*a"`},
		{"anchor", "name: &a x\n", `1:7: &a is an anchor, and those are not read`},
		{"merge key", "part: {<<: {size: 1}}\n", `1:8: << merges aliases, and those are not read`},
		{"tag", "name: !!str 1\n", `1:7: !!str is a tag, and those are not read`},
		{"local tag", "words: !x [a]\n", `1:8: !x is a tag`},
		{"number as key", "plain: {1: a}", `1:9: a key wants text, is a number: quote it`},
		{"list as key", "plain: {[a]: b}", `1:9: a key wants text, is a list`},
		{"@", "name: @x\n", `1:7: '@' cannot begin a value`},
		{"colon", "name: a: b\n", `1:8: ':' has no place here`},
		{"indentation", "name: a\n count: 1\n", `2:7: ':' has no place here`},
		{"open brace", "part: {size: 1\nname: x\n", `did not find expected ',' or '}' near here`},
		{"too deep", strings.Repeat("[", 20_000), `exceeded max depth`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := strictyaml.Decode("f.yaml", []byte(test.yaml), new(sample))
			var problems strictyaml.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want problems", err)
			}
			for _, p := range problems {
				if strings.Contains(p.Error(), test.want) {
					return
				}
			}
			t.Errorf("got\n%v\nwant\n%s", err, test.want)
		})
	}
}

func TestAllProblemsAreToldAtOnceInTheOrderOfTheFile(t *testing.T) {
	err := strictyaml.Decode("f.yaml", []byte(`words: [1, b]
nmae: x
part:
  size: big
  size: 2
plain: {a: *x, b: c}
`), new(sample))
	// An alias of nothing stops the parser: the rest is told once it is gone.
	wantProblems(t, err, `f.yaml:6:12: '*' begins an alias here: quote globs, as in "*.x"`)

	err = strictyaml.Decode("f.yaml", []byte(`words: [1, b]
nmae: x
part:
  size: big
  size: 2
plain: {a: [x], b: c}
`), new(sample))
	wantProblems(t, err,
		`f.yaml:1:9: wants text, is a number: quote it`,
		`f.yaml:2:1: unknown key "nmae" (did you mean "name"?)`,
		`f.yaml:4:9: wants a number, is text`,
		`f.yaml:5:3: key "size" again (first in line 4)`,
		`f.yaml:6:12: wants text, is a list`)
}

func TestNoMessageNamesAGoType(t *testing.T) {
	for _, value := range []string{"1", "x", "true", "~", "[]", "{}", "2026-01-01", "1.5"} {
		for _, key := range []string{"name", "count", "loud", "wait", "words", "part", "parts", "where", "many", "plain", "boxes"} {
			err := strictyaml.Decode("f", []byte(key+": "+value), new(sample))
			for _, word := range []string{"!!", "string", "int ", "bool", "struct", "map[", "[]string", "strictyaml", "Duration"} {
				if err != nil && strings.Contains(err.Error(), word) {
					t.Errorf("%s: %s gives %v", key, value, err)
				}
			}
		}
	}
}

func TestAThousandProblemsAreNotAThousandLines(t *testing.T) {
	err := strictyaml.Decode("f", []byte("words: ["+strings.Repeat("1,", 1000)+"]"), new(sample))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 101 || lines[100] != "and 900 more" {
		t.Errorf("%d lines, last %q", len(lines), lines[len(lines)-1])
	}
}

func TestBombsAndHugeFilesAreRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ","))
	}
	if err := strictyaml.Decode("f", []byte(bomb), new(sample)); err == nil {
		t.Error("an alias bomb was read")
	}
	huge := []byte("name: " + strings.Repeat("x", 10<<20))
	wantProblems(t, strictyaml.Decode("f", huge, new(sample)), "f:1:1: is larger than 4 MiB")
}

// A root daemon reads the policy: its reader opens nothing by itself.
func TestItIsPure(t *testing.T) {
	for _, file := range []string{"strictyaml.go", "parse.go", "problem.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); path == "os" || path == "net" || path == "syscall" || path == "unsafe" {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

func TestProblemsOfEachFileStandTogether(t *testing.T) {
	a, b := strictyaml.Pos{File: "a", Line: 9, Column: 1}, strictyaml.Pos{File: "b", Line: 1, Column: 1}
	first := strictyaml.Pos{File: "a", Line: 2, Column: 1}
	err := strictyaml.Problems{a.Problemf("x"), b.Problemf("y"), first.Problemf("z")}.Err()
	wantProblems(t, err, "a:2:1: z", "a:9:1: x", "b:1:1: y")
}

func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	if got := fmt.Sprint(err); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// Whatever the bytes are, there is an answer, and a problem has a place.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"name: x", "words: [*]", "a: &a [*a]", "? x\n: y", "plain:\n\t- x", "%YAML 9\n---\n", "each: {size: 1}\n---\n", "{a: 1}}", "a: |\n\tb", "<<: *x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := strictyaml.Decode("f", data, new(sample))
		var problems strictyaml.Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("%T: %v", err, err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Text == "" || strings.ContainsAny(p.Text, "\n\x1b\x00") {
				t.Fatalf("%#v", p)
			}
		}
	})
}
