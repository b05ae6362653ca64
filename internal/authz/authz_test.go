package authz_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

const house = `
people:
  alice: {keys: [ALICE alice@laptop], groups: [sre]}
  bob:   {keys: [BOB], groups: [dba, intern]}
  carol: {keys: [CAROL]}
rules:
  - {name: never-the-vault, who: ["*"], targets: [{labels: {tier: secrets}}], deny: ask security}
  - name: sre-on-web
    who: [group:sre]
    targets: [{name: "web-*", runtime: docker, labels: {env: prod}}]
    allow: [shell]
    terms: {profile: wide}
  - name: captures
    who: [bob]
    targets: [{name: "web-?"}, {image: "nginx:*"}]
    allow: [exec: ["/dev/crashcart/bin/tcpdump *", "ps aux"]]
  - {name: bob-is-done, who: [bob], targets: [{name: "web-*"}], deny: no more}
  - {name: interns-nowhere, who: [group:intern], targets: [{name: "*"}], deny: not yet}
  - {name: everyone-on-toy, who: ["*"], targets: [{name: toy}], allow: [shell]}
  - {name: host, who: [alice], targets: [{runtime: pid}], allow: [shell]}
`

var (
	alice = authz.Subject{Person: "alice", Groups: []string{"sre"}, Known: true}
	bob   = authz.Subject{Person: "bob", Groups: []string{"dba", "intern"}, Known: true}
	carol = authz.Subject{Person: "carol", Known: true}
)

func container(name string, labels ...string) authz.Target {
	t := authz.Target{Runtime: "docker", ID: "68af6b4b", Name: name, Image: "app:1", Labels: map[string]string{}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		t.Labels[k] = v
	}
	return t
}

func TestTheFirstMatchingRuleDecides(t *testing.T) {
	policy := load(t, house)
	nginx := container("")
	nginx.Image = "nginx:1.29"
	pid := authz.Target{Runtime: "pid", ID: "4711"}
	for _, test := range []struct {
		who     authz.Subject
		target  authz.Target
		command string // "" asks for a shell
		allow   bool
		rule    string
	}{
		{alice, container("web-1", "env=prod"), "", true, "sre-on-web"},
		{alice, container("web-1", "env=prod"), "ps | head", true, "sre-on-web"},
		{alice, container("web-1", "env=prod", "tier=secrets"), "", false, "never-the-vault"},
		{alice, container("web-1", "env=test"), "", false, ""},
		{alice, container("web-1"), "", false, ""},
		{alice, container("db-web-1", "env=prod"), "", false, ""},
		{alice, container("WEB-1", "env=prod"), "", false, ""},
		{alice, pid, "", true, "host"},
		{bob, container("web-1", "env=prod"), "", false, "captures"},
		{bob, container("web-1"), "ps aux", true, "captures"},
		{bob, container("web-1"), "ps", false, "captures"},
		{bob, container("web-1"), "ps 'aux", false, "captures"},
		{bob, container("web-12"), "ps aux", false, "bob-is-done"},
		{bob, nginx, "/dev/crashcart/bin/tcpdump -i eth0", true, "captures"},
		{bob, container("toy"), "", false, "interns-nowhere"},
		{bob, pid, "", false, ""}, // {name: "*"} is no process, neither to allow nor to deny
		{carol, container("toy"), "", true, "everyone-on-toy"},
		{carol, container("web-1", "env=prod"), "", false, ""},
		{carol, pid, "", false, ""},
		{authz.Subject{Person: "stranger"}, container("toy"), "", true, "everyone-on-toy"},
		{authz.Subject{Groups: []string{"sre"}}, container("toy"), "", false, ""},
	} {
		request := authz.Request{Target: test.target, Kind: authz.Shell}
		if test.command != "" {
			request.Kind, request.Command = authz.Exec, test.command
		}
		got := policy.Decide(test.who, request)
		if got.Allow != test.allow || got.Rule != test.rule || got.Why == "" {
			t.Errorf("%s on %v, %q: got %+v", test.who.Person, test.target, test.command, got)
		}
		if !got.Allow && (got.Argv != nil || !reflect.DeepEqual(got.Terms, authz.Terms{})) {
			t.Errorf("a denial with terms: %+v", got)
		}
	}
}

func TestWhoMayShellGetsTheShellAndOthersTheirArguments(t *testing.T) {
	policy := load(t, house)
	shell := policy.Decide(alice, authz.Request{Target: container("web-1", "env=prod"), Kind: authz.Exec, Command: "ps; ls 'x"})
	if !shell.Allow || shell.Argv != nil || shell.Terms.Profile != "wide" {
		t.Errorf("alice: %+v", shell)
	}
	argv := policy.Decide(bob, authz.Request{Target: container("web-1"), Kind: authz.Exec, Command: `/dev/crashcart/bin/tcpdump -w $(id);rm "a  b"`})
	want := []string{"/dev/crashcart/bin/tcpdump", "-w", "$(id);rm", "a  b"}
	if !argv.Allow || !reflect.DeepEqual(argv.Argv, want) || argv.Terms.Profile != "general" {
		t.Errorf("bob: %+v", argv)
	}
}

// Or a container would pass a rule against its labels while nobody can tell them.
func TestWhereLabelsAreNotKnownNoRuleThatAsksForThemIsPassed(t *testing.T) {
	policy := load(t, `
people: {alice: {keys: [ALICE]}, bob: {keys: [BOB]}}
rules:
  - {name: break-glass, who: [alice], targets: [{name: web-1}], allow: [shell]}
  - {name: vault, who: [alice], targets: [{labels: {tier: secrets}}], deny: ask security}
  - {name: careful, who: ["*"], targets: [{name: "web-*", labels: {env: prod}}], allow: [exec: [ps]]}
  - {name: all, who: ["*"], targets: [{name: "*"}], allow: [shell]}
`)
	for _, test := range []struct{ who, name, rule string }{
		{"alice", "web-1", "break-glass"}, {"alice", "web-2", "vault"}, {"alice", "db", "vault"}, {"bob", "web-1", "careful"}, {"bob", "db", "all"},
	} {
		target := container(test.name, "cartsshd.labels=unknown")
		got := policy.Decide(authz.Subject{Person: test.who}, authz.Request{Target: target, Kind: authz.Shell})
		allow := test.rule == "break-glass" || test.rule == "all"
		if got.Allow != allow || got.Rule != test.rule {
			t.Errorf("%s in %s: %+v, want rule %s", test.who, test.name, got, test.rule)
		}
		if !allow && got.Why != "its labels are not known, and the rule asks for them" {
			t.Errorf("%s in %s: %q", test.who, test.name, got.Why)
		}
	}
}

func TestARuleMayDemandAToolsImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for demand, want := range map[string]string{
		"profile: wide":               "",
		"image: full":                 "full",
		"image: \"" + digest + "\"":   digest,
		"profile: wide, image: small": "small",
	} {
		policy := load(t, house[:strings.Index(house, "rules:")]+"rules:\n  - "+terms(demand))
		got := policy.Decide(alice, authz.Request{Target: container("x"), Kind: authz.Shell})
		if !got.Allow || got.Terms.Image != want || (got.Terms.Profile == "wide") != strings.Contains(demand, "wide") {
			t.Errorf("%s: %+v", demand, got)
		}
	}
}

func TestAPolicyTellsWhatItsRulesDemandOfTheTools(t *testing.T) {
	named := func(name, text string) string { return strings.Replace(terms(text), "name: r", "name: "+name, 1) }
	rules := []string{named("a", "image: small"), named("b", "profile: wide"), named("c", "image: full"), named("d", "image: small")}
	policy := load(t, house[:strings.Index(house, "rules:")]+"rules:\n  - "+strings.Join(rules, "\n  - "))
	if got := policy.Images(); !reflect.DeepEqual(got, []string{"small", "full"}) {
		t.Errorf("got %q", got)
	}
	if got := (*authz.Policy)(nil).Images(); got != nil {
		t.Errorf("of no policy: %q", got)
	}
}

func TestTermsAreWhatTheRuleSays(t *testing.T) {
	usual := authz.Terms{Profile: "general", Cgroup: "session", Output: "full"}
	for text, change := range map[string]func(*authz.Terms){
		"profile: wide":                 func(t *authz.Terms) { t.Profile = "wide" },
		`user: "1000:27"`:               func(t *authz.Terms) { t.User = "1000:27" },
		"cap_add: [CAP_SYS_PTRACE]":     func(t *authz.Terms) { t.CapAdd = []string{"SYS_PTRACE"} },
		"cap_drop: [NET_ADMIN]":         func(t *authz.Terms) { t.CapDrop = []string{"NET_ADMIN"} },
		"namespaces: [net, mnt]":        func(t *authz.Terms) { t.Namespaces = []string{"net", "mnt"} },
		"cgroup: target":                func(t *authz.Terms) { t.Cgroup = "target" },
		"cgroup: session":               func(*authz.Terms) {},
		"memory: 512M, pids: 100":       func(t *authz.Terms) { t.Memory, t.Pids = 512<<20, 100 },
		"memory: 16777216":              func(t *authz.Terms) { t.Memory = 16 << 20 },
		"namespaces: [mnt], host: true": func(t *authz.Terms) { t.Namespaces, t.Host = []string{"mnt"}, true },
		"seccomp: must":                 func(t *authz.Terms) { t.SeccompMust = true },
		"seccomp: may":                  func(*authz.Terms) {},
		"host: true":                    func(t *authz.Terms) { t.Host = true },
		"host: false":                   func(*authz.Terms) {},
	} {
		want := usual
		change(&want)
		policy := load(t, house[:strings.Index(house, "rules:")]+"rules:\n  - "+terms(text))
		got := policy.Decide(alice, authz.Request{Target: container("x"), Kind: authz.Shell})
		if !got.Allow || !reflect.DeepEqual(got.Terms, want) {
			t.Errorf("%s: %+v, want %+v", text, got.Terms, want)
		}
	}
}

func TestTheHostIsEnteredOnlyWhereARuleSaysSo(t *testing.T) {
	host := authz.Target{Runtime: "pid", ID: "4711", Host: true}
	for text, allow := range map[string]bool{"": false, "host: false": false, "host: true": true} {
		rule := `{name: r, who: ["*"], targets: [{runtime: pid}], allow: [shell], terms: {profile: wide, ` + text + "}}"
		policy := load(t, house[:strings.Index(house, "rules:")]+"rules:\n  - "+strings.Replace(rule, ", }", "}", 1))
		if got := policy.Decide(alice, authz.Request{Target: host, Kind: authz.Shell}); got.Allow != allow {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// terms is a rule with these.
func terms(text string) string {
	return `{name: r, who: ["*"], targets: [{name: x}], allow: [shell], terms: {` + text + "}}"
}

func TestNothingIsDenied(t *testing.T) {
	full := authz.Request{Target: container("toy"), Kind: authz.Shell}
	open := load(t, "people: {}\nrules: [{name: all, who: ['*'], targets: [{name: '*'}, {runtime: '*'}], allow: [shell, exec: [x]]}]")
	for name, got := range map[string]authz.Decision{
		"nil policy":     (*authz.Policy)(nil).Decide(alice, full),
		"zero policy":    new(authz.Policy).Decide(alice, full),
		"empty policy":   load(t, "people: {}\nrules: []").Decide(alice, full),
		"zero subject":   open.Decide(authz.Subject{}, full),
		"zero request":   open.Decide(alice, authz.Request{}),
		"zero target":    open.Decide(alice, authz.Request{Kind: authz.Shell}),
		"zero kind":      open.Decide(alice, authz.Request{Target: container("toy")}),
		"unknown kind":   open.Decide(alice, authz.Request{Target: container("toy"), Kind: "sftp"}),
		"zero of all":    new(authz.Policy).Decide(authz.Subject{}, authz.Request{}),
		"the zero value": {Why: "it denies"},
	} {
		if got.Allow || got.Argv != nil || got.Why == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if !open.Decide(alice, full).Allow {
		t.Error("the open policy is not open: the denials above mean nothing")
	}
	for _, p := range []*authz.Policy{nil, {}} {
		if who, ok := identify(p, parse(t, key(1))); ok || who.Person != "" {
			t.Errorf("%v knows %v", p, who)
		}
	}
}

func TestAPatternNeedsAllThatItMentions(t *testing.T) {
	for _, test := range []struct {
		pattern string
		target  authz.Target
		want    bool
	}{
		{`{name: "*"}`, container("x"), true},
		{`{name: "*"}`, container(""), false},
		{`{name: "*"}`, authz.Target{Runtime: "pid", ID: "1"}, false},
		{`{runtime: "*"}`, authz.Target{Runtime: "pid", ID: "1"}, true},
		{`{runtime: docker}`, authz.Target{Runtime: "pid", ID: "1"}, false},
		{`{image: "*"}`, authz.Target{Runtime: "pid", ID: "1"}, false},
		{`{image: "app:*"}`, container("x"), true},
		{`{image: "app"}`, container("x"), true},
		{`{image: "app:2"}`, container("x"), false},
		{`{labels: {a: "*"}}`, container("x"), false},
		{`{labels: {a: "*"}}`, container("x", "a="), true},
		{`{labels: {a: "*"}}`, container("x", "a=1"), true},
		{`{labels: {a: 1, b: "2*"}}`, container("x", "a=1", "b=23"), true},
		{`{labels: {a: 1, b: "2*"}}`, container("x", "a=1"), false},
		{`{labels: {A: 1}}`, container("x", "a=1"), false},
		{`{name: x, labels: {a: 1}}`, container("y", "a=1"), false},
		{`{name: "w?b"}`, container("wéb"), true},
		{`{name: 'a\*'}`, container("a*"), true},
		{`{name: 'a\*'}`, container("ab"), false},
	} {
		policy := load(t, "people: {}\nrules: [{name: r, who: ['*'], targets: ["+test.pattern+"], allow: [shell]}]")
		if got := policy.Decide(carol, authz.Request{Target: test.target, Kind: authz.Shell}); got.Allow != test.want {
			t.Errorf("%s on %+v: %+v", test.pattern, test.target, got)
		}
	}
}

func TestAWrongPolicyDoesNotLoad(t *testing.T) {
	const rest = "\nrules: []"
	rule := func(r string) string {
		return "people: {alice: {keys: [ALICE], groups: [sre]}}\nrules:\n  - " + r
	}
	for _, test := range []struct{ name, yaml, want string }{
		{"no key", "people: {alice: {groups: [sre]}}" + rest, "p:1:17: alice has no key"},
		{"empty keys", "people: {alice: {keys: []}}" + rest, "p:1:17: alice has no key"},
		{"garbage key", "people: {alice: {keys: [hello]}}" + rest, "p:1:25: not a public key"},
		{"only a type", "people: {alice: {keys: [ssh-ed25519]}}" + rest, "p:1:25: not a public key"},
		{"broken base64", "people: {alice: {keys: [ssh-ed25519 AA!A]}}" + rest, "p:1:25: a damaged key"},
		{"cut short", "people: {alice: {keys: [" + key(1)[:50] + "]}}" + rest, "p:1:25: a damaged key"},
		{"another type in front", "people: {alice: {keys: [ssh-rsa " + key(1)[12:] + "]}}" + rest, "p:1:25: a damaged key"},
		{"small RSA", "people: {alice: {keys: [" + rsaKey(2048) + "]}}" + rest, "p:1:25: an RSA key of 2048 bits, 3072 are the least: ssh-keygen -t ed25519"},
		{"DSA", "people: {alice: {keys: [ssh-dss AAAA]}}" + rest, "p:1:25: a DSA key"},
		{"certificate", "people: {alice: {keys: [ssh-ed25519-cert-v01@openssh.com AAAA]}}" + rest, "p:1:25: a certificate"},
		{"two keys in one", "people: {alice: {keys: ['ALICE BOB']}}" + rest, "p:1:25: more than one key"},
		{"private key", "people: {alice: {keys: ['-----BEGIN OPENSSH PRIVATE KEY-----']}}" + rest, "p:1:25: a private key"},
		{"one key, two people", "people:\n  bob: {keys: [BOB]}\n  alice: {keys: [ALICE, BOB x]}" + rest, "p:3:100: key is bob's already (line 2)"},
		{"one key twice", "people: {alice: {keys: [ALICE, ALICE]}}" + rest, "p:1:"},
		{"look-alike name", "people: {\"аlice\": {keys: [ALICE]}}" + rest, "p:1:10: \"аlice\" is no name"},
		{"name of a group", "people: {\"group:x\": {keys: [ALICE]}}" + rest, "is no name"},
		{"everyone as name", "people: {\"*\": {keys: [ALICE]}}" + rest, "is no name"},
		{"unknown key", "people: {alice: {kesy: [ALICE]}}" + rest, `p:1:18: unknown key "kesy" (did you mean "keys"?)`},

		{"empty rule", rule("{}"), "p:3:5: rule says nothing"},
		{"no name", rule(`{who: ["*"], targets: [{name: x}], deny: x}`), "p:3:5: rule has no name"},
		{"one name twice", rule("{name: a, who: ['*'], targets: [{name: x}], deny: x}\n  - {name: a, who: ['*'], targets: [{name: x}], deny: x}"), "p:4:12: rule a again (first in line 3)"},
		{"no who", rule(`{name: r, targets: [{name: x}], deny: x}`), `p:3:5: rule has no who: write who: ["*"]`},
		{"empty who", rule(`{name: r, who: [], targets: [{name: x}], deny: x}`), "p:3:5: rule has no who"},
		{"unknown person", rule(`{name: r, who: [alcie], targets: [{name: x}], deny: x}`), `p:3:21: unknown person "alcie" (did you mean "alice"?)`},
		{"unknown group", rule(`{name: r, who: ["group:srx"], targets: [{name: x}], deny: x}`), `p:3:21: nobody is in group "srx" (did you mean "sre"?)`},
		{"group without group:", rule(`{name: r, who: [sre], targets: [{name: x}], deny: x}`), `p:3:21: "sre" is a group: write group:sre`},
		{"pattern of people", rule(`{name: r, who: ["al*"], targets: [{name: x}], deny: x}`), `p:3:21: "al*": who knows no pattern but "*"`},
		{"no targets", rule(`{name: r, who: ["*"], deny: x}`), "p:3:5: rule has no targets"},
		{"empty targets", rule(`{name: r, who: ["*"], targets: [], deny: x}`), "p:3:5: rule has no targets"},
		{"target of nothing", rule(`{name: r, who: ["*"], targets: [{}], deny: x}`), "p:3:37: target says nothing"},
		{"labels of nothing", rule(`{name: r, who: ["*"], targets: [{labels: {}}], deny: x}`), "p:3:37: labels name none"},
		{"empty glob", rule(`{name: r, who: ["*"], targets: [{name: ""}], deny: x}`), "p:3:44: is empty"},
		{"half a backslash", rule(`{name: r, who: ["*"], targets: [{name: 'x\'}], deny: x}`), "p:3:44: ends in a backslash"},
		{"unknown runtime", rule(`{name: r, who: ["*"], targets: [{runtime: dokcer}], deny: x}`), `p:3:37: unknown runtime "dokcer" (did you mean "docker"?)`},
		{"neither", rule(`{name: r, who: ["*"], targets: [{name: x}]}`), "p:3:5: rule neither allows nor denies"},
		{"both", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [shell], deny: x}`), "p:3:71: rule both allows and denies"},
		{"terms of a denial", rule(`{name: r, who: ["*"], targets: [{name: x}], deny: x, terms: {profile: general}}`), "rule denies, and has terms"},
		{"empty allow", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: []}`), "allow names nothing"},
		{"empty permission", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [{}]}`), "p:3:57: allows nothing"},
		{"empty exec", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: []]}`), "p:3:57: allows nothing"},
		{"exec alone", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec]}`), `p:3:57: exec says nothing by itself: write exec: [`},
		{"unknown permission", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [shel]}`), `p:3:57: unknown permission "shel" (did you mean "shell"?)`},
		{"empty deny", rule(`{name: r, who: ["*"], targets: [{name: x}], deny: ""}`), "p:3:55: is empty"},
		{"deny: true", rule(`{name: r, who: ["*"], targets: [{name: x}], deny: true}`), "p:3:55: wants text, is true or false"},
		{"unknown profile", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [shell], terms: {profile: genral}}`), `p:3:82: unknown profile "genral" (did you mean "general"?)`},
		{"unknown image", rule(terms("image: ful")), `p:3:80: no tools image is called "ful" (did you mean "full"?)`},
		{"half a digest", rule(terms(`image: "sha256:0123"`)), `p:3:80: "sha256:0123" is no digest: that is sha256: and 64 hex digits, in lower case`},
		{"a digest in upper case", rule(terms(`image: "sha256:` + strings.Repeat("AB", 32) + `"`)), `AB" is no digest: that is`},
		{"a digest of unknown kind", rule(terms("image: " + strings.Repeat("ab", 32))), `p:3:80: a digest begins with its kind: write "sha256:abababab…"`},
		{"unknown capability", rule(terms("cap_add: [NET_ADMN]")), `p:3:83: unknown capability "NET_ADMN" (did you mean "NET_ADMIN"?)`},
		{"unknown namespace", rule(terms("namespaces: [network]")), `p:3:86: unknown namespace "network" (`},
		{"no namespace", rule(terms("namespaces: []")), "namespaces names none: leave it out for all"},
		{"unknown user", rule(terms("user: root")), "p:3:79: is nobody"},
		{"unknown cgroup", rule(terms("cgroup: targt")), `p:3:81: unknown cgroup "targt" (did you mean "target"?)`},
		{"unknown seccomp", rule(terms("seccomp: yes")), `unknown seccomp`},
		{"no size", rule(terms("memory: 5 GB")), `p:3:81: wants a size of 16M or more, such as 512M`},
		{"a size of nothing", rule(terms("memory: 0")), `wants a size of 16M or more, such as 512M`},
		{"a size out of this world", rule(terms("memory: 99999999999T")), `wants a size of 16M or more, such as 512M`},
		{"no number", rule(terms("pids: -1")), `p:3:79: wants a number from 1 to 4194303`},
		{"too little memory", rule(terms("memory: 1")), `wants a size of 16M or more`},
		{"the host's network", rule(terms("namespaces: [mnt]")), "p:3:85: leaves out net, which would be the host's then: say host: true if that is meant"},
		{"both added and dropped", rule(terms("cap_add: [net_admin], cap_drop: [NET_ADMIN]")), `p:3:83: NET_ADMIN is both added and dropped`},
		{"a filter where there is none", rule(terms("profile: wide, seccomp: must")), `profile wide has no seccomp filter`},
		{"half a host", rule(terms("host: yes")), `p:3:79: wants true or false`},
		{"image of a denial", rule(`{name: r, who: ["*"], targets: [{name: x}], deny: x, terms: {image: full}}`), "rule denies, and has terms"},
		{"exec of anything", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: ["* x"]]}`), `p:3:64: "*" is no program`},
		{"exec of nothing", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: [" "]]}`), "p:3:64: names no program"},
		{"exec by relative path", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: ["bin/x"]]}`), "p:3:64: \"bin/x\" is no program"},
		{"exec by ..", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: ["/bin/../x"]]}`), "is no program"},
		{"exec of an open quote", rule(`{name: r, who: ["*"], targets: [{name: x}], allow: [exec: ["x 'y"]]}`), "p:3:64: a ' without its second"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := read(fill(test.yaml))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got\n%v\nwant\n%s", err, test.want)
			}
			if p != nil {
				t.Error("there is a policy nevertheless")
			}
			if err != nil && strings.Contains(err.Error(), "BEGIN") {
				t.Error("the message repeats a private key")
			}
		})
	}
}

func TestAllIsWrongAtOnce(t *testing.T) {
	_, err := read(fill(`people:
  alice: {keys: [rubbish], groups: [sre]}
rules:
  - {name: r, who: [group:sre, bob], targets: [{name: x}], allow: [sftpd]}
  - {name: r, who: [alice], targets: [{runtime: lxc}], deny: x}
`))
	want := `p:2:18: not a public key: write the line of a .pub file, such as ssh-ed25519 AAAA…
p:4:32: unknown person "bob" (known: alice)
p:4:68: unknown permission "sftpd" (did you mean "sftp"?)
p:5:12: rule r again (first in line 4)
p:5:39: unknown runtime "lxc" (known: docker, pid)`
	if fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestAPersonIsKnownByEachOfTheirKeys(t *testing.T) {
	policy := load(t, "people: {alice: {keys: [ALICE, "+rsaKey(3072)+", "+ecdsaKey()+", "+skKey()+"], groups: [sre]}}\nrules: []")
	for _, k := range []string{key(1), rsaKey(3072), ecdsaKey(), skKey()} {
		who, ok := identify(policy, parse(t, k))
		want := alice
		want.Key, want.Hardware = authz.Key(parse(t, k).Marshal()), k == skKey()
		if !ok || !reflect.DeepEqual(who, want) {
			t.Errorf("%s: %+v, %v", k, who, ok)
		}
	}
	if who, ok := identify(policy, parse(t, key(2))); ok || who.Person != "" {
		t.Errorf("bob's key is %+v", who)
	}
	if _, ok := identify(policy, nil); ok {
		t.Error("no key is somebody's")
	}
	who, _ := identify(policy, parse(t, key(1)))
	who.Groups[0] = "root"
	if who, _ = identify(policy, parse(t, key(1))); who.Groups[0] != "sre" {
		t.Error("a caller changed the policy")
	}
}

// Whatever the policy and the question, a deny rule put first takes away, and
// never gives.
func TestADenyRulePutFirstNeverAllowsMore(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	target := func() string {
		return pick(`{name: "*"}`, `{name: "web-*"}`, `{name: web-1}`, `{labels: {env: prod}}`, `{runtime: pid}`, `{name: "*", labels: {env: "*"}}`)
	}
	who := func() string { return pick(`"*"`, "alice", "bob", "group:sre", "group:dba") }
	allowed := 0
	for range 300 {
		rules := ""
		for i := range 1 + random.IntN(6) {
			does := pick("allow: [shell]", "allow: [exec: [ps]]", "deny: no")
			rules += fmt.Sprintf("  - {name: r%d, who: [%s], targets: [%s], %s}\n", i, who(), target(), does)
		}
		people := house[:strings.Index(house, "rules:")]
		before := load(t, people+"rules:\n"+rules)
		after := load(t, people+"rules:\n"+fmt.Sprintf("  - {name: first, who: [%s], targets: [%s], deny: no}\n", who(), target())+rules)
		for _, s := range []authz.Subject{alice, bob, carol} {
			for _, c := range []authz.Target{container("web-1"), container("web-2", "env=prod"), container("db"), {Runtime: "pid", ID: "1"}} {
				for _, kind := range []authz.Kind{authz.Shell, authz.Exec} {
					request := authz.Request{Target: c, Kind: kind, Command: "ps"}
					was, is := before.Decide(s, request), after.Decide(s, request)
					if is.Allow && !was.Allow {
						t.Fatalf("%s on %v:\n%s\nbefore %+v\nafter %+v", s.Person, c, rules, was, is)
					}
					if was.Allow {
						allowed++
					}
				}
			}
		}
	}
	if allowed < 100 {
		t.Errorf("only %d of the questions were allowed at all", allowed)
	}
}

func TestANameIsShortAndPlain(t *testing.T) {
	long := strings.Repeat("a", 64)
	for text, want := range map[string]bool{
		"a": true, "7": true, "Alice.B_c-d+e@f": true, long: true,
		"": false, long + "a": false, "-a": false, ".a": false, "@a": false, "a b": false, "a\n": false, "a/b": false, "a\xff": false, "é": false,
	} {
		var n authz.Name
		if err := n.UnmarshalText([]byte(text)); (err == nil) != want || want && string(n) != text {
			t.Errorf("%q: %q, %v", text, n, err)
		}
	}
}

// The package decides and does nothing else: it could not look at a file, a
// socket or a clock if it wanted to.
func TestItIsPure(t *testing.T) {
	allowed := map[string]bool{"net": true, "net/netip": true, "time": true, "golang.org/x/crypto/ssh": true, "crypto/rsa": true,
		"github.com/cartsshd/cartsshd/internal/strictyaml": true}
	for _, std := range []string{"cmp", "encoding/base64", "errors", "fmt", "maps", "math", "path", "regexp", "slices", "strconv", "strings", "unicode/utf8"} {
		allowed[std] = true
	}
	pure := map[string]bool{"Parse": true, "Unix": true, "RFC3339": true, "Time": true, "Duration": true, "Location": true, "Weekday": true, "Date": true, "Second": true, "Minute": true, "Hour": true, "UTC": true}
	files, _ := filepath.Glob("*.go")
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); !allowed[path] {
				t.Errorf("%s imports %s", file, path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && fmt.Sprint(s.X) == "time" && !pure[s.Sel.Name] {
				t.Errorf("%s uses time.%s", file, s.Sel.Name)
			}
			return true
		})
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(house))
	f.Add([]byte(fill(house)))
	f.Add([]byte("people: {}\nrules: [{name: r, who: ['*'], targets: [{name: '*'}], allow: [shell, exec: ['x *']]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		policy, err := read(string(data))
		if (policy == nil) != (err != nil) {
			t.Fatalf("%v and %v", policy, err)
		}
		if policy.Decide(authz.Subject{}, authz.Request{Target: container("x"), Kind: authz.Shell}).Allow {
			t.Fatal("nobody may enter")
		}
		policy.Decide(alice, authz.Request{Target: container("x"), Kind: authz.Exec, Command: string(data)})
	})
}

func BenchmarkDecide(b *testing.B) {
	policy, err := read(large(1_000, 10_000))
	if err != nil {
		b.Fatal(err)
	}
	who := authz.Subject{Person: "p999", Groups: []string{"g9", "on-call", "everyone-else"}}
	last := authz.Request{Target: container("web-9999-x", "env=prod"), Kind: authz.Exec, Command: "/dev/crashcart/bin/tcpdump -i eth0"}
	if got := policy.Decide(who, last); got.Rule != "r9999" || !got.Allow {
		b.Fatalf("%+v", got)
	}
	for b.Loop() {
		policy.Decide(who, last)
	}
}

func BenchmarkLoad(b *testing.B) {
	text := large(1_000, 10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := read(text); err != nil {
			b.Fatal(err)
		}
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

func identify(p *authz.Policy, key ssh.PublicKey) (authz.Subject, bool) {
	who, err := p.Identify(authz.Credential{Key: key})
	return who, err == nil
}

type document struct {
	People      authz.People      `yaml:"people"`
	Groups      authz.Groups      `yaml:"groups"`
	Authorities authz.Authorities `yaml:"authorities"`
	Rules       authz.Rules       `yaml:"rules"`
	Tests       authz.Tests       `yaml:"tests"`
}

var known = authz.Known{Profiles: []string{"general", "wide"}, Runtimes: []string{"docker", "pid"}, Images: []string{"full", "small"},
	Capabilities: []string{"NET_ADMIN", "SYS_PTRACE"}, Namespaces: []string{"mnt", "net", "cgroup"}, Unconfined: []string{"wide"},
	User: func(s string) error {
		if s != "1000:27" {
			return errors.New("is nobody")
		}
		return nil
	}}

// read reads a policy as config does.
func read(text string) (*authz.Policy, error) { return readBeside(text, nil) }

// readBeside reads one that may name these files. A list of what was revoked has
// the key IDs of certificates.
func readBeside(text string, files map[string]string) (*authz.Policy, error) {
	var d document
	known := known
	known.Read = func(path string) ([]byte, error) {
		if data, ok := files[path]; ok {
			return []byte(data), nil
		}
		return nil, fmt.Errorf("%s: no such file", path)
	}
	known.Revoked = revoked
	unread := strictyaml.Decode("p", []byte(text), &d)
	policy, unwise := authz.New(authz.Document{People: d.People, Groups: d.Groups, Authorities: d.Authorities, Rules: d.Rules, Tests: d.Tests}, known)
	if err := strictyaml.Join(unread, unwise); err != nil {
		return nil, err
	}
	return policy, nil
}

func revoked(name string, data []byte) (func(ssh.PublicKey) string, error) {
	if string(data) == "rubbish" {
		at := strictyaml.Pos{File: name, Line: 1, Column: 1}
		return nil, strictyaml.Problems{at.Problemf("no list")}
	}
	return func(key ssh.PublicKey) string {
		if cert, ok := key.(*ssh.Certificate); ok && slices.Contains(strings.Fields(string(data)), cert.KeyId) {
			return "revoked by test"
		}
		return ""
	}, nil
}

func load(t testing.TB, text string) *authz.Policy {
	t.Helper()
	policy, err := read(fill(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return policy
}
