package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/standing"
)

// guarded is a daemon before a desk, which nobody can connect to: its hours are
// the test's.
type guarded struct {
	*daemon
	at     time.Time
	judged int
	log    strings.Builder
}

func guard(t *testing.T, d *desk) *guarded {
	t.Helper()
	cfg, err := config.Load(d.path("config.yaml"))
	must(t, err)
	record, err := audit.Open(cfg.Record.Dir)
	must(t, err)
	t.Cleanup(func() { record.Close() })
	g := &guarded{at: now()}
	g.daemon = &daemon{cfg: cfg, record: record, logger: slog.New(slog.NewTextHandler(&g.log, nil)), changed: func() { g.judged++ }}
	g.rules, g.store = cfg.Policy, d.store(t)
	g.startState(g.at)
	return g
}

// looks lets the daemon look so often as it takes to be sure.
func (g *guarded) looks() {
	for range 2 {
		g.followState(g.at)
	}
}

// lets asks whether somebody may have a shell.
func (g *guarded) lets(who, target string) authz.Decision {
	subject, _ := g.policy.Load().Subject(who)
	return g.policy.Load().Decide(subject, authz.Request{Target: authz.Target{Runtime: "docker", ID: "4711", Name: target}, Kind: authz.Shell, Time: g.at})
}

// recorded are the lines of the daemon's journal that are about this, as EVENT
// RULE.
func (g *guarded) recorded(t *testing.T) (lines []string) {
	t.Helper()
	for r, err := range audit.ReadJournal(g.cfg.Record.Dir) {
		must(t, err)
		if r.Rule != "" {
			lines = append(lines, r.Event+" "+r.Rule)
		}
	}
	return lines
}

func (g *guarded) isRecorded(t *testing.T, want ...string) {
	t.Helper()
	if got := g.recorded(t); !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

func TestAGrantHoldsUntilTheSecondInWhichItRunsOut(t *testing.T) {
	d := newDesk(t)
	g := guard(t, d)
	id := d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	g.looks()
	until := g.store.Read().Grants[0].Until
	for _, test := range []struct {
		at    time.Time
		allow bool
	}{{until.Add(-time.Nanosecond), true}, {until, false}} {
		g.at = test.at
		g.looks()
		if got := g.lets("alice", "web-1"); got.Allow != test.allow || test.allow && got.Rule != "grant "+id {
			t.Errorf("at %v: %+v", test.at, got)
		}
	}
	if g.lets("bob", "web-1").Allow || len(g.store.Read().Grants) > 0 {
		t.Error("it is for others too, or its file is still there")
	}
	g.isRecorded(t, "grant.added grant "+id, "grant.ended grant "+id)
	judged := g.judged
	if g.looks(); g.judged > judged+4 { // the file went: that is a change, and the last one
		t.Errorf("judged %d times more", g.judged-judged)
	}
	if g.looks(); len(g.recorded(t)) != 2 {
		t.Errorf("recorded again: %q", g.recorded(t))
	}
}

func TestWhatRanOutWhileNoDaemonWasThereIsRecordedAsEnded(t *testing.T) {
	d := newDesk(t)
	id := d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	lock := d.does(t, "lock", "person", "bob", "--for", "1h", "--reason", "x")
	old, err := d.store(t).AddGrant(standing.Grant{Person: "alice", Target: "web-1", Until: now().Add(-time.Hour), By: "root"}, func(standing.Grant) error { return nil })
	must(t, err)
	g := guard(t, d)
	g.isRecorded(t, "lock.added lock "+lock, "grant.added grant "+id, "grant.ended grant "+old.ID)
	if len(g.store.Read().Grants) != 1 || !g.lets("alice", "web-1").Allow {
		t.Error("the wrong one has ended")
	}
}

func TestALockIsStrongerThanAGrantAndBothSurviveARestart(t *testing.T) {
	d := newDesk(t)
	d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	if !guard(t, d).stop(t).lets("alice", "web-1").Allow {
		t.Error("the grant does not hold from the start")
	}
	id := d.does(t, "lock", "target", "web-1", "--reason", "x")
	g := guard(t, d).stop(t)
	if got := g.lets("alice", "web-1"); got.Allow || got.Rule != "lock "+id {
		t.Errorf("%+v", got)
	}
	g = guard(t, d)
	d.does(t, "unlock", id)
	if g.looks(); !g.lets("alice", "web-1").Allow {
		t.Error("unlocked, and still out")
	}
}

// stop ends the daemon; what it had in force can still be asked.
func (g *guarded) stop(t *testing.T) *guarded {
	t.Helper()
	must(t, g.record.Close())
	return g
}

func TestAGrantThatSomebodyHasAlteredIsIgnoredAndRecordedOnce(t *testing.T) {
	d := newDesk(t)
	g := guard(t, d)
	id := d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	g.looks()
	path := d.path("state/grants/" + id + ".json")
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), "alice", "bob", 1)), 0o600))
	g.looks()
	if g.lets("alice", "web-1").Allow || g.lets("bob", "web-1").Allow {
		t.Error("it still grants")
	}
	d.does(t, "lock", "person", "bob", "--reason", "x")
	g.looks() // at the same bad file again
	if got := g.recorded(t); !slices.Equal(got[:3], []string{"grant.added grant " + id, "grant.refused grant " + id, "grant.ended grant " + id}) || len(got) != 4 {
		t.Errorf("recorded %q", got)
	}
	if !strings.Contains(g.log.String(), "cartsshd revoke "+id) {
		t.Errorf("the log has no way out: %s", &g.log)
	}
}

func TestALockThatSomebodyHasDamagedLocksEverybodyOut(t *testing.T) {
	d := newDesk(t)
	d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	id := d.does(t, "lock", "person", "bob", "--reason", "x")
	g := guard(t, d)
	if !g.lets("alice", "web-1").Allow {
		t.Fatal("alice is out already")
	}
	judged := g.judged
	must(t, os.Truncate(d.path("state/locks/"+id+".json"), 9))
	g.looks()
	if got := g.lets("alice", "web-1"); got.Rule != "lock "+id || g.judged == judged {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(g.log.String(), "cartsshd unlock "+id) {
		t.Errorf("the log has no way out: %s", &g.log)
	}
	d.does(t, "unlock", id)
	if g.looks(); !g.lets("alice", "web-1").Allow {
		t.Error("the way out is none")
	}
}

func TestAStateDirectoryThatOthersMayWriteToLocksEverybodyOutFromTheStart(t *testing.T) {
	d := newDesk(t)
	d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	must(t, os.Chmod(d.path("state"), 0o777))
	g := guard(t, d)
	if got := g.lets("alice", "web-1"); !strings.HasPrefix(got.Rule, "lock ") || !strings.Contains(g.log.String(), "others may write to it") {
		t.Errorf("%+v, and the log says %s", got, &g.log)
	}
}

func TestWhatGivesAccessIsInForceOnlyOnceItIsRecorded(t *testing.T) {
	d := newDesk(t)
	lock := d.does(t, "lock", "person", "bob", "--reason", "x")
	g := guard(t, d)
	g.stop(t) // and so nothing can be recorded
	d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	d.does(t, "unlock", lock)
	other := d.does(t, "lock", "target", "db-1", "--reason", "x")
	g.looks()
	if g.lets("alice", "web-1").Allow {
		t.Error("a grant holds that is not on the record")
	}
	if got := g.lets("bob", "web-1"); got.Rule != "lock "+lock {
		t.Errorf("a lock has ended without a word: %+v", got)
	}
	if got := g.lets("alice", "db-1"); got.Rule != "lock "+other {
		t.Errorf("a lock waits for the record: %+v", got)
	}
	var err error
	g.record, err = audit.Open(g.cfg.Record.Dir)
	must(t, err)
	g.looks()
	if !g.lets("alice", "web-1").Allow || g.lets("bob", "web-1").Rule != "" {
		t.Error("it was not tried again")
	}
}

func TestNewRulesAreUnderTheSameLocksAndGrants(t *testing.T) {
	d := newDesk(t)
	d.does(t, "grant", "alice", "web-1", "--for", "1h", "--reason", "x")
	lock := d.does(t, "lock", "person", "bob", "--reason", "x")
	g := guard(t, d)
	d.edit(t, "rules:\n", "rules:\n  - {name: all, who: [bob], targets: [{name: \"*\"}], allow: [shell]}\n")
	cfg, err := config.Load(d.path("config.yaml"))
	must(t, err)
	judged := g.judged
	g.takeRules(cfg.Policy)
	if g.lets("bob", "web-1").Rule != "lock "+lock || !g.lets("alice", "web-1").Allow || g.judged != judged+1 {
		t.Error("they are not")
	}
}

func (d *desk) edit(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(d.path("config.yaml"))
	must(t, err)
	if !strings.Contains(string(text), from) {
		t.Fatalf("no %q in %s", from, text)
	}
	d.write(t, "config.yaml", strings.Replace(string(text), from, to, 1))
}

// follows lets the daemon look at its configuration so often as it takes.
func (g *guarded) follows(t *testing.T) (refused, loaded int) {
	t.Helper()
	for range 4 {
		g.followConfig()
	}
	for r, err := range audit.ReadJournal(g.cfg.Record.Dir) {
		must(t, err)
		switch r.Event {
		case audit.PolicyRefused:
			refused++
		case audit.PolicyLoaded:
			loaded++
		}
	}
	return refused, loaded
}

func TestAnEditedFileIsTakenOnceAndABadOneRefusedOnce(t *testing.T) {
	d := newDesk(t)
	d.edit(t, "state:", fmt.Sprintf("image: {path: %q}\nstate:", makeImage(t, ours())))
	g := guard(t, d)
	defer func() { must(t, g.tools.swap(nil)) }()
	g.path, g.named = d.path("config.yaml"), watched(d.path("config.yaml"), g.cfg)
	g.read.Look(g.named...)
	if refused, loaded := g.follows(t); refused+loaded != 0 {
		t.Errorf("read again %d times for nothing", refused+loaded)
	}
	d.edit(t, "deny: ask", "denny: ask")
	if refused, loaded := g.follows(t); refused != 1 || loaded != 0 {
		t.Errorf("refused %d times, taken %d times", refused, loaded)
	}
	if !strings.Contains(g.log.String(), "config.yaml:10:") {
		t.Errorf("the log does not say where: %s", &g.log)
	}
	if got := g.lets("alice", "vault"); got.Rule != "vault" {
		t.Errorf("the old rules do not stay: %+v", got)
	}
	d.edit(t, "denny: ask", "deny: ask")
	d.edit(t, "name: vault", "name: safe")
	if refused, loaded := g.follows(t); refused != 1 || loaded != 1 {
		t.Errorf("refused %d times, taken %d times", refused, loaded)
	}
	if got := g.lets("alice", "vault"); got.Rule != "safe" {
		t.Errorf("the new rules are not in force: %+v", got)
	}
}
