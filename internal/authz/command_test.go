package authz_test

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cartsshd/cartsshd/internal/authz"
)

func TestCommandsAreSplitAndNotExpanded(t *testing.T) {
	for command, want := range map[string][]string{
		"":                              nil,
		" \t\n":                         nil,
		"a":                             {"a"},
		"  a  b\tc\nd ":                 {"a", "b", "c", "d"},
		`a 'b c' d`:                     {"a", "b c", "d"},
		`a "b c"d`:                      {"a", "b cd"},
		`a '' ""`:                       {"a", "", ""},
		`a\ b \\ \'`:                    {"a b", `\`, "'"},
		`'a\b' "a\b" a\b`:               {`a\b`, `a\b`, "ab"},
		`"\"" "\\" "\$" "\` + "`" + `"`: {`"`, `\`, "$", "`"},
		`"it's" 'say "x"'`:              {"it's", `say "x"`},
		"a;b $(id) `id` |x":             {"a;b", "$(id)", "`id`", "|x"},
		"* ? ~ #x $HOME {a,b}":          {"*", "?", "~", "#x", "$HOME", "{a,b}"},
		"A=1 >f <g & !x":                {"A=1", ">f", "<g", "&", "!x"},
		"a\xff\u00a0b":                  {"a\xff\u00a0b"},
	} {
		got, err := authz.Split(command)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, %v, want %q", command, got, err, want)
		}
	}
	for _, command := range []string{`'`, `"`, `a 'b`, `a "b`, `a\`, `"a\`, `"\"`, "a\x00b", "'\x00'"} {
		if got, err := authz.Split(command); err == nil {
			t.Errorf("%q: got %q, want an error", command, got)
		}
	}
}

func TestPatternsMatchArgumentByArgument(t *testing.T) {
	for _, test := range []struct {
		pattern, command string
		want             bool
	}{
		{"ps aux", "ps aux", true},
		{"ps aux", "ps  'aux'", true},
		{"ps aux", "ps", false},
		{"ps aux", "ps aux -f", false},
		{"ps aux", "/bin/ps aux", false},
		{"/bin/ps", "ps", false},
		{"ps *", "ps", true},
		{"ps *", "ps a b 'c d'", true},
		{"ps * x", "ps a x", true},
		{"ps * x", "ps a b x", false},
		{"ps * x", "ps x", false},
		{"ps * *", "ps", false},
		{"ps * *", "ps a", true},
		{"ps * *", "ps a b c", true},
		{`ps "*"`, "ps '*'", true},
		{`ps "*"`, "ps a", false},
		{`ps \*`, "ps a", false},
		{"ps '*'x*", "ps '*xy'", true},
		{"ps '*'x*", "ps axy", false},
		{`ps '\'`, `ps \\`, true},
		{"ip link show dev eth?", "ip link show dev eth0", true},
		{"ip link show dev eth?", "ip link show dev 'eth0 up'", false},
		{"cat /var/log/*", "cat /var/log/x", true},
		{"cat /var/log/*", "cat /var/log/x /etc/shadow", false},
		{"cat /var/log/*", "cat '/var/log/x /etc/shadow'", true}, // one argument: a file of that odd name
		{"ps -?", "ps -", false},
		{"/opt/*/run", "/opt/a/run", true},
		{"/opt/*/run", "/opt/a/b/run", false},
		{"/opt/*/run", "/opt/../run", false},
		{"/opt/*/run", "/opt/./run", false},
		{"/opt/*/run", "/opt//run", false},
		{"/opt/?/run", "/opt///run", false},
		{"/opt/*", "/opt/", false},
		{"/opt/*", "/opt/run/", false},
		{"py*", "python3", true},
		{"py*", "py/thon", false},
		{"py*", "py/../../bin/sh", false},
		{"*sh", "/bin/sh", false},
		{"ps", "'' ps", false},
		{"ps", "", false},
	} {
		var p authz.Pattern
		if err := p.UnmarshalText([]byte(test.pattern)); err != nil {
			t.Fatalf("%q: %v", test.pattern, err)
		}
		argv, err := authz.Split(test.command)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(argv); got != test.want {
			t.Errorf("%q on %q: %v", test.pattern, test.command, got)
		}
	}
	if (authz.Pattern{}).Match([]string{"ps"}) || (authz.Pattern{}).Match(nil) {
		t.Error("the zero pattern matches something")
	}
}

// quoteAll writes arguments such that Split must give them back.
func quoteAll(argv []string) string {
	var words []string
	for _, a := range argv {
		words = append(words, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}

func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"a b", `a 'b c' "d\"e" f\ g`, "'", `\`, "''", "a;b$(c)", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, command string) {
		argv, err := authz.Split(command)
		if err != nil {
			return
		}
		again, err := authz.Split(quoteAll(argv))
		if err != nil || !reflect.DeepEqual(argv, again) {
			t.Fatalf("%q gives %q, which quoted gives %q, %v", command, argv, again, err)
		}
		if !strings.ContainsAny(command, "'\"\\") && strings.Join(argv, " ") != strings.Join(strings.FieldsFunc(command, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }), " ") {
			t.Fatalf("%q gives %q", command, argv)
		}
	})
}

func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"*", ""}, {"a*b?c", "axxbxc"}, {`\*`, "*"}, {"*a*a*a*b", "aaaaaaaaaa"}, {"?", "é"}, {"�", "\xff"}, {"*?", "\xff\xfe"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 200 || !utf8.ValidString(pattern) {
			return
		}
		var g authz.Glob
		if g.UnmarshalText([]byte(pattern)) != nil {
			return
		}
		if got, want := g.Match(s), slowMatch(pattern, characters(s)); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, s, got, want)
		}
	})
}

// slowMatch says in the plainest way what a glob means: row by row, which
// prefixes of s does the pattern so far match?
func slowMatch(pattern string, s []string) bool {
	reach := make([]bool, len(s)+1)
	reach[0] = true
	for rest := characters(pattern); len(rest) > 0; rest = rest[1:] {
		next, c := make([]bool, len(s)+1), rest[0]
		plain := c == `\`
		if plain {
			rest = rest[1:]
			c = rest[0]
		}
		for i := range reach {
			switch {
			case c == "*" && !plain:
				next[i] = reach[i] || i > 0 && next[i-1]
			case i > 0 && (c == "?" && !plain || c == s[i-1]):
				next[i] = reach[i-1]
			}
		}
		reach = next
	}
	return reach[len(s)]
}

func characters(s string) []string {
	var all []string
	for len(s) > 0 {
		_, size := utf8.DecodeRuneInString(s)
		all, s = append(all, s[:size]), s[size:]
	}
	return all
}

func TestGlobsDoNotExplode(t *testing.T) {
	var g authz.Glob
	if err := g.UnmarshalText([]byte(strings.Repeat("*a", 500) + "*b")); err != nil {
		t.Fatal(err)
	}
	// With backtracking to every star this would outlive the test.
	if g.Match(strings.Repeat("a", 20_000)) {
		t.Error("matches without a b")
	}
	if (authz.Glob{}).Match("") || (authz.Glob{}).Match("x") {
		t.Error("the zero glob matches something")
	}
}
