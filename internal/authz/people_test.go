package authz_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
)

var noon = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// quoted is text as a value of YAML.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

func TestOptionsOfAKeyBindIt(t *testing.T) {
	for options, want := range map[string]authz.Bounds{
		"":                                   {},
		"no-pty ":                            {NoPTY: true},
		"no-port-forwarding ":                {NoForwarding: true},
		"no-agent-forwarding ":               {NoAgent: true},
		"No-PTY,No-X11-Forwarding ":          {NoPTY: true},
		"no-user-rc,user-rc,X11-forwarding ": {},
		"restrict\t":                         {NoPTY: true, NoForwarding: true, NoAgent: true},
		"restrict,pty ":                      {NoForwarding: true, NoAgent: true},
		"pty,restrict  ":                     {NoPTY: true, NoForwarding: true, NoAgent: true},
		"restrict,port-forwarding,agent-forwarding ": {NoPTY: true},
		`command="ps aux" `:                          {Command: "ps aux"},
		`command="echo \"a, b\" c",no-pty `:          {Command: `echo "a, b" c`, NoPTY: true},
		`command="printf '\n' #ssh-ed25519 AAAA" `:   {Command: `printf '\n' #ssh-ed25519 AAAA`},
	} {
		policy := load(t, "people: {alice: {keys: ["+quoted(options+"ALICE alice, at home")+"]}}\nrules: []")
		who, err := policy.Identify(authz.Credential{Key: parse(t, key(1))})
		if err != nil || who.Bounds != want {
			t.Errorf("%q: %+v, %v", options, who.Bounds, err)
		}
		if first := policy.People()[0]; first.Bounds != want || first.Key != who.Key {
			t.Errorf("%q: by their first key: %+v", options, first)
		}
	}
}

func TestOptionsThatCannotBeKeptAreRefused(t *testing.T) {
	for options, want := range map[string]string{
		"cert-authority":                    `option "cert-authority" is for keys that sign others: write it below authorities`,
		`principals="a"`:                    `option "principals" is for keys that sign others`,
		`environment="A=b"`:                 `option "environment" is not served: take it out`,
		`permitopen="x:1"`:                  `option "permitopen" is not served: say in a rule's allow`,
		`permitlisten="1"`:                  `option "permitlisten" is not served`,
		`tunnel="0"`:                        `option "tunnel" is not served`,
		"verify-required":                   `option "verify-required" cannot be checked: whether a token asked for its PIN`,
		"no-touch-required":                 `option "no-touch-required" is not served: a token must be touched`,
		"no-ptty":                           `option "no-ptty" is not known`,
		"no-pty,":                           `option "" is not known`,
		",":                                 `option "" is not known`,
		"restrict,frobnicate":               `option "frobnicate" is not known`,
		"no-command":                        `option "no-command" is not known`,
		`no-pty="yes"`:                      `option "no-pty" has no value`,
		"command":                           `option "command" wants its value in double quotes`,
		"command=ps":                        `option "command" wants its value in double quotes`,
		`command="ps"x`:                     `option "command" wants its value in double quotes`,
		`command="p"s"x"`:                   `option "command" has a quote in its value`,
		`command=" "`:                       `option "command" names no command`,
		`command="a",command="b"`:           `option command is there twice`,
		`from="10.0.0.1",from="10.0.0.2"`:   `option from is there twice`,
		`from=""`:                           `option "from" "" wants an address or a network`,
		`from="db.example.com"`:             `option "from" "db.example.com" wants an address or a network, such as 10.0.0.0/8 or 2001:db8::/32; names of hosts are not looked up`,
		`from="*.example.com"`:              `"*.example.com" wants an address`,
		`from="*.cafe.de"`:                  `"*.cafe.de" wants an address`,
		`from="10.0.0.1, 10.0.0.2"`:         `" 10.0.0.2" wants an address`,
		`from="10.0.0.1/8"`:                 `has bits beyond its mask`,
		`from="10.0.0.1,!"`:                 `option "from" "" wants an address`,
		`expiry-time="20270131"`:            `option "expiry-time" wants YYYYMMDDZ or`,
		`expiry-time="202701311200"`:        `option "expiry-time" wants YYYYMMDDZ or`,
		`expiry-time="2027-01-31"`:          `option "expiry-time" wants YYYYMMDDZ or`,
		`expiry-time="20270230Z"`:           `option "expiry-time" wants YYYYMMDDZ or`,
		`command="ps`:                       `a quote before the key is never closed`,
		`expiry-time="20270131Z",no-pty=""`: `option "no-pty" has no value`,
	} {
		p, err := read(fill("people: {alice: {keys: [" + quoted(options+" ALICE") + "]}}\nrules: []"))
		if p != nil || err == nil || !strings.HasPrefix(err.Error(), "p:1:25: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", options, err)
		}
	}
	for line, want := range map[string]string{
		"no-pty ssh-dss AAAA":              "a DSA key",
		"no-pty " + rsaKey(2048):           "an RSA key of 2048 bits",
		"no-pty":                           "not a public key",
		"no-pty ALICE BOB":                 "more than one key",
		"no-pty no-user-rc ALICE":          "options before a key are not read: begin with ssh-ed25519",
		"no-pty -----BEGIN OPENSSH SECRET": "a private key",
	} {
		_, err := read(fill("people: {alice: {keys: [" + quoted(line) + "]}}\nrules: []"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestAKeyIsForUseFromWhereItsOptionSays(t *testing.T) {
	for _, test := range []struct {
		from string
		yes  []string
		no   []string
	}{
		{"10.0.0.0/8", []string{"10.1.2.3", "::ffff:10.1.2.3"}, []string{"11.0.0.1", "::1", ""}},
		{"10.0.0.1", []string{"10.0.0.1"}, []string{"10.0.0.2", "10.0.0.10"}},
		{"192.168.?.*,2001:db8::/32", []string{"192.168.7.200", "2001:db8::1"}, []string{"192.168.10.1", "2001:db9::1"}},
		{"!10.0.0.13,10.0.0.0/8", []string{"10.0.0.12"}, []string{"10.0.0.13", "1.2.3.4"}},
		{"10.0.0.0/8,!10.0.0.13", []string{"10.0.0.12"}, []string{"10.0.0.13"}},
		{"!10.0.0.13", nil, []string{"10.0.0.13", "10.0.0.12", ""}},
		{"*", []string{"10.0.0.13", "::1"}, []string{""}},
		{"fe80::*", []string{"fe80::1"}, []string{"fe81::1"}},
	} {
		policy := load(t, "people: {alice: {keys: ['from=\""+test.from+"\" ALICE', BOB]}}\nrules: []")
		for want, list := range map[bool][]string{true: test.yes, false: test.no} {
			for _, text := range list {
				from, _ := netip.ParseAddr(text)
				who, err := policy.Identify(authz.Credential{Key: parse(t, key(1)), From: from})
				if (err == nil) != want || (who.Person == "alice") != want {
					t.Errorf("%s: from %q: %+v, %v", test.from, text, who, err)
				}
				if err != nil && !strings.Contains(err.Error(), "is alice's key, and not for use from ") {
					t.Error(err)
				}
				if _, err := policy.Identify(authz.Credential{Key: parse(t, key(2)), From: from}); err != nil {
					t.Errorf("the other key: %v", err)
				}
			}
		}
	}
}

func TestAPersonEndsAtTheSecond(t *testing.T) {
	for _, test := range []struct{ options, notAfter, last, over string }{
		{"", "2027-01-31", "2027-01-31T23:59:59Z", "2027-02-01T00:00:00Z"},
		{"", "2028-02-29", "2028-02-29T23:59:59Z", "2028-03-01T00:00:00Z"},
		{"", "2027-01-31T18:00:00Z", "2027-01-31T17:59:59Z", "2027-01-31T18:00:00Z"},
		{"", "2027-01-31T18:00:00+01:00", "2027-01-31T16:59:59Z", "2027-01-31T17:00:00Z"},
		{`expiry-time="20270131Z" `, "", "2027-01-30T23:59:59Z", "2027-01-31T00:00:00Z"},
		{`expiry-time="202701311200Z" `, "", "2027-01-31T11:59:59Z", "2027-01-31T12:00:00Z"},
		{`expiry-time="20270131120001Z" `, "", "2027-01-31T12:00:00Z", "2027-01-31T12:00:01Z"},
		{`expiry-time="20270131120001Z" `, "2027-01-30", "2027-01-30T23:59:59Z", "2027-01-31T00:00:00Z"},
		{`expiry-time="20270129Z" `, "2027-01-30", "2027-01-28T23:59:59Z", "2027-01-29T00:00:00Z"},
	} {
		person := "keys: [" + quoted(test.options+"ALICE") + "]"
		if test.notAfter != "" {
			person += ", not_after: " + test.notAfter
		}
		policy := load(t, "people: {alice: {"+person+"}}\nrules: [{name: r, who: [alice], targets: [{name: x}], allow: [shell]}]")
		last, over := instant(t, test.last), instant(t, test.over)
		who, err := policy.Identify(authz.Credential{Key: parse(t, key(1)), Time: last})
		if err != nil || !who.Until.Equal(over) {
			t.Errorf("%+v: until %v, %v", test, who.Until, err)
		}
		_, err = policy.Identify(authz.Credential{Key: parse(t, key(1)), Time: over})
		if err == nil || !strings.HasSuffix(err.Error(), " was alice's key until "+test.over) {
			t.Errorf("%+v: %v", test, err)
		}
		if _, err := policy.Identify(authz.Credential{Key: parse(t, key(1))}); err == nil {
			t.Errorf("%+v: who tells no time is let in", test)
		}
		request := authz.Request{Target: container("x"), Kind: authz.Shell, Time: last}
		if got := policy.Decide(who, request); !got.Allow {
			t.Errorf("%+v: %+v", test, got)
		}
		request.Time = over
		if got := policy.Decide(who, request); got.Allow || got.Why != "alice is nobody since "+test.over {
			t.Errorf("%+v: %+v", test, got)
		}
	}
}

func TestAPersonMayHaveAFileOfKeys(t *testing.T) {
	files := map[string]string{
		"/keys/alice": "# alice's\n\nno-pty " + key(1) + " laptop\r\n  " + skKey() + "\n",
		"/keys/more":  key(2),
		"/keys/empty": "# gone\n",
	}
	policy, err := readBeside(fill(`
people:
  alice: {authorized_keys: [/keys/alice, /keys/more], groups: [sre], totp: /secrets/alice}
  bob: {keys: [CAROL], authorized_keys: /keys/empty}
  carol: {authorized_keys: /keys/empty}
rules: []
`), files)
	if err != nil {
		t.Fatal(err)
	}
	laptop, _ := policy.Identify(authz.Credential{Key: parse(t, key(1)), Time: noon})
	want := authz.Subject{Person: "alice", Groups: []string{"sre"}, TOTP: "/secrets/alice", Known: true, Key: authz.Key(parse(t, key(1)).Marshal()), Bounds: authz.Bounds{NoPTY: true}}
	if !reflect.DeepEqual(laptop, want) {
		t.Errorf("got %+v\nwant %+v", laptop, want)
	}
	token, _ := policy.Identify(authz.Credential{Key: parse(t, skKey()), Time: noon})
	if token.Person != "alice" || !token.Hardware || token.Bounds.NoPTY {
		t.Errorf("with a token: %+v", token)
	}
	if who, _ := identify(policy, parse(t, key(2))); who.Person != "alice" {
		t.Errorf("by the second file: %+v", who)
	}
	if who, _ := identify(policy, parse(t, key(3))); who.Person != "bob" || who.TOTP != "" {
		t.Errorf("bob: %+v", who)
	}
	if carol, ok := policy.Subject("carol"); !ok || carol.Key != "" {
		t.Errorf("whose file has no keys: %+v, %v", carol, ok)
	}
}

func TestABadLineOfAFileIsAProblemThere(t *testing.T) {
	files := map[string]string{
		"/keys/alice": key(1) + "\n\nrubbish\nverify-required " + skKey() + "\n",
		"/keys/bob":   "ssh-dss AAAA\n" + key(1) + "\n" + key(3),
	}
	_, err := readBeside(fill(`people:
  alice: {authorized_keys: /keys/alice}
  bob: {authorized_keys: [/keys/bob, /keys/none]}
  carol: {keys: [CAROL]}
  dora: {authorized_keys: []}
  eve: {authorized_keys: [[x]], not_after: tomorrow, totp: [x]}
rules: []
`), files)
	want := `p:3:38: /keys/none: no such file
p:4:18: key is bob's already (/keys/bob:3): a key is one person's, once
p:5:27: names no file: take it out
p:6:27: wants text, is a list
p:6:44: wants a date, such as 2027-01-31, or a time, such as 2027-01-31T18:00:00Z
p:6:60: wants text, is a list
/keys/alice:3:1: not a public key: write the line of a .pub file, such as ssh-ed25519 AAAA…
/keys/alice:4:1: option "verify-required" cannot be checked: whether a token asked for its PIN is not told here. Take it out, and make the key with ssh-keygen -O verify-required
/keys/bob:1:1: a DSA key, which is not safe any more: ssh-keygen -t ed25519 makes a better one
/keys/bob:2:1: key is alice's already (/keys/alice:1): a key is one person's, once`
	if fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestGroupsMayBeInGroups(t *testing.T) {
	policy := load(t, `
people:
  alice: {keys: [ALICE], groups: [sre]}
  bob: {keys: [BOB], groups: [dba, intern]}
  carol: {keys: [CAROL]}
groups:
  everyone: [oncall, intern]
  oncall: [sre, dba]
  data: [dba]
rules:
  - {name: r, who: [group:oncall], targets: [{name: x}], allow: [shell]}
tests:
  - {who: alice, target: {name: x}, allow: true}
  - {who: bob, target: {name: x}, allow: true}
  - {who: carol, target: {name: x}, deny: true}
  - {who: "principal:ci", groups: [dba], target: {name: x}, allow: true}
  - {who: "principal:ci", groups: [intern], target: {name: x}, deny: true}
`)
	for n, want := range map[int][]string{1: {"sre", "oncall", "everyone"}, 2: {"dba", "intern", "oncall", "data", "everyone"}, 3: nil} {
		if who, _ := identify(policy, parse(t, key(n))); !reflect.DeepEqual(who.Groups, want) {
			t.Errorf("%s is in %v, want %v", who.Person, who.Groups, want)
		}
	}
}

func TestWrongGroupsDoNotLoad(t *testing.T) {
	long := "a0: [sre, a1]"
	for i := 1; i < 20; i++ {
		long += fmt.Sprintf(", a%d: [a%d]", i, (i+1)%20)
	}
	for groups, want := range map[string]string{
		"a: [sre, a]":                "p:2:19: group a is in itself: a > a",
		"a: [b, sre], b: [a]":        "p:2:27: group a is in itself: a > b > a",
		"a: [b], b: [c], c: [b]":     "p:2:30: group b is in itself: b > c > b",
		"sre: [sre]":                 "p:2:16: group sre is in itself: sre > sre",
		"a: [a], b: [b]":             "p:2:14: group a is in itself: a > a\np:2:22: group b is in itself: b > b",
		long:                         "group a0 is in itself: a0 > a1 > a2 > a3 > … > a18 > a19 > a0",
		"a: [sra]":                   `p:2:14: nobody is in group "sra" (did you mean "sre"?)`,
		"a: [alice]":                 "p:2:14: alice is a person: groups of theirs stand with them, groups: [a]",
		"a: []":                      "p:2:13: group a has no members",
		"a: sre":                     "p:2:13: wants a list, is text: put it in [ ]",
		"a: [group:sre]":             `p:2:14: "group:sre" is no name`,
		"аlice: [sre]":               `p:2:10: "аlice" is no name`,
		"a: [ѕre]":                   `p:2:14: "ѕre" is no name`,
		"a: [sre], a: [sre]":         `key "a" again`,
		"oncall: [sre], o: [oncal1]": `p:2:29: nobody is in group "oncal1" (did you mean "oncall"?)`,
	} {
		p, err := read(fill("people: {alice: {keys: [ALICE], groups: [sre]}}\ngroups: {" + groups + "}\nrules: []"))
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", groups, err)
		}
	}
}

func FuzzKeyLine(f *testing.F) {
	for _, seed := range []string{"ALICE", `restrict,command="ps \"x\"",from="10.0.0.0/8,!10.1.*" ALICE x`, `expiry-time="20270131Z" ` + skKey(), `a="`, `\"`, ",,"} {
		f.Add(fill(seed))
	}
	f.Fuzz(func(t *testing.T, text string) {
		var l authz.KeyLine
		if err := l.UnmarshalText([]byte(text)); (err == nil) != (l.Key != "") {
			t.Fatalf("%q: %v, %q", text, err, l.Key)
		}
	})
}
