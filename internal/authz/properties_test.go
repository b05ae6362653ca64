package authz_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// A world makes policies and questions that have much to do with each other. Each
// is another, and the same whenever it is run.
type world struct{ *rand.Rand }

func worldOf(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 5))} }

func (w world) pick(of ...string) string { return of[w.IntN(len(of))] }

func (w world) some(max int, one func() string) string {
	var all []string
	for range 1 + w.IntN(max) {
		if s := one(); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return strings.Join(all, ", ")
}

func (w world) who() string {
	return w.pick(`"*"`, "alice", "bob", "carol", "group:sre", "group:dba", `"principal:ops-*"`, `"principal:alice"`)
}

func (w world) target() string {
	return w.pick(`{name: "*"}`, `{name: "web-*"}`, `{name: web-1}`, `{labels: {env: prod}}`, `{runtime: pid}`, `{name: "*", labels: {env: "*"}}`,
		`{image: nginx}`, `{image: "nginx:1.*"}`, `{privileged: true}`, `{host_pid: false, runtime: docker}`, `{namespace: shop, pod: "*"}`)
}

func (w world) when() string {
	return w.pick("", "", "", "when: {days: mon-fri}, ", `when: {hours: "22:00-06:00", tz: Europe/Madrid}, `, "when: {from: [10.0.0.0/8]}, ", `when: {days: [sat, sun], from: ["fe80::/10"]}, `)
}

func (w world) does() string {
	if w.IntN(4) == 0 {
		return "deny: no"
	}
	allow := w.some(3, func() string {
		return w.pick("shell", "exec: [ps]", `exec: ["ps *"]`, `forward: ["localhost:80"]`, "sftp", "scp: [up]", "agent", "join", "env: [APP_ENV]", "play")
	})
	terms := w.pick("", "", ", terms: {profile: wide}", ", terms: {totp: true, reason: x}", ", terms: {host: true}", ", terms: {approve: {by: [carol]}}", ", terms: {max: 1h}")
	return w.pick("", "", "", "break_glass: true, ", "hardware_key: true, ") + "allow: [" + allow + "]" + terms
}

// rule has everything but a name.
func (w world) rule() string {
	return fmt.Sprintf("who: [%s], targets: [%s], %s%s", w.some(2, w.who), w.some(2, w.target), w.when(), w.does())
}

func (w world) rules(n int) (rules []string) {
	for i := range n {
		rules = append(rules, fmt.Sprintf("{name: r%d, %s}", i, w.rule()))
	}
	return rules
}

func ofRules(t testing.TB, rules ...string) *authz.Policy {
	t.Helper()
	text := "people: {alice: {keys: [ALICE], groups: [sre]}, bob: {keys: [BOB], groups: [sre, dba]}, carol: {keys: [CAROL]}}\nrules:\n"
	for _, r := range rules {
		text += "  - " + r + "\n"
	}
	if len(rules) == 0 {
		text = strings.Replace(text, "rules:", "rules: []", 1)
	}
	policy, err := readTable(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return policy
}

func (w world) subject() authz.Subject {
	who := authz.Subject{Person: w.pick("alice", "bob", "carol"), Known: true, Hardware: w.IntN(2) == 0}
	who.Groups = map[string][]string{"alice": {"sre"}, "bob": {"sre", "dba"}}[who.Person]
	switch w.IntN(8) {
	case 0:
		who = authz.Subject{Person: "ops-1", Principals: []string{"ops-1", "alice"}, Certificate: &authz.Certificate{}, Groups: []string{"dba"}}
	case 1:
		who = authz.Subject{Person: "alice", Principals: []string{"alice"}, Certificate: &authz.Certificate{}}
	case 2:
		who.Bounds = authz.Bounds{Command: "ps aux", NoAgent: w.IntN(2) == 0, NoForwarding: w.IntN(2) == 0}
	case 3:
		who = authz.Subject{}
	}
	return who
}

func (w world) question() authz.Request {
	what := authz.Request{Kind: authz.Kind(w.pick("shell", "exec", "forward", "sftp", "scp", "agent", "join", "env", "play")), BreakGlass: w.IntN(5) == 0}
	what.Command = map[authz.Kind]string{authz.Exec: w.pick("ps", "ps aux", "id")}[what.Kind]
	what.Object = map[authz.Kind]string{authz.Forward: "localhost:80", authz.SFTP: w.pick("up", "down"), authz.SCP: w.pick("up", "down"), authz.Env: "APP_ENV"}[what.Kind]
	what.Target = authz.Target{Runtime: w.pick("docker", "docker", "pid"), ID: "c0ffee", Name: w.pick("web-1", "web-2", "db", ""), Image: w.pick("", "nginx:1.27", "docker.io/nginx")}
	what.Target.Labels = map[string]string{w.pick("env", "tier", "cartsshd.labels"): w.pick("prod", "test")}
	what.Target.Host = w.IntN(6) == 0
	what.Target.Facts = authz.Facts{Privileged: w.IntN(4) == 0, HostPID: w.IntN(4) == 0}
	if w.IntN(3) == 0 {
		what.Target.Namespace, what.Target.Pod = "shop", "cart-1"
	}
	if w.IntN(4) > 0 {
		what.Time = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).Add(time.Duration(w.IntN(14*24)) * time.Hour)
	}
	if w.IntN(4) > 0 {
		what.From = netip.MustParseAddr(w.pick("10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0", "192.0.2.1"))
	}
	return what
}

// questions asks many about policies, and fails if too few of them are answered
// with yes: the claims would be about nothing.
func questions(t *testing.T, policies, each int, about func(w world) func(who authz.Subject, what authz.Request) authz.Decision) {
	t.Helper()
	allowed := 0
	for seed := range policies {
		w := worldOf(uint64(seed))
		ask := about(w)
		for range each {
			if ask(w.subject(), w.question()).Allow {
				allowed++
			}
		}
	}
	if allowed < policies*each/50 {
		t.Errorf("only %d of %d questions were allowed", allowed, policies*each)
	}
}

func TestADenyRulePutFirstNeverAllowsMore(t *testing.T) {
	questions(t, 200, 200, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		rules := w.rules(1 + w.IntN(8))
		first := fmt.Sprintf("{name: first, who: [%s], targets: [%s], %sdeny: no}", w.who(), w.target(), w.when())
		before, after := ofRules(t, rules...), ofRules(t, append([]string{first}, rules...)...)
		return func(who authz.Subject, what authz.Request) authz.Decision {
			was, is := before.Decide(who, what), after.Decide(who, what)
			if is.Allow && !reflect.DeepEqual(was, is) {
				t.Fatalf("%+v\n%+v\n%s\n%s\nbefore %+v\nafter %+v", who, what, first, strings.Join(rules, "\n"), was, is)
			}
			return was
		}
	})
}

// Whichever rule is taken out: what it did not decide, stays. And the last one of
// all leaves nothing behind that could give more.
func TestARuleTakenOutChangesOnlyWhatItDecided(t *testing.T) {
	questions(t, 200, 200, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		rules := w.rules(1 + w.IntN(8))
		out := w.IntN(len(rules))
		before, after := ofRules(t, rules...), ofRules(t, slices.Delete(slices.Clone(rules), out, out+1)...)
		return func(who authz.Subject, what authz.Request) authz.Decision {
			was, is := before.Decide(who, what), after.Decide(who, what)
			decided := was.Rule == fmt.Sprint("r", out)
			if !decided && !reflect.DeepEqual(was, is) || decided && out == len(rules)-1 && is.Allow {
				t.Fatalf("%+v\n%+v\n%s\nwithout r%d\nbefore %+v\nafter %+v", who, what, strings.Join(rules, "\n"), out, was, is)
			}
			return was
		}
	})
}

// Of two neighbours, the order matters to nobody whom not both are about; nor
// where both do the same.
func TestTheOrderOfRulesMattersOnlyWhereBothMatch(t *testing.T) {
	both := 0
	questions(t, 200, 200, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		rules := w.rules(2 + w.IntN(7))
		i := w.IntN(len(rules) - 1)
		same := w.IntN(3) == 0
		if same {
			does := w.does()
			for _, j := range []int{i, i + 1} {
				rules[j] = fmt.Sprintf("{name: r%d, who: [%s], targets: [%s], %s}", j, w.who(), w.target(), does)
			}
		}
		swapped := slices.Clone(rules)
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
		before, after := ofRules(t, rules...), ofRules(t, swapped...)
		one, other := ofRules(t, rules[i]), ofRules(t, rules[i+1])
		return func(who authz.Subject, what authz.Request) authz.Decision {
			was, is := before.Decide(who, what), after.Decide(who, what)
			match := one.Decide(who, what).Rule != "" && other.Decide(who, what).Rule != ""
			if match {
				both++
			}
			if !match && !reflect.DeepEqual(was, is) || same && !unknownLabels(what) && was.Allow != is.Allow {
				t.Fatalf("%+v\n%+v\n%s\nr%d and its neighbour swapped\nbefore %+v\nafter %+v", who, what, strings.Join(rules, "\n"), i, was, is)
			}
			return was
		}
	})
	if both < 500 {
		t.Errorf("both rules matched only %d times", both)
	}
}

// With unknown labels a rule that matches without them gives what another, that
// asks for them, does not.
func unknownLabels(what authz.Request) bool { return what.Target.Labels["cartsshd.labels"] != "" }

func TestALockNeverAllowsMoreAndAGrantNeverTakesAway(t *testing.T) {
	granted, locked := 0, 0
	questions(t, 200, 400, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		policy := ofRules(t, w.rules(2+w.IntN(6))...)
		lock := authz.Lock{ID: "1", Person: w.pick("", "alice", "ops-1"), Target: w.pick("", "web-1", "docker:db"), Until: w.question().Time}
		grant := authz.Grant{ID: "1", Person: w.pick("alice", "bob"), Target: w.pick("web-1", "docker:db"), Until: w.question().Time.AddDate(0, 0, 7)}
		withLock, withGrant, withBoth := policy.With(nil, []authz.Lock{lock}), policy.With([]authz.Grant{grant}, nil), policy.With([]authz.Grant{grant}, []authz.Lock{lock})
		return func(who authz.Subject, what authz.Request) authz.Decision {
			was := policy.Decide(who, what)
			under, given, both := withLock.Decide(who, what), withGrant.Decide(who, what), withBoth.Decide(who, what)
			if under.Allow && !reflect.DeepEqual(was, under) {
				t.Fatalf("%+v\n%+v\nunder %+v %+v, before %+v", who, what, lock, under, was)
			}
			if was.Allow && !reflect.DeepEqual(was, given) || strings.HasPrefix(was.Why, "denied by rule") && given.Allow {
				t.Fatalf("%+v\n%+v\nby %+v %+v, before %+v", who, what, grant, given, was)
			}
			if strings.HasPrefix(under.Rule, "lock ") && !reflect.DeepEqual(under, both) {
				t.Fatalf("%+v\n%+v\nunder %+v and by %+v %+v", who, what, lock, grant, both)
			}
			if strings.HasPrefix(given.Rule, "grant ") {
				granted++
			}
			if strings.HasPrefix(under.Rule, "lock ") && was.Allow {
				locked++
			}
			return was
		}
	})
	if granted < 50 || locked < 50 {
		t.Errorf("granted %d, locked %d", granted, locked)
	}
}

func TestAllThatCanBeAskedOfAPolicyAgrees(t *testing.T) {
	questions(t, 200, 200, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		policy := ofRules(t, w.rules(w.IntN(10))...).With([]authz.Grant{{ID: "1", Person: "alice", Target: "web-1", Until: w.question().Time}}, []authz.Lock{{ID: "1", Person: "bob", Target: "db"}})
		return func(who authz.Subject, what authz.Request) authz.Decision {
			agree(t, policy, who, what)
			return policy.Decide(who, what)
		}
	})
}

// Rules are found by whom they name, and are the same as if all had been asked.
func TestNoRuleIsMissedThatNamesSomebody(t *testing.T) {
	questions(t, 200, 300, func(w world) func(authz.Subject, authz.Request) authz.Decision {
		policy := ofRules(t, w.rules(w.IntN(30))...)
		plain := authz.Plain(policy)
		return func(who authz.Subject, what authz.Request) authz.Decision {
			got, want := policy.Decide(who, what), plain.Decide(who, what)
			asked, _ := policy.Asks(who, what)
			wanted, _ := plain.Asks(who, what)
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(asked, wanted) {
				t.Fatalf("%+v\n%+v\ngot %+v, want %+v", who, what, got, want)
			}
			return got
		}
	})
}

func TestWhatSaysNothingDenies(t *testing.T) {
	empty := ofRules(t)
	for seed := range 2000 {
		w := worldOf(uint64(seed))
		who, what := w.subject(), w.question()
		for _, policy := range []*authz.Policy{nil, new(authz.Policy), empty} {
			if got := policy.Decide(who, what); got.Allow || got.Why == "" {
				t.Fatalf("%+v\n%+v\n%+v", who, what, got)
			}
			if asked, may := policy.Asks(who, what); may || !reflect.DeepEqual(asked, authz.Terms{}) {
				t.Fatalf("%+v\n%+v: is asked for something", who, what)
			}
			policy.Explain(who, what)
		}
	}
	if (authz.Decision{}).Allow {
		t.Error("the zero Decision allows")
	}
}
