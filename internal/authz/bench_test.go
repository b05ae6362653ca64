package authz_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Of 10,000 rules and 1,000 people, in ten groups of which some are in all.
func BenchmarkDecide(b *testing.B) {
	policy, err := readPlain([]byte(large(1_000, 10_000)))
	if err != nil {
		b.Fatal(err)
	}
	inAll, _ := policy.Subject("p0")
	for g := range 10 {
		inAll.Groups = append(inAll.Groups, fmt.Sprint("g", g))
	}
	one, _ := policy.Subject("p999")
	one.Groups = append(one.Groups, "on-call", "everyone-else")
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ask := func(name string) authz.Request {
		target := container(name, "env=prod", "team=a")
		target.Image = "registry.corp:5000/team/app:v1"
		return authz.Request{Target: target, Kind: authz.Exec, Command: "/dev/crashcart/bin/tcpdump -i eth0", Time: at}
	}
	if got := policy.Decide(one, ask("web-9999-x")); got.Rule != "r9999" || !got.Allow {
		b.Fatalf("%+v", got)
	}
	b.Run("early", func(b *testing.B) { decide(b, policy, one, func(int) authz.Request { return ask("web-9-x") }) })
	b.Run("late", func(b *testing.B) { decide(b, policy, one, func(int) authz.Request { return ask("web-9999-x") }) })
	b.Run("nothing", func(b *testing.B) { decide(b, policy, one, func(int) authz.Request { return ask("db-1") }) })
	b.Run("nothing-of-all", func(b *testing.B) { decide(b, policy, inAll, func(int) authz.Request { return ask("web-none") }) })
	random := rand.New(rand.NewPCG(1, 2))
	people := policy.People()
	b.Run("mix", func(b *testing.B) {
		decide(b, policy, inAll, func(int) authz.Request { return ask(fmt.Sprintf("web-%d-x", random.IntN(12_000))) }, people...)
	})
}

// decide reports what half of the answers take, and what 99 of 100.
func decide(b *testing.B, policy *authz.Policy, who authz.Subject, question func(int) authz.Request, others ...authz.Subject) {
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		asks := who
		if len(others) > 0 && i%8 > 0 {
			asks = others[i%len(others)]
		}
		what := question(i)
		began := time.Now()
		policy.Decide(asks, what)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

func BenchmarkLoad(b *testing.B) {
	text := []byte(large(1_000, 10_000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := readPlain(text); err != nil {
			b.Fatal(err)
		}
	}
}

// What is no policy must be told soon, however it was made to take long.
func BenchmarkRefuse(b *testing.B) {
	for name, text := range hostile() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := readPlain([]byte(text)); err == nil {
					b.Fatal("was read")
				}
			}
		})
	}
}

func TestWhatIsMadeToTakeLongIsRefused(t *testing.T) {
	for name, text := range hostile() {
		policy, err := readPlain([]byte(text))
		if policy != nil || err == nil {
			t.Errorf("%s was read", name)
			continue
		}
		if n := len(err.Error()); n > 30_000 {
			t.Errorf("%s: %d bytes are said of it", name, n)
		}
	}
}

func hostile() map[string]string {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	merges := "a: &a {k: v}\n"
	for c := 'b'; c <= 'z'; c++ {
		before := "*" + string(c-1)
		bomb += fmt.Sprintf("%c: &%c [%s%s]\n", c, c, strings.Repeat(before+",", 8), before)
		merges += fmt.Sprintf("%c: &%c {<<: [%s%s]}\n", c, c, strings.Repeat(before+",", 8), before)
	}
	fill := func(head, piece, tail string) string {
		return head + strings.Repeat(piece, (strictyaml.MaxSize-len(head)-len(tail))/len(piece)) + tail
	}
	rule := "  - {name: r, who: [nobody], targets: [{name: x}], deny: x}\n"
	return map[string]string{
		"alias-bomb":   bomb,
		"merge-bomb":   merges,
		"10-MiB":       "rules: # " + strings.Repeat("x", 10<<20),
		"deep-flow":    fill("rules: ", "[", ""),
		"deep-map":     fill("rules: ", "{a: ", ""),
		"deep-block":   fill("", "- ", ""),
		"aliases":      fill("a: &a x\nrules: [", "*a,", "*a]\n"),
		"anchors":      fill("rules: [", "&a x,", "x]\n"),
		"giant-anchor": fill("rules: &", "a", " x\n"),
		"merge-keys":   fill("a: &a {}\n", "b: {<<: *a}\n", ""),
		"same-keys":    fill("", "a: 1\n", ""),
		"giant-key":    fill("", "a", ": x\n"),
		"unfinished":   fill("rules:\n", rule, "  - {name: [\n"),
		"empty-rules":  fill("rules: [", "{},", "{}]\n"),
		"numbers":      fill("rules: [", "1,", "1]\n"),
		"no-text":      fill("rules:\n", rule, "  - \xff\n"),
		"nobody":       fill(large(1000, 1), rule, ""),
	}
}

func large(people, rules int) string {
	var s strings.Builder
	s.WriteString("people:\n")
	for i := range people {
		fmt.Fprintf(&s, "  p%d: {keys: [%s], groups: [g%d]}\n", i, key(i), i%10)
	}
	s.WriteString("rules:\n")
	for i := range rules {
		fmt.Fprintf(&s, "  - {name: r%d, who: [p%d, group:g%d], targets: [{name: \"web-%d-*\", labels: {env: prod}}], allow: [exec: [\"/dev/crashcart/bin/tcpdump *\"]]}\n", i, i%people, i%10, i)
	}
	return s.String()
}
