package authz_test

import (
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// Whatever the bytes are, there is a policy or there are problems, and a policy
// answers whatever it is asked.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(house), "ps")
	f.Add([]byte("people: {}\nrules: [{name: r, who: ['*'], targets: [{name: '*'}], allow: [shell, exec: ['x *']]}]"), "x 'y")
	for _, c := range cases(f) {
		f.Add([]byte(fill(c.policy)), "ps aux")
	}
	f.Fuzz(func(t *testing.T, data []byte, command string) {
		policy, err := readTable(string(data))
		if (policy == nil) != (err != nil) {
			t.Fatalf("%v and %v", policy, err)
		}
		if policy.Decide(authz.Subject{}, authz.Request{Target: container("x"), Kind: authz.Shell}).Allow {
			t.Fatal("nobody may enter")
		}
		at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
		for _, who := range append(policy.People(), alice, authz.Subject{Person: "x", Principals: []string{"x"}, Certificate: &authz.Certificate{}}) {
			for _, kind := range []authz.Kind{authz.Shell, authz.Exec, authz.Forward, authz.SFTP} {
				agree(t, policy, who, authz.Request{Target: container(command, "env="+command), Kind: kind, Command: command, Object: command, Time: at})
			}
		}
	})
}

// What an exec pattern means, said in the plainest way.
func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"ps *", "ps aux"}, {"/bin/* -l", "/bin/ls -l"}, {"x '*' \"?\" \\*", "x * ? *"}, {"a*/b", "a/b"}, {"ps a *", "ps"}, {"x *y* *", "x 'a y b'"}, {`x \\`, `x '\'`}, {"/a/../b", "/b"}, {"x ''", "x ''"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, command string) {
		argv, err := authz.Split(command)
		if err != nil || !utf8.ValidString(pattern) || len(pattern) > 200 || len(command) > 200 {
			return
		}
		var p authz.Pattern
		err = p.UnmarshalText([]byte(pattern))
		words, ok := slowWords(pattern)
		if ok = ok && isSlowProgram(words); ok != (err == nil) {
			t.Fatalf("%q: %v, want %v", pattern, err, ok)
		}
		if got, want := p.Match(argv), ok && slowCommand(words, argv); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, argv, got, want)
		}
	})
}

// slowWords are a pattern's, each as a glob in which what was quoted is behind a
// backslash.
func slowWords(text string) (words []string, ok bool) {
	word, in, quote := "", false, ""
	rest := characters(text)
	next := func() string {
		c := rest[0]
		rest = rest[1:]
		return c
	}
	for len(rest) > 0 {
		c := next()
		plain := quote != ""
		switch {
		case c == "\x00":
			return nil, false
		case quote == "" && (c == "'" || c == `"`):
			quote, in = c, true
			continue
		case quote == c:
			quote = ""
			continue
		case quote == "" && strings.Contains(" \t\n", c):
			if in {
				words = append(words, word)
			}
			word, in = "", false
			continue
		case c == `\` && quote != "'":
			if len(rest) == 0 {
				return nil, false
			}
			if quote == "" || strings.Contains("\"\\$`", rest[0]) {
				c = next()
			}
			if c == "\x00" {
				return nil, false
			}
			plain = true
		}
		if plain && strings.Contains(`*?\`, c) {
			c = `\` + c
		}
		word, in = word+c, true
	}
	if in {
		words = append(words, word)
	}
	return words, quote == "" && len(words) > 0
}

func isSlowProgram(words []string) bool {
	program := words[0]
	bare := !strings.Contains(program, "/")
	return program != "" && program != "*" && program != "." && program != ".." && program != "/" && path.Clean(program) == program && (bare || program[0] == '/')
}

func slowCommand(words, argv []string) bool {
	if len(argv) == 0 || !isSlowPath(argv[0]) {
		return false
	}
	want, have := strings.Split(words[0], "/"), strings.Split(argv[0], "/")
	if last := len(words) - 1; last > 0 && words[last] == "*" {
		words = words[:last]
		argv = argv[:max(1, min(len(argv), len(words)))]
	}
	if len(want) != len(have) || len(words) != len(argv) {
		return false
	}
	for i := range want {
		if !slowMatch(want[i], characters(have[i])) {
			return false
		}
	}
	for i := 1; i < len(words); i++ {
		if !slowMatch(words[i], characters(argv[i])) {
			return false
		}
	}
	return true
}

func isSlowPath(s string) bool {
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		return s != "" && s != "." && s != ".."
	}
	return parts[0] == "" && !slices.ContainsFunc(parts[1:], func(p string) bool { return p == "" || p == "." || p == ".." })
}

// An image that is written out is a pattern of what is the same image, and of
// nothing else.
func FuzzImage(f *testing.F) {
	for _, seed := range [][2]string{
		{"nginx", "docker.io/library/nginx:latest"}, {"index.docker.io/a/b", "a/b:1"}, {"r.corp:5000/x", "R.CORP:5000/x@sha256:aa"}, {"nginx:1", "nginx:1/x"}, {"localhost/x", "x"},
		{"docker.io/library/a/b", "a/b"}, {"r.corp:443/x", "r.corp/x"}, {"A/b", "a/b"}, {"x@d", "x:t@d"}, {"library/", "docker.io/"}, {"/x", "x"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsAny(a+b, `*?\`) || isID(a) || isID(b) || !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		var p authz.ImagePattern
		if p.UnmarshalText([]byte(a)) != nil {
			return
		}
		repository, tag, digest := slowImage(a)
		of, its, digestOf := slowImage(b)
		if its == "" && digestOf == "" {
			its = "latest"
		}
		want := b != "" && repository == of && (tag == "" || tag == its) && (digest == "" || digest == digestOf)
		if got := (&authz.TargetPattern{Image: p}).Match(authz.Target{Image: b}); got != want {
			t.Fatalf("%q on %q: %v, want %v", a, b, got, want)
		}
	})
}

func isID(s string) bool { s = strings.TrimPrefix(s, "sha256:"); return len(s) == 64 || s == "" }

// slowImage writes an image in full, as docker prints it after a pull.
func slowImage(s string) (repository, tag, digest string) {
	s, digest, _ = strings.Cut(s, "@")
	parts := strings.Split(s, "/")
	last := &parts[len(parts)-1]
	if i := strings.LastIndex(*last, ":"); i >= 0 {
		*last, tag = (*last)[:i], (*last)[i+1:]
	}
	host := parts[0]
	if len(parts) == 1 || strings.ToLower(host) == host && host != "localhost" && !strings.Contains(host, ".") && !strings.Contains(host, ":") {
		parts = append([]string{"docker.io"}, parts...)
	}
	if strings.ContainsAny(parts[0], ".:") {
		parts[0] = strings.TrimSuffix(strings.ToLower(parts[0]), ":443")
	}
	if parts[0] == "index.docker.io" || parts[0] == "registry-1.docker.io" {
		parts[0] = "docker.io"
	}
	if parts[0] == "docker.io" && len(parts) == 2 {
		parts = []string{"docker.io", "library", parts[1]}
	}
	return strings.Join(parts, "/"), tag, digest
}

// What an endpoint allows, said in the plainest way.
func FuzzEndpoint(f *testing.F) {
	for _, seed := range [][2]string{
		{"localhost:80", "127.0.0.1:80"}, {"[::1]:1-9", "LOCALHOST.:5"}, {"10.*:*", "10.x:1"}, {"*:1", ":1"}, {"db-?:5432", "db-é:5432"}, {"[fe80::1%a]:1", "[fe80::1%A]:1"}, {"127.*:1", "127.0.0.1:1"}, {`\*:1`, "*:1"}, {"0:0", "0:0"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, object string) {
		var e authz.Endpoint
		if len(pattern) > 200 || len(object) > 200 || !utf8.ValidString(pattern) || e.UnmarshalText([]byte(pattern)) != nil {
			return
		}
		if got, want := e.Match(object), slowEndpoint(t, pattern, object); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, object, got, want)
		}
	})
}

func slowEndpoint(t *testing.T, pattern, object string) bool {
	wantHost, wantPorts, _ := net.SplitHostPort(pattern)
	host, port, err := net.SplitHostPort(object)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || strings.Trim(port, "0123456789") != "" || !slowPort(wantPorts, n) {
		return false
	}
	address, err := netip.ParseAddr(host)
	names := []string{strings.TrimSuffix(strings.ToLower(host), ".")}
	if err == nil {
		names = []string{address.Unmap().String()}
	}
	if err == nil && (names[0] == "127.0.0.1" || names[0] == "::1") {
		names = append(names, "localhost")
	}
	if a, err := netip.ParseAddr(wantHost); err == nil {
		return slices.Contains(names, a.Unmap().String()) || (a.Unmap().String() == "127.0.0.1" || a.Unmap().String() == "::1") && slices.Contains(names, "localhost")
	}
	wantHost = strings.TrimSuffix(strings.ToLower(wantHost), ".")
	numbers := strings.Trim(wantHost, "0123456789.*?") == "" && strings.ContainsAny(wantHost, "0123456789.")
	return (err == nil || !numbers) && slices.ContainsFunc(names, func(name string) bool { return slowMatch(wantHost, characters(name)) })
}

func slowPort(want string, n int) bool {
	if want == "*" {
		return true
	}
	first, last, isRange := strings.Cut(want, "-")
	if !isRange {
		last = first
	}
	a, _ := strconv.Atoi(first)
	b, _ := strconv.Atoi(last)
	return a <= n && n <= b
}
