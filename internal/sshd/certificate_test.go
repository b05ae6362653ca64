package sshd

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/need"
)

// certified is the stock client with a certificate of ssh-keygen's, and a policy
// that believes its authority.
type certified struct {
	*openssh
	keygen string
	ca     string // file
	policy atomic.Pointer[authz.Policy]
}

func newCertified(t *testing.T) *certified {
	t.Helper()
	c := &certified{keygen: need.Tool(t, "ssh-keygen", "openssh-client")}
	authority, ca := keyFile(t)
	c.ca = ca
	c.openssh = newOpenSSH(t, func(s *Server) { s.Policy = c.policy.Load })
	c.policy.Store(policyOf(t, fmt.Sprintf(`
people:
  alice: {keys: ["%s"]}
authorities:
  - ca: "%s"
    principals: {"*@corp": {groups: [from-cert]}}
rules:
  - {name: theirs, who: [group:from-cert], targets: [{name: web-1}], allow: [shell]}
  - {name: alices, who: [alice], targets: [{name: web-2}], allow: [shell]}
`, authorized(newKey(t)), authorized(authority))))
	return c
}

// sign has the client's key signed.
func (c *certified) sign(principals string, options ...string) {
	c.t.Helper()
	args := append([]string{"-q", "-s", c.ca, "-I", "carol's laptop", "-z", "7", "-V", "-1m:+5m"}, options...)
	if principals != "" {
		args = append(args, "-n", principals)
	}
	public, err := exec.Command(c.keygen, "-y", "-f", c.key).Output()
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(c.key), filepath.Base(c.key)+".pub")
	write(c.t, path, string(public), 0o600)
	if out, err := exec.Command(c.keygen, append(args, path)...).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

func TestACertificateLetsItsPrincipalInAndIsOnTheRecord(t *testing.T) {
	c := newCertified(t)
	c.sign("carol@corp")
	if got := c.run(nil, "echo in"); got.out != "in\n" || got.code != 0 {
		t.Fatalf("%+v", got)
	}
	opened := c.recorded(audit.SessionOpen)
	if len(opened) != 1 {
		t.Fatalf("%+v", opened)
	}
	who := opened[0].Person
	if who.Name != "carol@corp" || who.Certificate == nil || who.Certificate.KeyID != "carol's laptop" || who.Certificate.Serial != 7 ||
		!strings.HasPrefix(who.Certificate.Authority, "SHA256:") {
		t.Errorf("%+v, %+v", who, who.Certificate)
	}
}

func TestACertificateIsHeldToWhatIsInIt(t *testing.T) {
	c := newCertified(t)
	for _, test := range []struct {
		principals string
		options    []string
		login      string
		in         bool
		said       string
	}{
		{"carol@corp", nil, "web-1", true, ""},
		{"alice", nil, "web-2", false, "Permission denied"}, // called like a person
		{"alice,carol@corp", nil, "web-2", false, "no container of that name"},
		{"", nil, "web-1", false, "Permission denied"},
		{"carol@corp", []string{"-O", "source-address=10.0.0.0/8"}, "web-1", false, "Permission denied"},
		{"carol@corp", []string{"-O", "critical:unheard@of=1"}, "web-1", false, "Permission denied"},
		{"carol@corp", []string{"-V", "20200101:20200102"}, "web-1", false, "Permission denied"},
	} {
		c.sign(test.principals, test.options...)
		c.login = test.login
		got := c.run(nil, "echo in")
		if in := got.out == "in\n"; in != test.in || !strings.Contains(got.err, test.said) {
			t.Errorf("%q %q: %+v", test.principals, test.options, got)
		}
	}
	c.sign("carol@corp", "-O", "force-command=echo forced")
	c.login = "web-1"
	if got := c.run(nil, "id"); got.out != "forced\n" {
		t.Errorf("%+v", got)
	}
	c.sign("carol@corp", "-O", "no-pty")
	if got := c.run(nil, "tty", "-tt"); !strings.Contains(got.out+got.err, "PTY allocation request failed") {
		t.Errorf("%+v", got)
	}
}
