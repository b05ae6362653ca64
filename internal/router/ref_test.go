package router

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseRefReadsEverySpelling(t *testing.T) {
	for login, want := range map[string]Ref{
		"web-1":                       {"", "web-1"},
		"docker:web-1":                {"docker", "web-1"},
		"pid:4711":                    {"pid", "4711"},
		"4711":                        {"", "4711"},
		"68af6b4b":                    {"", "68af6b4b"},
		"My_app.v2":                   {"", "My_app.v2"},
		"c++_1":                       {"", "c++_1"},
		"shop/web-0":                  {"", "shop/web-0"},
		"shop/web-0/nginx":            {"", "shop/web-0/nginx"},
		"cri:shop/web-0":              {"cri", "shop/web-0"},
		strings.Repeat("a", maxLogin): {"", strings.Repeat("a", maxLogin)},
	} {
		got, err := ParseRef(login)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", login, got, err)
		}
		if got.String() != login {
			t.Errorf("%s is spelled %s", login, got)
		}
	}
}

var badNames = []string{
	"", ":", "docker:", ":web-1", "a:b:c", ".", "..", "../..", "a//b", "a/", "/", "a/b/c/d", "a/../b", "a/./b", "a/b\n", "./a", "cri:/a", "a/b:c", "/web-1", "%n", "-rf", "_x", "a b", "web-1\n",
	"\x1b[2J", "web\x001", "web-\xff", "wéb", "$(id)", "a;b", "a*", "docker:../x", "do/cker:x", "do\x1bcker:x",
	strings.Repeat("a", maxLogin+1), strings.Repeat("a", 64<<10),
}

func TestBadNamesAreOneClearSentence(t *testing.T) {
	for _, login := range badNames {
		ref, err := ParseRef(login)
		if !errors.Is(err, ErrBadName) || ref != (Ref{}) {
			t.Errorf("%q: got %+v, %v", login, ref, err)
			continue
		}
		if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x00\x1b") || !utf8.ValidString(err.Error()) {
			t.Errorf("not fit for a log: %q", err)
		}
	}
}

func TestWhatIsNoNumberOfAProcessIsRefused(t *testing.T) {
	for _, login := range []string{"pid:0", "pid:-1", "pid:4294967297", "pid:99999999999999999999", "pid:007", "pid:+7", "pid:7x", "pid:web-1", "pid:1/2", "pid:4194305"} {
		if ref, err := ParseRef(login); err == nil {
			t.Errorf("%s: got %+v", login, ref)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, login := range append(badNames, "web-1", "docker:web-1", "pid:4711") {
		f.Add(login)
	}
	f.Fuzz(func(t *testing.T, login string) {
		ref, err := ParseRef(login)
		if err == nil && (ref.String() != login || strings.ContainsAny(login, "%\n\x00 ") || strings.Contains("/"+ref.ID+"/", "/../")) {
			t.Errorf("%q became %+v", login, ref)
		}
	})
}
