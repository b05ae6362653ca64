package e2e_test

import (
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

// What explain says of a container that runs is what a client meets.
func TestExplainJudgesWhatRunsAsTheServerDoes(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	d.Run(t, "web-2", "--privileged")
	d.Run(t, "web-vault", "--label", "tier=secrets")
	h := newHost(t, d)
	h.edit(t, "rules:\n", "rules:\n  - {name: not-privileged, who: [\"*\"], targets: [{privileged: true}], deny: it is root of the host}\n")
	h.start(t)
	ask := asker{h.path("config.yaml")}
	for _, claim := range []struct {
		who, login, command, says string
		allow                     bool
	}{
		{"alice", "web-1", "true", `alice may run "true" in web-1, by rule sre (config.yaml:`, true},
		{"alice", "web-2", "true", `alice may not run "true" in web-2, by rule not-privileged (config.yaml:`, false},
		{"alice", "web-vault", "true", `: denied by rule: ask security`, false},
		{"bob", "web-1", "id", "no exec pattern of the rule matches", false},
		{"bob", "web-1", "echo a;id", "without a shell in between", true},
	} {
		explained := ask.run(t, "explain", claim.who, claim.login, "--exec", claim.command)
		met := h.run(t, claim.who, claim.login, claim.command)
		if (explained.code == 0) != claim.allow || explained.code > 1 || !strings.Contains(explained.stdout, claim.says) || (met.code == 0) != claim.allow {
			t.Errorf("%+v: explained as %+v, met as %+v", claim, explained, met)
		}
	}
	if got := ask.run(t, "who-can", "web-2"); strings.Count(got.stdout, "\n") != 1 || got.code != 0 {
		t.Errorf("into a privileged one: %+v", got)
	}
	if got := ask.run(t, "what-can", "alice"); !strings.Contains(got.stdout, "\nweb-1 ") || strings.Contains(got.stdout, "\nweb-2 ") {
		t.Errorf("alice: %+v", got)
	}
	d.CLI(t, "pause", "web-1")
	defer d.CLI(t, "unpause", "web-1")
	if got := ask.run(t, "explain", "alice", "web-1"); got.code != 0 || !strings.Contains(got.stdout, "\nweb-1 is paused, and nobody can enter it now\n") {
		t.Errorf("paused: %+v", got)
	}
}
