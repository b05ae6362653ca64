package e2e_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// becomes waits until what the server says to somebody is what is
// wanted.
func (h *host) becomes(t testing.TB, who, login string, want result) {
	t.Helper()
	eventually(t, who+" and "+login, func() bool { return h.run(t, who, login, "echo in") == want })
}

var (
	in  = result{stdout: "in\n"}
	out = result{stderr: "cartsshd: web-1" + sentence, code: 255}
)

func TestALockEndsWhatRunsAndHoldsOverARestart(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	cli := asker{h.path("config.yaml")}
	alice, carol := h.terminal(t, "alice", "web-1"), h.begin(t, "carol", "web-1", "echo in; cat")
	alice.sees(t, prompt)
	carol.sees(t, "in\n")

	locked := cli.run(t, "lock", "person", "alice", "--reason", "laptop stolen")
	if locked.code != 0 || !strings.HasPrefix(locked.stdout, "l-") {
		t.Fatalf("%+v", locked)
	}
	began := time.Now()
	ended := alice.ends(t)
	t.Logf("the session ended %v after the lock", time.Since(began))
	if ended.code != 255 || !strings.Contains(ended.stdout, "this session was ended: ") || !strings.Contains(ended.stdout, "laptop stolen") {
		t.Errorf("%+v", ended)
	}
	h.run(t, "alice", "web-1", "echo in").is(t, out)
	carol.types(t, "still here\n")
	carol.sees(t, "still here\n")

	h.end(t, 15)
	h.start(t)
	h.run(t, "alice", "web-1", "echo in").is(t, out)
	h.run(t, "carol", "web-1", "echo in").is(t, in)
	if got := cli.run(t, "locks"); !strings.Contains(got.stdout, "laptop stolen") {
		t.Errorf("%+v", got)
	}
	if got := cli.run(t, "unlock", "person", "alice"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	h.becomes(t, "alice", "web-1", in)
	if r := h.last(t, audit.LockEnded); !strings.Contains(r.Detail, "alice") {
		t.Errorf("%+v", r)
	}
}

func TestAGrantLetsSomebodyInWhileItLastsAndOverARestart(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	d.Run(t, "web-vault", "--label", "tier=secrets")
	h := serving(t, d)
	cli := asker{h.path("config.yaml")}
	h.run(t, "dave", "web-1", "echo in").is(t, out)

	granted := cli.run(t, "grant", "dave", "web-1", "--for", "1h", "--reason", "INC-7")
	id, _, _ := strings.Cut(granted.stdout, ":")
	if granted.code != 0 || !strings.HasPrefix(id, "g-") {
		t.Fatalf("%+v", granted)
	}
	h.becomes(t, "dave", "web-1", in)
	if r := h.last(t, audit.SessionOpen); r.Rule != "grant "+id {
		t.Errorf("by %q", r.Rule)
	}
	h.end(t, 15)
	h.start(t)
	h.run(t, "dave", "web-1", "echo in").is(t, in)

	if got := cli.run(t, "revoke", id); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	h.becomes(t, "dave", "web-1", out)

	// It runs out by itself as well, and a rule that denies is stronger.
	if got := cli.run(t, "grant", "dave", "web-1", "--for", "3s", "--reason", "INC-8"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	eventually(t, "the grant's end is on the record", func() bool { return len(h.recorded(t, audit.GrantEnded)) == 2 })
	h.run(t, "dave", "web-1", "echo in").is(t, out)
	vault := cli.run(t, "grant", "dave", "web-vault", "--for", "1h", "--reason", "INC-9")
	if vault.code != 0 || !strings.Contains(vault.stderr, "ask security") {
		t.Errorf("%+v", vault)
	}
	if got := h.run(t, "dave", "web-vault", "echo in"); got.code != 255 {
		t.Errorf("%+v", got)
	}
}

func TestAnEditedPolicyIsInForceByItselfAndABadOneChangesNothing(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	carol := h.begin(t, "carol", "web-1", "echo in; cat")
	carol.sees(t, "in\n")

	h.edit(t, "who: [group:sre]", "who: [bogus:sre]")
	eventually(t, "the mistake is on the record", func() bool { return len(h.recorded(t, audit.PolicyRefused)) == 1 })
	if r := h.last(t, audit.PolicyRefused); !strings.Contains(r.Detail, "config.yaml:14:") {
		t.Errorf("%q", r.Detail)
	}
	h.run(t, "alice", "web-1", "echo in").is(t, in)

	h.edit(t, "who: [bogus:sre]", "who: [alice]")
	h.becomes(t, "carol", "web-1", out)
	ended := carol.ends(t)
	if ended.code != 255 || !strings.Contains(ended.stderr, "the policy has changed: this session ends in 10 s\n") ||
		!strings.HasSuffix(ended.stderr, "cartsshd: the policy has changed: this session was ended\n") {
		t.Errorf("%+v", ended)
	}
}

func TestWhoAltersAGrantGainsNothingAndWhoDamagesALockLocksEverybodyOut(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	cli := asker{h.path("config.yaml")}
	carol := h.begin(t, "carol", "web-1", "echo in; cat")
	carol.sees(t, "in\n")

	granted := cli.run(t, "grant", "bob", "web-9", "--for", "1h", "--reason", "INC-7")
	grant, _, _ := strings.Cut(granted.stdout, ":")
	h.alter(t, "state/grants/"+grant+".json", "bob", "dave")
	eventually(t, "the forgery is on the record", func() bool { return len(h.recorded(t, audit.GrantRefused)) == 1 })
	if r := h.last(t, audit.GrantRefused); r.Rule != "grant "+grant || !strings.Contains(r.Detail, "bad signature") {
		t.Errorf("%+v", r)
	}
	if got := h.run(t, "dave", "web-9", "echo in"); got.code != 255 {
		t.Errorf("%+v", got)
	}

	locked := cli.run(t, "lock", "person", "dave", "--reason", "INC-8")
	lock, _, _ := strings.Cut(locked.stdout, ":")
	h.alter(t, "state/locks/"+lock+".json", "dave", "nobody")
	if ended := carol.ends(t); ended.code != 255 {
		t.Errorf("%+v", ended)
	}
	h.run(t, "alice", "web-1", "echo in").is(t, out)
	if got := cli.run(t, "locks"); got.code != 1 || !strings.Contains(got.stderr, "cartsshd unlock "+lock) {
		t.Errorf("%+v", got)
	}
	if got := cli.run(t, "unlock", lock); got.code != 0 {
		t.Errorf("%+v", got)
	}
	h.becomes(t, "alice", "web-1", in)
}

// alter changes a file as somebody would who has no key.
func (h *host) alter(t testing.TB, name, from, to string) {
	t.Helper()
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, name, strings.Replace(string(text), from, to, 1))
}
