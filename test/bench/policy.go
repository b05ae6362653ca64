package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// What a large policy has.
const (
	peopleOfPolicy = 1_000
	rulesOfPolicy  = 10_000
)

// measurePolicy is a large policy: how long it takes to load, to answer, and to
// refuse what is none; beside sshd with a Match block for each rule, which it reads
// and evaluates anew for each connection.
func measurePolicy(b *bench) error {
	text := largePolicy()
	policy, err := readPolicy(text)
	if err != nil {
		return err
	}
	if err := b.measureLoad(text); err != nil {
		return err
	}
	b.measureDecide(policy)
	if err := b.compareWithMatch(policy); err != nil {
		return err
	}
	return b.measureRefusals()
}

func (b *bench) measureLoad(text []byte) error {
	sshd, err := b.newMatcher()
	if err != nil {
		return err
	}
	n := b.rounds(15, 3)
	t, err := interleave(n, func() (float64, error) {
		runtime.GC() // what the other rounds left is not this one's
		return milliseconds(func() error { _, err := readPolicy(text); return err })
	}, sshd.check)
	if err != nil {
		return err
	}
	row := Row{Unit: "ms", Samples: n, Note: "10,000 rules, 1,000 people; decode, check and index, in process"}
	row.Measure = "policy, load"
	b.report.absolute(row, t[0].median(), oursAtMost(1000))
	row.Note = "sshd -t, the whole process, with 10,000 Match blocks"
	b.compareMedians(row, "policy, load, beside sshd -t", "sshd", t[0], t[1], nil)
	return nil
}

// measureDecide asks what fits an early rule, a late one, or none; of people in
// one group, and of one who is in all.
func (b *bench) measureDecide(policy *authz.Policy) {
	n := b.rounds(100_000, 10_000)
	random := rand.New(rand.NewPCG(1, 2))
	people := policy.People()
	var mixed, worst samples
	for range n {
		name := fmt.Sprintf("web-%d-x", random.IntN(rulesOfPolicy*6/5))
		mixed = append(mixed, decide(policy, people[random.IntN(len(people))], name))
	}
	for range n / 20 {
		worst = append(worst, decide(policy, inAllGroups(people[0]), "web-none"))
	}
	row := Row{Unit: "µs", Samples: n, Note: "10,000 rules, 1,000 people, each in one group of ten; one question in six fits none"}
	for _, q := range []struct {
		name string
		of   samples
		at   float64
		goal *goal
	}{
		{"policy, decide, p50", mixed, 0.5, nil}, {"policy, decide, p99", mixed, 0.99, oursAtMost(1000)},
		{"policy, decide, no rule of 10,000, p50", worst, 0.5, nil}, {"policy, decide, no rule of 10,000, p99", worst, 0.99, oursAtMost(1000)},
	} {
		row.Measure, row.Samples = q.name, len(q.of)
		b.report.absolute(row, q.of.quantile(q.at), q.goal)
	}
}

func decide(policy *authz.Policy, who authz.Subject, name string) (µs float64) {
	what := authz.Request{
		Target: authz.Target{Runtime: "docker", ID: "c0ffee", Name: name, Image: "registry.corp:5000/team/app:v1", Labels: map[string]string{"env": "prod", "team": "a"}},
		Kind:   authz.Exec, Command: "/dev/crashcart/bin/tcpdump -i eth0", Time: time.Unix(1764072000, 0),
	}
	began := time.Now()
	policy.Decide(who, what)
	return time.Since(began).Seconds() * 1e6
}

// inAllGroups is somebody whom every rule names.
func inAllGroups(who authz.Subject) authz.Subject {
	who.Groups = nil
	for g := range 10 {
		who.Groups = append(who.Groups, fmt.Sprint("g", g))
	}
	return who
}

// compareWithMatch takes what starting sshd costs off what it takes with rules.
func (b *bench) compareWithMatch(policy *authz.Policy) error {
	sshd, err := b.newMatcher()
	if err != nil {
		return err
	}
	who, _ := policy.Subject(fmt.Sprint("p", peopleOfPolicy-1))
	last := fmt.Sprintf("web-%d-x", rulesOfPolicy-1)
	n := b.rounds(30, 5)
	t, err := interleave(n, func() (float64, error) { return decide(policy, who, last) / 1e3, nil }, sshd.match, sshd.start)
	if err != nil {
		return err
	}
	row := Row{
		Measure: "policy, the last rule decides", Against: "sshd", Unit: "ms", Samples: n,
		Note: "sshd -T -C with 10,000 Match blocks, less what it takes with one: what it does for each connection",
	}
	b.report.compare(row, t[0].median(), t[1].median()-t[2].median(), ratioAtMost(0.05))
	return nil
}

// A matcher is an sshd with a Match block for each rule.
type matcher struct{ sshd, many, one string }

func (b *bench) newMatcher() (*matcher, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, fmt.Errorf("bench: sshd: %w (try: apt-get install openssh-server)", err)
	}
	host, err := newKey(b.dir, "match.host")
	if err != nil {
		return nil, err
	}
	m := &matcher{sshd, filepath.Join(b.dir, "many.conf"), filepath.Join(b.dir, "one.conf")}
	return m, firstError(
		os.MkdirAll("/run/sshd", 0o755), // without it sshd does not even check
		os.WriteFile(m.many, matchBlocks(host.file, rulesOfPolicy), 0o600),
		os.WriteFile(m.one, matchBlocks(host.file, 1), 0o600),
	)
}

func matchBlocks(host string, n int) []byte {
	text := fmt.Appendf(nil, "HostKey %s\n", host)
	for i := range n {
		text = fmt.Appendf(text, "Match User p%d LocalAddress %s\n  ForceCommand /bin/true %d\n", i%peopleOfPolicy, matchAddress(i), i)
	}
	return text
}

// matchAddress stands for the target, which sshd does not know.
func matchAddress(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250) }

func (m *matcher) check() (float64, error) {
	return milliseconds(exec.Command(m.sshd, "-t", "-f", m.many).Run)
}

func (m *matcher) match() (float64, error) { return m.ask(m.many, rulesOfPolicy-1) }
func (m *matcher) start() (float64, error) { return m.ask(m.one, 0) }

// ask wants what the block of a rule says.
func (m *matcher) ask(config string, rule int) (float64, error) {
	spec := fmt.Sprintf("user=p%d,host=h,addr=10.1.2.3,laddr=%s,lport=22", rule%peopleOfPolicy, matchAddress(rule))
	cmd := exec.Command(m.sshd, "-T", "-f", config, "-C", spec)
	var out bytes.Buffer
	cmd.Stdout = &out
	ms, err := milliseconds(cmd.Run)
	if want := fmt.Sprintf("forcecommand /bin/true %d\n", rule); err == nil && !strings.Contains(out.String(), want) {
		err = fmt.Errorf("bench: sshd -T -C %s does not say %q", spec, want)
	}
	return ms, err
}

// measureRefusals is what was made to take long.
func (b *bench) measureRefusals() error {
	var slowest float64
	for name, text := range bombs() {
		n := b.rounds(20, 5)
		t, err := interleave(n, func() (float64, error) {
			return milliseconds(func() error {
				if _, err := readPolicy(text); err != nil {
					return nil
				}
				return fmt.Errorf("bench: %s was read", name)
			})
		})
		if err != nil {
			return err
		}
		slowest = max(slowest, t[0].quantile(1))
	}
	row := Row{Measure: "policy, refusal, the slowest", Unit: "ms", Samples: len(bombs()), Note: "alias and merge bombs, 10 MiB, 4 MiB of [, of {a: and of -"}
	b.report.absolute(row, slowest, oursAtMost(100))
	return nil
}

func bombs() map[string][]byte {
	alias, merge := "a: &a [x,x,x,x,x,x,x,x,x]\n", "a: &a {k: v}\n"
	for c := 'b'; c <= 'z'; c++ {
		before := strings.Join(slices.Repeat([]string{"*" + string(c-1)}, 9), ",")
		alias += fmt.Sprintf("%c: &%c [%s]\n", c, c, before)
		merge += fmt.Sprintf("%c: &%c {<<: [%s]}\n", c, c, before)
	}
	full := func(piece string) []byte { return bytes.Repeat([]byte(piece), strictyaml.MaxSize/len(piece)) }
	return map[string][]byte{
		"an alias bomb": []byte(alias), "a merge bomb": []byte(merge), "10 MiB": bytes.Repeat([]byte("# rules\n"), 10<<20/8),
		"[[[": full("["), "{a: {a: ": full("{a: "), "- - -": full("- "),
	}
}

func largePolicy() []byte {
	text := []byte("people:\n")
	for i := range peopleOfPolicy {
		seed := sha256.Sum256(fmt.Append(nil, i))
		key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
		if err != nil {
			panic(err) // it is one
		}
		text = fmt.Appendf(text, "  p%d: {keys: [%s], groups: [g%d]}\n", i, bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)), i%10)
	}
	text = append(text, "rules:\n"...)
	for i := range rulesOfPolicy {
		text = fmt.Appendf(text, "  - {name: r%d, who: [p%d, \"group:g%d\"], targets: [{name: \"web-%d-*\", labels: {env: prod}}], allow: [exec: [\"/dev/crashcart/bin/tcpdump *\"]]}\n",
			i, i%peopleOfPolicy, i%10, i)
	}
	return text
}

func readPolicy(text []byte) (*authz.Policy, error) {
	var d struct {
		People authz.People `yaml:"people"`
		Rules  authz.Rules  `yaml:"rules"`
	}
	if err := strictyaml.Decode("policy", text, &d); err != nil {
		return nil, err
	}
	if d.People == nil {
		return nil, errors.New("bench: a policy without people")
	}
	return authz.New(authz.Document{People: d.People, Rules: d.Rules}, authz.Known{Profiles: []string{"general"}, Runtimes: []string{"docker"}})
}
