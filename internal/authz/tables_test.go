package authz_test

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tables name zones, and must mean the same everywhere

	"golang.org/x/tools/txtar"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// The tables in testdata are the language's own description of itself. Each
// policy of a file begins with a section
//
//	-- policy --
//
// in which ALICE, BOB, CAROL and DAVE stand for keys, and what follows is about it:
//
//	-- standing --  grants and locks beside it, as in "grant 7 alice web-1 until=TIME"
//	-- answers --   WHO KIND [OBJECT] TARGET [KEY=VALUE…] -> allow|deny RULE ["WHY"] [TERM=VALUE…]
//	-- problems --  it is not loaded; each line is a problem
//	-- faults --    ENTRY -> COLUMN: PROBLEM; each entry is put after the policy, as one more of its last list
//
// A rule that did not decide is "-". A WHY is part of what the record gets. If
// terms are given, they are all that differ from those of a rule without any.
func TestTheTablesHold(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(c.name, c.run)
	}
}

type tableCase struct {
	name, policy                        string
	standing, answers, problems, faults []line
}

type line struct {
	place, text string
}

func cases(t testing.TB) (all []*tableCase) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no tables", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, casesOf(t, filepath.Base(file), archive)...)
	}
	return all
}

func casesOf(t testing.TB, file string, archive *txtar.Archive) (all []*tableCase) {
	for _, section := range archive.Files {
		kind, title, _ := strings.Cut(section.Name, " ")
		if kind == "policy" {
			name := strings.TrimSuffix(file, ".txtar") + "/" + strconv.Itoa(len(all)+1) + " " + title
			all = append(all, &tableCase{name: name, policy: string(section.Data)})
			continue
		}
		if len(all) == 0 {
			t.Fatalf("%s: %s before any policy", file, section.Name)
		}
		c := all[len(all)-1]
		into := map[string]*[]line{"standing": &c.standing, "answers": &c.answers, "problems": &c.problems, "faults": &c.faults}[kind]
		if into == nil {
			t.Fatalf("%s: section %q is none of policy, standing, answers, problems, faults", file, section.Name)
		}
		*into = append(*into, lines(file, string(section.Data))...)
	}
	return all
}

func lines(file, text string) (all []line) {
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			all = append(all, line{file, l})
		}
	}
	return all
}

func (c *tableCase) run(t *testing.T) {
	if len(c.answers)+len(c.problems)+len(c.faults) == 0 {
		t.Fatal("nothing is asked of this policy")
	}
	for _, f := range c.faults {
		c.fault(t, f.text)
	}
	if len(c.answers)+len(c.problems) == 0 {
		return
	}
	policy, err := readTable(c.policy)
	if got := fmt.Sprint(err); err != nil || len(c.problems) > 0 {
		c.sameProblems(t, got)
		return
	}
	policy = policy.With(standing(t, c.standing))
	for _, a := range c.answers {
		answer(t, policy, a.text)
	}
}

func (c *tableCase) sameProblems(t *testing.T, got string) {
	var want []string
	for _, p := range c.problems {
		want = append(want, "p:"+p.text)
	}
	if got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func (c *tableCase) fault(t *testing.T, text string) {
	entry, want, ok := strings.Cut(text, " -> ")
	if !ok {
		t.Fatalf("%q has no ->", text)
	}
	_, err := readTable(c.policy + "  - " + entry + "\n")
	var problems strictyaml.Problems
	if !errors.As(err, &problems) || len(problems) != 1 {
		t.Errorf("%s\ngot %v\nwant %s", entry, err, want)
		return
	}
	// The entry begins in column 5 of its line.
	if got := fmt.Sprintf("%d: %s", problems[0].Column-4, problems[0].Text); got != want {
		t.Errorf("%s\ngot  %s\nwant %s", entry, got, want)
	}
}

// What policies of the tables may name.
var knownOfTables = func() authz.Known {
	k := known
	k.Runtimes = []string{"docker", "kubernetes", "pid"}
	k.Zone = time.LoadLocation
	return k
}()

func readTable(text string) (*authz.Policy, error) { return readPlain([]byte(fill(text))) }

func readPlain(text []byte) (*authz.Policy, error) {
	var d document
	unread := strictyaml.Decode("p", text, &d)
	policy, unwise := authz.New(authz.Document{People: d.People, Groups: d.Groups, Authorities: d.Authorities, Rules: d.Rules, Tests: d.Tests}, knownOfTables)
	if err := strictyaml.Join(unread, unwise); err != nil {
		return nil, err
	}
	return policy, nil
}

// words of a line, and those of them that are KEY=VALUE.
func words(t testing.TB, text string) (plain []string, values map[string]string) {
	t.Helper()
	all, err := authz.Split(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	values = map[string]string{}
	for _, word := range all {
		key, value, ok := strings.Cut(word, "=")
		if !ok || strings.ContainsAny(key, " :") {
			plain = append(plain, word)
			continue
		}
		values[key] = value
	}
	return plain, values
}

func answer(t *testing.T, policy *authz.Policy, text string) {
	t.Helper()
	question, want, ok := strings.Cut(text, " -> ")
	if !ok {
		t.Fatalf("%q has no ->", text)
	}
	who, what := ask(t, policy, question)
	got := policy.Decide(who, what)
	plain, terms := words(t, want)
	if len(plain) < 2 {
		t.Fatalf("%q: wants allow or deny, and a rule or -", text)
	}
	verdict := map[bool]string{true: "allow", false: "deny"}[got.Allow]
	rule := got.Rule
	if rule == "" {
		rule = "-"
	}
	if verdict != plain[0] || rule != plain[1] || !strings.Contains(got.Why, strings.Join(plain[2:], " ")) {
		t.Errorf("%s\ngot  %s %s %q", text, verdict, rule, got.Why)
	}
	if shown := termsOf(got); len(terms) > 0 && !reflect.DeepEqual(shown, terms) {
		t.Errorf("%s\ngot  %v", text, shown)
	}
	agree(t, policy, who, what)
}

// ask reads a question.
func ask(t testing.TB, policy *authz.Policy, text string) (authz.Subject, authz.Request) {
	t.Helper()
	plain, values := words(t, text)
	if len(plain) < 3 {
		t.Fatalf("%q: wants who, kind and target", text)
	}
	what := authz.Request{Kind: authz.Kind(plain[1])}
	switch what.Kind {
	case authz.Exec:
		what.Command = plain[2]
	case authz.Forward, authz.Reverse, authz.Env, authz.SFTP, authz.SCP, authz.Rsync:
		what.Object = plain[2]
	}
	what.Target = authz.Target{Runtime: "docker", ID: "c0ffee", Name: plain[len(plain)-1]}
	if what.Target.Name == "-" {
		what.Target.Name = ""
	}
	who := subject(t, policy, plain[0])
	for key, value := range values {
		if !set(t, &who, &what, key, value) {
			t.Fatalf("%q: unknown %s", text, key)
		}
	}
	return who, what
}

func subject(t testing.TB, policy *authz.Policy, name string) authz.Subject {
	t.Helper()
	if name == "nobody" {
		return authz.Subject{}
	}
	if principal, ok := strings.CutPrefix(name, "principal:"); ok {
		return authz.Subject{Person: principal, Principals: []string{principal}, Certificate: &authz.Certificate{}}
	}
	who, ok := policy.Subject(name)
	if !ok {
		t.Fatalf("%s is none of the people", name)
	}
	return who
}

func set(t testing.TB, who *authz.Subject, what *authz.Request, key, value string) bool {
	target := &what.Target
	if label, ok := strings.CutPrefix(key, "label."); ok {
		if target.Labels == nil {
			target.Labels = map[string]string{}
		}
		target.Labels[label] = value
		return true
	}
	switches := map[string]*bool{
		"privileged": &target.Facts.Privileged, "host_pid": &target.Facts.HostPID, "host_net": &target.Facts.HostNet, "host": &target.Host,
		"break_glass": &what.BreakGlass, "hardware_key": &who.Hardware, "no_forwarding": &who.Bounds.NoForwarding, "no_agent": &who.Bounds.NoAgent,
	}
	texts := map[string]*string{
		"runtime": &target.Runtime, "id": &target.ID, "image": &target.Image, "namespace": &target.Namespace, "pod": &target.Pod, "bound_to": &who.Bounds.Command,
	}
	lists := map[string]*[]string{"groups": &who.Groups, "principals": &who.Principals}
	times := map[string]*time.Time{"at": &what.Time, "until": &who.Until}
	switch {
	case switches[key] != nil:
		*switches[key] = value == "true"
	case texts[key] != nil:
		*texts[key] = value
	case lists[key] != nil:
		*lists[key] = strings.Split(value, ",")
	case times[key] != nil:
		*times[key] = atTime(t, value)
	case key == "from":
		what.From = netip.MustParseAddr(value)
	default:
		return false
	}
	return true
}

func atTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func standing(t testing.TB, all []line) (grants []authz.Grant, locks []authz.Lock) {
	t.Helper()
	for _, l := range all {
		plain, values := words(t, l.text)
		var until time.Time
		if values["until"] != "" {
			until = atTime(t, values["until"])
		}
		switch {
		case plain[0] == "grant" && len(plain) == 4:
			g := authz.Grant{ID: plain[1], Person: plain[2], Target: plain[3], Profile: values["profile"], Until: until, By: "carol"}
			if text, ok := values["exec"]; ok {
				g.Exec = make([]authz.Pattern, 1)
				if err := g.Exec[0].UnmarshalText([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			grants = append(grants, g)
		case plain[0] == "lock" && len(plain) == 2:
			locks = append(locks, authz.Lock{ID: plain[1], Person: values["person"], Target: values["target"], Until: until, Reason: values["reason"], By: "carol"})
		default:
			t.Fatalf("%q is neither grant ID PERSON TARGET nor lock ID", l.text)
		}
	}
	return grants, locks
}

// termsOf are those of a decision that a rule without terms does not have, and
// what an exec runs.
func termsOf(d authz.Decision) map[string]string {
	terms := map[string]string{}
	add := func(key string, value any, usual any) {
		if text := fmt.Sprint(value); text != fmt.Sprint(usual) {
			terms[key] = text
		}
	}
	list := func(s []string) string { return strings.Join(s, ",") }
	t := d.Terms
	add("profile", t.Profile, "general")
	add("image", t.Image, "")
	add("user", t.User, "")
	add("cap_add", list(t.CapAdd), "")
	add("cap_drop", list(t.CapDrop), "")
	add("namespaces", list(t.Namespaces), "")
	add("cgroup", t.Cgroup, authz.CgroupSession)
	add("memory", t.Memory, 0)
	add("pids", t.Pids, 0)
	add("seccomp_must", t.SeccompMust, false)
	add("host", t.Host, false)
	if t.Reason != nil {
		add("reason", t.Reason, "")
	}
	add("totp", t.TOTP, false)
	if t.Approve != nil {
		terms["approve"] = fmt.Sprintf("%d of %s in %s", t.Approve.Count, list(t.Approve.By), t.Approve.Within)
	}
	add("max", t.Max, "0s")
	add("idle", t.Idle, "0s")
	if !t.Until.IsZero() {
		terms["until"] = t.Until.Format(time.RFC3339)
	}
	add("sessions", t.Sessions, 0)
	add("output", t.Output, authz.OutputFull)
	var env []string
	for _, g := range t.Env {
		env = append(env, g.String())
	}
	add("env", list(env), "")
	add("emergency", t.Emergency, false)
	add("runs", d.Command, "")
	if d.Argv != nil {
		terms["argv"] = strings.Join(d.Argv, "|")
	}
	return terms
}

// agree tells whether all that can be asked of a policy gives the same answer.
func agree(t testing.TB, policy *authz.Policy, who authz.Subject, what authz.Request) {
	t.Helper()
	got := policy.Decide(who, what)
	if got.Why == "" || !got.Allow && (got.Argv != nil || !reflect.DeepEqual(got.Terms, authz.Terms{})) {
		t.Fatalf("a decision without a reason, or a denial with terms: %+v", got)
	}
	e := policy.Explain(who, what)
	if !reflect.DeepEqual(e.Decision, got) {
		t.Fatalf("Explain: %+v, Decide: %+v", e.Decision, got)
	}
	for i, j := range e.Rules {
		if j.Decided && (i != len(e.Rules)-1 || j.Rule != got.Rule || len(j.Failed) > 0) {
			t.Fatalf("Explain: %+v, Decide: %+v", e.Rules, got)
		}
	}
	beside := strings.Contains(got.Rule, " ") // a grant or a lock: no name of a rule has one
	if last := len(e.Rules) - 1; got.Rule != "" && !beside && (last < 0 || !e.Rules[last].Decided) {
		t.Fatalf("%s decided, and Explain does not know: %+v", got.Rule, e.Rules)
	}
	asked, may := policy.Asks(who, what)
	if got.Allow && !may {
		t.Fatalf("nothing may be asked of who may enter: %+v", got)
	}
	if got.Allow && !beside && !reflect.DeepEqual(asked, got.Terms) {
		t.Fatalf("Asks: %+v, Decide: %+v", asked, got.Terms)
	}
	if strings.HasPrefix(got.Rule, "lock ") && !reflect.DeepEqual(asked, authz.Terms{}) {
		t.Fatalf("somebody locked out is asked for %+v", asked)
	}
}
