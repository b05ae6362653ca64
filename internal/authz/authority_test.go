package authz_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// signer has the private half of key(n).
func signer(t testing.TB, n int) ssh.Signer {
	t.Helper()
	seed := sha256.Sum256(fmt.Append(nil, n))
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The authorities of certificates are the keys of these numbers.
const (
	corp     = 7
	partner  = 8
	stranger = 9
)

const certified = `
people:
  alice: {keys: [ALICE], groups: [lead], totp: /secrets/alice}
  bob: {not_after: 2027-01-15}
  dora: {keys: [BOB]}
groups: {oncall: [sre]}
authorities:
  - ca: CORP
    principals:
      "*@corp": {groups: [from-cert, sre]}
      "sre-*": {groups: [sre, night]}
      "alice@corp": {person: alice}
      "bob": {person: bob}
      "dora": {}
      "аlice@corp*": {groups: [night]}
    revoked: /revoked
  - {ca: PARTNER, principals: {"*@partner": {groups: [guest]}}, revoked: [/revoked, /more]}
rules:
  - {name: r, who: [alice], targets: [{name: x}], allow: [shell]}
  - {name: d, who: [dora], targets: [{name: x}], allow: [shell]}
  - {name: p, who: ["principal:*@corp"], targets: [{name: y}], allow: [shell]}
`

func certifying(t *testing.T) *authz.Policy {
	t.Helper()
	policy, err := readBeside(fillCA(certified), map[string]string{"/revoked": "lost stolen", "/more": "gone"})
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func fillCA(policy string) string {
	return fill(strings.NewReplacer("CORP", key(corp), "PARTNER", key(partner)).Replace(policy))
}

// certificate is one that corp signed for the key 20, for an hour around noon.
func certificate(t testing.TB, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	return signedBy(t, signer(t, corp), change)
}

func signedBy(t testing.TB, ca ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: parse(t, key(20)), Serial: 7, CertType: ssh.UserCert, KeyId: "ci 7",
		ValidPrincipals: []string{"ci@corp"},
		ValidAfter:      uint64(noon.Add(-time.Hour).Unix()), ValidBefore: uint64(noon.Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{
			CriticalOptions: map[string]string{},
			Extensions:      map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-X11-forwarding": "", "permit-user-rc": ""},
		},
	}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return received(t, cert)
}

// received is what comes of a certificate on its way.
func received(t testing.TB, cert *ssh.Certificate) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(cert.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func credential(cert *ssh.Certificate) authz.Credential {
	return authz.Credential{Key: cert, From: netip.MustParseAddr("10.1.2.3"), Time: noon}
}

func TestACertificateIsSomebody(t *testing.T) {
	policy := certifying(t)
	got, err := policy.Identify(credential(certificate(t, nil)))
	want := authz.Subject{
		Person: "ci@corp", Principals: []string{"ci@corp"}, Groups: []string{"from-cert", "sre", "oncall"},
		Key:         authz.Key(parse(t, key(20)).Marshal()),
		Certificate: &authz.Certificate{KeyID: "ci 7", Serial: 7, Authority: ssh.FingerprintSHA256(parse(t, key(corp)))},
		Until:       noon.Add(time.Hour),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestEachFaultOfACertificateKeepsItsHolderOut(t *testing.T) {
	policy := certifying(t)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := ssh.NewPublicKey(&small.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	critical := func(name, value string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.CriticalOptions[name] = value }
	}
	principals := func(names ...string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.ValidPrincipals = names }
	}
	id := func(id string) func(*ssh.Certificate) { return func(c *ssh.Certificate) { c.KeyId = id } }
	many := make([]string, 257)
	for i := range many {
		many[i] = "ci@corp"
	}
	for _, test := range []struct {
		name   string
		change func(*ssh.Certificate)
		want   string
	}{
		{"none", nil, ""},
		{"of a host", func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, "not a certificate for users"},
		{"of no type", func(c *ssh.Certificate) { c.CertType = 0 }, "not a certificate for users"},
		{"no principals", principals(), "has no principals, and would be everybody's"},
		{"many principals", principals(many...), "has 257 principals, and 256 are the most"},
		{"most principals", principals(many[:256]...), ""},
		{"not its authority's principal", principals("ci@partner"), `may not speak for any of its principals: ["ci@partner"]`},
		{"empty principal", principals(""), "may not speak for any"},
		{"another case", principals("ci@CORP"), "may not speak for any"},
		{"look-alike principal", principals("аlice@corp"), `may not speak for any of its principals: ["аlice@corp"]`},
		{"principal with a control character", principals("ci\x1b[2J@corp"), "may not speak for any"},
		{"principal with a blank", principals("ci @corp"), "may not speak for any"},
		{"long principal", principals(strings.Repeat("c", 252) + "@corp"), "may not speak for any"},
		{"long enough principal", principals(strings.Repeat("c", 251) + "@corp"), ""},
		{"two people", principals("alice@corp", "bob"), "its principals are two people: alice and bob"},
		{"weak key", func(c *ssh.Certificate) { c.Key = weak }, "an RSA key of 2048 bits, 3072 are the least"},
		{"not yet valid", func(c *ssh.Certificate) { c.ValidAfter = uint64(noon.Unix()) + 1 }, "not valid before 2027-01-15T12:00:01Z"},
		{"valid right now", func(c *ssh.Certificate) { c.ValidAfter = uint64(noon.Unix()) }, ""},
		{"valid in another age", func(c *ssh.Certificate) { c.ValidAfter = math.MaxUint64 }, "not valid before the year 10000"},
		{"over right now", func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Unix()) }, "not valid since 2027-01-15T12:00:00Z"},
		{"over in a second", func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Unix()) + 1 }, ""},
		{"over before it began", func(c *ssh.Certificate) { c.ValidBefore = 0 }, "not valid since 1970-01-01T00:00:00Z"},
		{"always valid", func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 0, ssh.CertTimeInfinity }, ""},
		{"beyond signed numbers", func(c *ssh.Certificate) { c.ValidBefore = 1 << 63 }, "cert has expired"},
		{"unknown critical option", critical("x@y", ""), `has the critical option "x@y", which is not known`},
		{"no-touch-required as one", critical("no-touch-required", ""), `has the critical option "no-touch-required", which is not known`},
		{"verify-required", critical("verify-required", ""), "asks for verify-required, and whether a token asked for its PIN is not told here"},
		{"force-command", critical("force-command", "ps"), ""},
		{"force-command of nothing", critical("force-command", ""), "its force-command names no command"},
		{"source-address", critical("source-address", "192.168.0.0/16,10.1.2.3"), ""},
		{"another source-address", critical("source-address", "10.1.2.4,2001:db8::/32"), "for use from 10.1.2.4,2001:db8::/32, and not from 10.1.2.3"},
		{"source-address of nothing", critical("source-address", ""), `its source-address has "", which is no network`},
		{"source-address of a host", critical("source-address", "10.0.0.0/8,host"), `its source-address has "host", which is no network`},
		{"source-address with bits beyond its mask", critical("source-address", "10.1.2.3/8"), `its source-address has "10.1.2.3/8", which is no network`},
		{"source-address with a !", critical("source-address", "!1.2.3.4"), "which is no network"},
		{"revoked", id("stolen"), "revoked by test"},
		{"revoked elsewhere", id("gone"), ""},
		{"of a person who left", principals("bob"), ""},
	} {
		cert := certificate(t, test.change)
		who, err := policy.Identify(credential(cert))
		if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), fmt.Sprintf("certificate %q, serial number 7: ", cert.KeyId)) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %+v, %v", test.name, who, err)
		}
		if err != nil && !reflect.DeepEqual(who, authz.Subject{}) {
			t.Errorf("%s: is %+v nevertheless", test.name, who)
		}
	}
}

func TestOnlyAnAuthoritysOwnSignatureIsBelieved(t *testing.T) {
	policy := certifying(t)
	refused := func(name string, cert *ssh.Certificate, want string) {
		t.Helper()
		if who, err := policy.Identify(credential(cert)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	refused("a stranger's", signedBy(t, signer(t, stranger), nil), "signed by "+ssh.FingerprintSHA256(parse(t, key(stranger)))+", which is no authority here")
	refused("a person's", signedBy(t, signer(t, 1), nil), "which is no authority here")
	refused("another authority's principal", signedBy(t, signer(t, partner), nil), "may not speak for any of its principals")
	refused("revoked in the second list", signedBy(t, signer(t, partner), func(c *ssh.Certificate) { c.ValidPrincipals, c.KeyId = []string{"x@partner"}, "gone" }), "revoked by test")

	forged := signedBy(t, signer(t, stranger), nil)
	forged.SignatureKey = parse(t, key(corp))
	refused("forged", received(t, forged), "certificate signature does not verify")
	changed := certificate(t, nil)
	changed.ValidPrincipals = []string{"alice@corp"}
	refused("changed", received(t, changed), "certificate signature does not verify")
	swapped := certificate(t, nil)
	swapped.Key = parse(t, key(21))
	refused("with another key", received(t, swapped), "certificate signature does not verify")
	for _, empty := range []*ssh.Certificate{{}, {Key: parse(t, key(20))}, {Key: parse(t, key(20)), SignatureKey: parse(t, key(corp))}} {
		refused("empty", empty, "a certificate without a key, or without a signature")
	}
	timeless := credential(certificate(t, nil))
	timeless.Time = time.Time{}
	if _, err := policy.Identify(timeless); err == nil || !strings.Contains(err.Error(), "the time is not known") {
		t.Errorf("at no time: %v", err)
	}
	nowhere := credential(certificate(t, func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "0.0.0.0/0" }))
	nowhere.From = netip.Addr{}
	if _, err := policy.Identify(nowhere); err == nil || !strings.Contains(err.Error(), "and not from nowhere known") {
		t.Errorf("from nowhere: %v", err)
	}
	for _, p := range []*authz.Policy{nil, {}} {
		if _, err := p.Identify(credential(certificate(t, nil))); err == nil {
			t.Errorf("%v believes a certificate", p)
		}
	}
}

func TestASignatureWithSHA1IsNotBelieved(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	policy := load(t, `{people: {}, rules: [], authorities: [{ca: `+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ca.PublicKey())))+`, principals: {"*": {}}}]}`)
	for algorithm, want := range map[string]bool{ssh.KeyAlgoRSA: false, ssh.KeyAlgoRSASHA256: true, ssh.KeyAlgoRSASHA512: true} {
		signer, err := ssh.NewSignerWithAlgorithms(ca.(ssh.AlgorithmSigner), []string{algorithm})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Identify(credential(signedBy(t, signer, nil))); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "signed with SHA-1") {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestACertificateEndsAtTheSecond(t *testing.T) {
	policy := certifying(t)
	for _, test := range []struct {
		principal  string
		from, over time.Time
	}{
		{"ci@corp", noon.Add(-time.Hour), noon.Add(time.Hour)},
		{"bob", noon.Add(-time.Hour), noon.Add(time.Hour)},
		{"bob", noon.Add(-time.Hour), noon.Add(12 * time.Hour)}, // bob himself ends at midnight
	} {
		cert := certificate(t, func(c *ssh.Certificate) {
			c.ValidPrincipals, c.ValidBefore = []string{test.principal}, uint64(test.over.Unix())
			if test.over.Hour() == 0 {
				c.ValidBefore += 3600
			}
		})
		for at, want := range map[time.Time]bool{
			test.from.Add(-time.Second): false, test.from.Add(-time.Nanosecond): false, test.from: true,
			test.over.Add(-time.Second): true, test.over.Add(-time.Nanosecond): true, test.over: false, test.over.Add(time.Second): false,
		} {
			who, err := policy.Identify(authz.Credential{Key: cert, Time: at})
			if (err == nil) != want || err == nil && !who.Until.Equal(test.over) {
				t.Errorf("%s at %v: until %v, %v", test.principal, at, who.Until, err)
			}
		}
	}
	endless := certificate(t, func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity })
	if who, err := policy.Identify(credential(endless)); err != nil || !who.Until.IsZero() {
		t.Errorf("endless: until %v, %v", who.Until, err)
	}
}

func TestPrincipalsAreWhatTheirAuthorityMaySpeakFor(t *testing.T) {
	policy := certifying(t)
	for _, test := range []struct {
		principals, person, kept, groups string
		known                            bool
		totp                             string
	}{
		{"ci@corp", "ci@corp", "ci@corp", "from-cert sre oncall", false, ""},
		{"root ci@corp ci@partner", "ci@corp", "ci@corp", "from-cert sre oncall", false, ""},
		{"sre-7 ci@corp sre-7", "sre-7", "sre-7 ci@corp", "sre night oncall from-cert", false, ""},
		{"ci@corp alice@corp", "alice", "ci@corp alice@corp", "lead from-cert sre oncall", true, "/secrets/alice"},
		{"alice@corp", "alice", "alice@corp", "lead from-cert sre oncall", true, "/secrets/alice"},
		{"dora", "dora", "dora", "", false, ""}, // like a person of that name, and not her
		{"bob bob", "bob", "bob", "", true, ""},
	} {
		who, err := policy.Identify(credential(certificate(t, func(c *ssh.Certificate) { c.ValidPrincipals = strings.Fields(test.principals) })))
		if err != nil || who.Person != test.person || strings.Join(who.Principals, " ") != test.kept || strings.Join(who.Groups, " ") != test.groups || who.Known != test.known || who.TOTP != test.totp {
			t.Errorf("%s: %+v, %v", test.principals, who, err)
		}
	}
}

func TestAPrincipalIsNoPersonOfItsNameUnlessThePolicySaysSo(t *testing.T) {
	policy := certifying(t)
	for principal, want := range map[string][2]bool{"alice@corp": {true, true}, "dora": {false, false}, "ci@corp": {false, true}} {
		who, err := policy.Identify(credential(certificate(t, func(c *ssh.Certificate) { c.ValidPrincipals = []string{principal} })))
		if err != nil {
			t.Fatal(err)
		}
		x := policy.Decide(who, authz.Request{Target: container("x"), Kind: authz.Shell, Time: noon})
		y := policy.Decide(who, authz.Request{Target: container("y"), Kind: authz.Shell, Time: noon})
		if got := [2]bool{x.Allow, y.Allow}; got != want {
			t.Errorf("%s: %v: %+v, %+v", principal, got, x, y)
		}
	}
}

func TestWhatACertificateDoesNotPermitIsBounded(t *testing.T) {
	policy := certifying(t)
	all := []string{"permit-pty", "permit-port-forwarding", "permit-agent-forwarding"}
	bounds := []authz.Bounds{{NoPTY: true}, {NoForwarding: true}, {NoAgent: true}}
	for i, name := range all {
		who, err := policy.Identify(credential(certificate(t, func(c *ssh.Certificate) { delete(c.Extensions, name) })))
		if err != nil || who.Bounds != bounds[i] {
			t.Errorf("without %s: %+v, %v", name, who.Bounds, err)
		}
	}
	who, err := policy.Identify(credential(certificate(t, func(c *ssh.Certificate) {
		c.Extensions = map[string]string{"x@y": "unknown, and passed over"}
		c.CriticalOptions["force-command"] = "ps aux"
	})))
	if want := (authz.Bounds{Command: "ps aux", NoPTY: true, NoForwarding: true, NoAgent: true}); err != nil || who.Bounds != want {
		t.Errorf("without any: %+v, %v", who.Bounds, err)
	}
	token, err := policy.Identify(credential(certificate(t, func(c *ssh.Certificate) { c.Key = parse(t, skKey()) })))
	if err != nil || !token.Hardware {
		t.Errorf("of a token: %+v, %v", token, err)
	}
	if bytes.Contains([]byte(token.Key), []byte("cert-v01")) {
		t.Error("the key of a certificate is the certificate")
	}
}

func TestWrongAuthoritiesDoNotLoad(t *testing.T) {
	for text, want := range map[string]string{
		`{principals: {x: {}}}`:                                            "p:2:15: authority has no key: write ca:",
		`{ca: CORP}`:                                                       `p:2:15: authority speaks for nobody: write principals: {"*@corp": {groups: [sre]}}`,
		`{ca: CORP, principals: {}}`:                                       "authority speaks for nobody",
		`{ca: rubbish, principals: {x: {}}}`:                               "p:2:20: not a public key",
		`{ca: 'no-pty CORP', principals: {x: {}}}`:                         "p:2:20: options before a key are not read",
		`{ca: ` + rsaKey(2048) + `, principals: {x: {}}}`:                  "an RSA key of 2048 bits",
		`{ca: ssh-ed25519-cert-v01@openssh.com A, principals: {x: }}`:      "a certificate: write the plain key",
		`{ca: CORP, principals: {x: {}}}, {ca: CORP, principals: {y: {}}}`: "authority again (first in line 2): put all of its principals together",
		`{ca: CORP, principals: {x: {person: alise}}}`:                     `unknown person "alise" (did you mean "alice"?)`,
		`{ca: CORP, principals: {x: {person: sre}}}`:                       `"sre" is a group`,
		`{ca: CORP, principals: {'*@x': {person: alice}}}`:                 `all of "*@x" would be alice: a person is one principal, without * and ?`,
		`{ca: CORP, principals: {'alic?': {person: alice}}}`:               `all of "alic?" would be alice`,
		`{ca: CORP, principals: {'x\': {}}}`:                               "principal ends in a backslash",
		`{ca: CORP, principals: {'': {}}}`:                                 `principal is empty: "*" matches anything`,
		`{ca: CORP, principals: {x: {groups: [ѕre]}}}`:                     "is no name",
		`{ca: CORP, principals: {x: {person: аlice}}}`:                     "is no name",
		`{ca: CORP, principals: {x: {group: a}}}`:                          `unknown key "group" (did you mean "groups"?)`,
		`{ca: CORP, principals: {x: {}}, revoked: []}`:                     "names no file: take it out",
		`{ca: CORP, principals: {x: {}}, revoked: /none}`:                  "/none: no such file",
		`{ca: CORP, principals: {x: {}}, revoked: [/rubbish]}`:             "/rubbish:1:1: no list",
	} {
		p, err := readBeside(fillCA("people: {alice: {keys: [ALICE], groups: [sre]}}\nauthorities: ["+text+"]\nrules: []"), map[string]string{"/rubbish": "rubbish"})
		if p != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
