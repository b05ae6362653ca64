package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

const sentence = ": no container of that name is yours to enter\n"

func TestWhoMayRunCommandsOnlyHasNoShellInBetween(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	for command, want := range map[string]string{
		"echo a;id $(id) `id` | id > /tmp/x & ~ * # $HOME": "a;id $(id) `id` | id > /tmp/x & ~ * # $HOME\n",
		`echo 'one  arg' "and  another" \;`:                "one  arg and  another ;\n",
		"/dev/crashcart/bin/tcpdump --version":             "",
	} {
		got := h.run(t, "bob", "web-1", command)
		if got.code != 0 || !strings.HasPrefix(got.stdout, want) {
			t.Errorf("%s: %+v", command, got)
		}
		r := h.last(t, audit.SessionOpen)
		if r.Command != command || len(r.Argv) == 0 || r.Rule != "errands" {
			t.Errorf("%s: recorded %+v", command, r)
		}
	}
}

func TestWhatIsNotAllowedIsDeniedInOneSentenceAndRecordedWithTheReason(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	d.Run(t, "web-vault", "--label", "tier=secrets")
	d.Run(t, "db-1")
	h := serving(t, d)
	for _, claim := range []struct{ who, login, command, rule, why string }{
		{"bob", "web-1", "id", "errands", "no exec pattern"},
		{"bob", "web-1", "cat /etc/passwd", "errands", "no exec pattern"},
		{"bob", "web-1", "", "errands", "shell"},
		{"alice", "web-vault", "id", "vault", "ask security"},
		{"alice", "db-1", "id", "", "no rule"},
		{"dave", "web-1", "id", "", "no rule"},
		{"alice", "no-such", "id", "", "no such container"},
		{"alice", fmt.Sprint("pid:", os.Getppid()), "id", "sre", "a process of the host itself"},
		{"alice", "a/b", "id", "", ""},
	} {
		h.run(t, claim.who, claim.login, append([]string{"-T"}, strings.Fields(claim.command)...)...).is(t, result{stderr: "cartsshd: " + claim.login + sentence, code: 255})
		r := h.last(t, audit.SessionDenied)
		if r.Person.Name != claim.who || r.Login != claim.login || r.Command != claim.command || r.Rule != claim.rule || !strings.Contains(r.Detail, claim.why) {
			t.Errorf("%+v: recorded %+v", claim, r)
		}
	}
	if n := len(h.recorded(t, audit.SessionOpen)); n > 0 {
		t.Errorf("%d sessions were opened", n)
	}
}

// All three with one login name: of two runtimes' containers; then of one alone,
// which is forbidden; and then of none.
func TestAmbiguousForbiddenAndUnknownLookTheSame(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--label", "tier=secrets")
	runc := rig.Runc(t)
	runc.Run(t, "web-1", nil)
	h := newHost(t, d)
	h.edit(t, "pid: {}}", fmt.Sprintf("runc: {roots: [%q]}, pid: {}}", runc.Root))
	h.start(t)
	asked := func(why string) result {
		got := h.run(t, "dave", "web-1", "true")
		if r := h.last(t, audit.SessionDenied); !strings.Contains(r.Detail, why) {
			t.Errorf("recorded as %q, want %q", r.Detail, why)
		}
		return got
	}

	ambiguous := asked("more than one container: docker:web-1, runc:web-1")
	h.run(t, "alice", "web-1", "true").is(t, result{code: 255,
		stderr: "cartsshd: web-1 may be more than one: say runc:web-1\n"}) // of docker's she hears nothing
	h.run(t, "alice", "runc:web-1", "echo in").is(t, result{stdout: "in\n"})
	listed := finish(t, command(program(t), "targets", "-c", h.path("config.yaml")))
	for _, logins := range []string{" docker:web-1 " + c.ID[:12] + " docker:" + c.ID[:12] + "\n", " runc:web-1\n"} {
		if !strings.Contains(listed.stdout, logins) {
			t.Errorf("%q is not listed:\n%s", logins, listed.stdout)
		}
	}
	runc.CLI(t, "delete", "--force", "web-1")
	forbidden := asked("ask security")
	d.Remove(t, "web-1")
	unknown := asked("no such container")

	ambiguous.is(t, unknown)
	forbidden.is(t, unknown)
	unknown.is(t, result{stderr: "cartsshd: web-1" + sentence, code: 255})
}

func TestASessionThatIsKilledForItsMemorySaysSo(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := newHost(t, d)
	h.edit(t, "{runtime: pid}], allow: [shell]}", "{runtime: pid}], allow: [shell], terms: {memory: 32M}}")
	h.start(t)
	got := h.run(t, "alice", "web-1", "exec tail /dev/zero")
	got.is(t, result{code: 255, stderr: "cartsshd: the session took more than its limit of memory, and was killed\n"})
	if exit := h.last(t, audit.SessionClose).Exit; exit.Signal != "KILL" || exit.Reason != "the session took more than its limit of memory, and was killed" {
		t.Errorf("recorded as %+v", exit)
	}
}

func TestWhoMayEnterIsToldThatItIsPaused(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	d.CLI(t, "pause", "web-1")
	defer d.CLI(t, "unpause", "web-1")
	h := serving(t, d)
	h.run(t, "alice", "web-1", "true").is(t, result{stderr: "cartsshd: web-1 is paused\n", code: 255})
	if r := h.last(t, audit.SessionDenied); r.Detail != "router: container web-1 is paused" {
		t.Errorf("recorded as %q", r.Detail)
	}
	h.run(t, "dave", "web-1", "true").is(t, result{stderr: "cartsshd: web-1" + sentence, code: 255})
}

func TestAStrangerLearnsNothing(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	publicKey(t, "mallory")
	for _, login := range []string{"web-1", "no-such", "pid:1", "root"} {
		denied := result{stderr: login + "@127.0.0.1: Permission denied (publickey).\r\n", code: 255}
		h.run(t, "mallory", login, "true").is(t, denied)
		h.run(t, "mallory", login, "-o", "PubkeyAuthentication=no", "true").is(t, denied)
	}
	// A connection's end is not waited for.
	eventually(t, "all of them are on the record", func() bool { return len(h.recorded(t, audit.SigninFailed)) == 8 })
	var why []string
	for _, r := range h.recorded(t, audit.SigninFailed) {
		why = append(why, r.Login+": "+r.Detail)
	}
	for _, want := range []string{"web-1: no key was offered", "root: SHA256:"} {
		if !strings.Contains(strings.Join(why, "\n"), want) {
			t.Errorf("recorded as %q", why)
		}
	}
}

func TestWithoutAKnownHostKeyTheClientTurnsAway(t *testing.T) {
	h := serving(t, nil)
	h.write(t, "known_hosts", "cartsshd "+publicKey(t, "mallory")+"\n")
	if got := h.run(t, "alice", "web-1", "true"); !strings.Contains(got.stderr, "Host key verification failed.") || got.code != 255 {
		t.Errorf("got %+v", got)
	}
}
