package authz_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
)

const seven = `
people:
  alice: {keys: [ALICE], groups: [sre]}
  bob:   {keys: [BOB], groups: [dba]}
rules:
  - {name: vault, who: ["*"], targets: [{labels: {tier: secrets}}], deny: ask security}
  - {name: freeze, who: ["*"], targets: [{name: "web-*"}], when: {days: [sat-mon], hours: "22:00-06:00"}, deny: not at night}
  - {name: captures, who: [bob], targets: [{name: "web-?", privileged: false}], when: {from: [10.0.0.0/8]}, allow: [exec: ["ps aux", "tcpdump *"], scp: [down]]}
  - name: sre
    who: [group:sre, "principal:*@corp"]
    targets: [{name: "web-*", runtime: docker, labels: {env: prod}}, {image: nginx}]
    allow: [shell, sftp, forward: ["localhost:8080", "db:5432"], reverse: ["localhost:1"], env: ["APP_*"], agent]
    terms: {reason: '^INC', max: 90m, idle: 10m}
  - {name: ci, who: ["principal:ci@corp"], targets: [{name: web-1}], allow: [exec: [true]], hardware_key: true}
  - {name: fire, who: [group:sre], targets: [{name: "*"}], break_glass: true, allow: [shell]}
  - {name: last, who: ["*"], targets: [{name: "*"}], deny: nothing else}
`

// told is what there is for somebody, an offer a line.
func told(offers []authz.Offer) (lines []string) {
	for _, o := range offers {
		line := o.Rule + ":"
		for _, word := range append(slices.Clone(o.Allow), o.Deny, o.When) {
			if word != "" {
				line += " " + word + ";"
			}
		}
		if o.BreakGlass {
			line += " break_glass;"
		}
		lines = append(lines, strings.TrimSuffix(line, ";"))
	}
	return lines
}

func TestOffersAreWhatMayBeDoneWheneverItMay(t *testing.T) {
	policy := load(t, seven)
	web := container("web-1", "env=prod")
	const freeze = "freeze: not at night; mon, sat-sun 22:00-06:00 UTC"
	const sre = `sre: shell; sftp; agent; forward: ["localhost:8080", "db:5432"]; reverse: ["localhost:1"]; env: ["APP_*"]`
	for _, claim := range []struct {
		who    authz.Subject
		target authz.Target
		want   []string
	}{
		{alice, web, []string{freeze, sre, freeze + "; break_glass", "fire: shell; break_glass"}},
		{alice, container("web-1"), []string{freeze + "; break_glass", "fire: shell; break_glass"}},
		{bob, web, []string{freeze, `captures: scp: [down]; exec: ["ps aux", "tcpdump *"]; from 10.0.0.0/8`}},
		{bob, container("web-10", "env=prod"), nil},
		{alice, container("x", "tier=secrets"), nil},
		{authz.Certified("ci@corp"), web, []string{freeze, sre}},
		{authz.Certified("ci@other"), web, nil},
		{authz.Subject{}, web, nil},
		{alice, authz.Target{}, nil},
	} {
		if got := told(policy.Offers(claim.who, authz.Request{Target: claim.target})); !slices.Equal(got, claim.want) {
			t.Errorf("%s on %s: got\n%s\nwant\n%s", claim.who.Person, claim.target.Name, strings.Join(got, "\n"), strings.Join(claim.want, "\n"))
		}
	}
	if none := (*authz.Policy)(nil).Offers(alice, authz.Request{Target: web}); none != nil {
		t.Errorf("without a policy: %v", none)
	}
}

// Whatever is decided is offered, and nothing else is: asked at random.
func TestNobodyIsOfferedWhatIsNeverAllowedNorAllowedWhatIsNotOffered(t *testing.T) {
	policy := load(t, seven)
	week := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, who := range []authz.Subject{alice, bob, carol, authz.Certified("x@corp")} {
		for _, name := range []string{"web-1", "web-10", "nginx", "db"} {
			for _, labels := range [][]string{nil, {"env=prod"}, {"tier=secrets"}, {"cartsshd.labels=unknown"}} {
				target := container(name, labels...)
				allowed := map[string]bool{}
				for hour := range 7 * 24 {
					for _, from := range []authz.Address{address(t, "10.0.0.1"), address(t, "192.0.2.1")} {
						for _, emergency := range []bool{false, true} {
							what := authz.Request{Target: target, Kind: authz.Exec, Command: "ps aux", BreakGlass: emergency, Time: week.Add(time.Duration(hour) * time.Hour), From: from.Addr}
							if d := policy.Decide(who, what); d.Allow {
								allowed[d.Rule] = true
							}
						}
					}
				}
				offered := map[string]bool{}
				for _, o := range policy.Offers(who, authz.Request{Target: target}) {
					if o.Deny == "" {
						offered[o.Rule] = true
					}
				}
				if !reflect.DeepEqual(allowed, offered) {
					t.Errorf("%s on %s %v: allowed by %v, offered by %v", who.Person, name, labels, allowed, offered)
				}
			}
		}
	}
}

func address(t *testing.T, text string) (a authz.Address) {
	t.Helper()
	if err := a.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestGrantsAndLocksAreOffersToo(t *testing.T) {
	policy := load(t, house)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	granted := policy.With([]authz.Grant{{ID: "7", Person: "carol", Target: "db-1", Until: now.Add(time.Hour)}}, nil)
	for target, want := range map[string][]string{"db-1": {"grant 7: shell"}, "db-2": nil} {
		if got := told(granted.Offers(carol, authz.Request{Target: container(target), Time: now})); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", target, got, want)
		}
	}
	if got := granted.Offers(carol, authz.Request{Target: container("db-1"), Time: now.Add(time.Hour)}); got != nil {
		t.Errorf("when it is over: %v", got)
	}
	if got := granted.Offers(carol, authz.Request{Target: container("db-1", "tier=secrets"), Time: now}); len(got) > 0 {
		t.Errorf("where a rule denies: %v", got)
	}
	locked := granted.With(nil, []authz.Lock{{ID: "9", Person: "alice", By: "root", Reason: "away"}})
	if got := told(locked.Offers(alice, authz.Request{Target: container("web-1", "env=prod"), Time: now})); !slices.Equal(got, []string{"lock 9: locked by root: away"}) {
		t.Errorf("locked: %v", got)
	}
}

func TestReachIsEveryRuleThatNamesSomebody(t *testing.T) {
	var lines []string
	for _, o := range load(t, seven).Reach(bob) {
		lines = append(lines, o.Rule+": "+strings.Join(o.Targets, " or "))
	}
	want := []string{"vault: label tier=secrets", "freeze: name web-*", "captures: name web-?, privileged false", "last: name *"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q", lines)
	}
}

func TestStrangersAreThePrincipalsThatRulesName(t *testing.T) {
	var names []string
	_, strangers := load(t, seven).Certificates()
	for _, who := range strangers {
		names = append(names, who.Person)
	}
	if want := []string{"*@corp", "ci@corp"}; !slices.Equal(names, want) {
		t.Errorf("got %q", names)
	}
}

func TestAnExplanationTellsWhichConditionsFailed(t *testing.T) {
	policy := load(t, seven)
	noon := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	e := policy.Explain(bob, authz.Request{Target: container("web-1"), Kind: authz.Shell, Time: noon, From: address(t, "192.0.2.1").Addr})
	var lines []string
	for _, j := range e.Rules {
		lines = append(lines, fmt.Sprint(j.Rule, " ", j.Decided, " ", j.Failed, " ", j.Denies, " ", j.Lacks))
	}
	want := []string{
		"vault false [targets: it has no label tier (secrets is asked for)] ask security ",
		"freeze false [when: mon, sat-sun 22:00-06:00 UTC, it is wed 12:00] not at night ",
		"captures false [when: from 10.0.0.0/8, comes from 192.0.2.1]  rule does not allow shell",
		"sre false [who: bob is not among group:sre, principal:*@corp targets: it has no label env (prod is asked for)]  ",
		"ci false [who: bob is not among principal:ci@corp]  the rule asks for a hardware key",
		"fire false [who: bob is not among group:sre break_glass: the rule is for logins spelt breakglass+NAME]  ",
		"last true [] nothing else ",
	}
	if !slices.Equal(lines, want) || e.Decision.Allow || e.DependsOn != "" {
		t.Errorf("%+v\n%s", e.Decision, strings.Join(lines, "\n"))
	}
	e = policy.Explain(bob, authz.Request{Target: container("web-1"), Kind: authz.Shell, Time: noon})
	if e.DependsOn != "the address (from), by rule captures" {
		t.Errorf("depends on %q", e.DependsOn)
	}
}

// A term that is left out of the words is one that nobody is told of.
func TestEveryTermHasItsWords(t *testing.T) {
	base := authz.Terms{Profile: "general", Cgroup: authz.CgroupSession, Output: authz.OutputFull}
	if got := fmt.Sprint(base.Words()); got != "[{record output full} {profile general}]" {
		t.Errorf("of no terms: %s", got)
	}
	other := map[string]any{
		"Profile": "wide", "Cgroup": authz.CgroupTarget, "Output": authz.OutputNone, "Reason": regexp.MustCompile("^INC"), "Until": time.Unix(1, 0),
		"Approve": &authz.Approve{By: []string{"group:lead"}, Count: 2, Within: 10 * time.Minute}, "Max": 90 * time.Minute, "Idle": time.Hour,
		"Memory": int64(512 << 20), "Pids": 200, "Sessions": 2, "User": "1:2", "CapAdd": []string{"A", "B"}, "CapDrop": []string{"C"},
		"Namespaces": []string{"mnt", "pid"}, "Image": "full",
		"SeccompMust": true, "Host": true, "TOTP": true, "Emergency": true,
	}
	want := map[string]string{
		"Max": "{max 1h30m}", "Idle": "{idle 1h}", "Approve": "{approve by 2 of group:lead, within 10m}", "Memory": "{memory 512M}",
		"Reason": "{reason one that matches ^INC}", "Until": "{until 1970-01-01 00:00:01 UTC}", "CapAdd": "{cap_add A, B}",
	}
	for i := range reflect.TypeFor[authz.Terms]().NumField() {
		name := reflect.TypeFor[authz.Terms]().Field(i).Name
		if name == "Env" { // a permission
			continue
		}
		changed := base
		if other[name] == nil {
			t.Errorf("this test knows no %s", name)
			continue
		}
		reflect.ValueOf(&changed).Elem().Field(i).Set(reflect.ValueOf(other[name]))
		if got := fmt.Sprint(changed.Words()); got == fmt.Sprint(base.Words()) || !strings.Contains(got, want[name]) {
			t.Errorf("of %s nothing is told: %s", name, got)
		}
	}
}

// An access review must not miss who has no key, and a certificate.
func TestAPersonWithACertificateIsAmongThoseWhoMaySignIn(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE]}
  erin: {not_after: 2099-01-31}
authorities:
  - {ca: CAROL, principals: {"erin@corp": {person: erin, groups: [sre]}, "*@corp": {groups: [staff]}}}
rules:
  - {name: web, who: [group:sre], targets: [{name: web}], allow: [shell]}
`)
	patterns, holders := policy.Certificates()
	if len(patterns) != 2 || patterns[0] != "*@corp" || patterns[1] != "erin@corp" {
		t.Fatalf("%q", patterns)
	}
	what := authz.Request{Target: container("web"), Kind: authz.Shell, Time: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	if d := policy.Decide(holders[1], what); !d.Allow || holders[1].Person != "erin" {
		t.Errorf("%+v: %+v", holders[1], d)
	}
	if d := policy.Decide(holders[0], what); d.Allow {
		t.Errorf("%+v: %+v", holders[0], d)
	}
}
