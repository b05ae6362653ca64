package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/standing"
)

// desk is a host without containers, and whoever sits before it.
type desk struct{ dir string }

const deskConfig = `host_key: host_key
record: {dir: record}
state: {dir: state}
runtimes: {pid: {}}
people:
  alice: {keys: [%s]}
  bob: {keys: [%s]}
rules:
  - {name: vault, who: ["*"], targets: [{name: "*vault*"}], deny: ask security}
`

func newDesk(t *testing.T) *desk {
	t.Helper()
	need.Root(t) // processes are looked into
	d := &desk{t.TempDir()}
	var keys [3]string
	for i, name := range []string{"host_key", "alice", "bob"} {
		public, err := makeKey(d.path(name))
		must(t, err)
		keys[i] = public
	}
	d.write(t, "config.yaml", fmt.Sprintf(deskConfig, keys[1], keys[2]))
	return d
}

func (d *desk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *desk) write(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.WriteFile(d.path(name), []byte(text), 0o600))
}

// run runs a command of theirs.
func (d *desk) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	screen, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	must(t, err)
	defer screen.Close()
	old := os.Stderr
	os.Stderr = screen
	var out bytes.Buffer
	code = run(append([]string{args[0], "-c", d.path("config.yaml")}, args[1:]...), &out, screen)
	os.Stderr = old
	text, err := os.ReadFile(screen.Name())
	must(t, err)
	return code, out.String(), string(text)
}

// does runs one that must go well, and returns the ID that it begins with.
func (d *desk) does(t *testing.T, args ...string) (id string) {
	t.Helper()
	code, stdout, stderr := d.run(t, args...)
	if code != 0 {
		t.Fatalf("%q: exit code %d: %s", args, code, stderr)
	}
	id, _, _ = strings.Cut(stdout, ":")
	return id
}

// fails runs one that must not.
func (d *desk) fails(t *testing.T, want string, args ...string) {
	t.Helper()
	code, stdout, stderr := d.run(t, args...)
	if code == 0 || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") > 2 {
		t.Errorf("%q: exit code %d, said %q and %q, want %q", args, code, stdout, stderr, want)
	}
}

func (d *desk) store(t *testing.T) *standing.Store {
	t.Helper()
	key, err := hostKey(d.path("host_key"))
	must(t, err)
	return standing.In(d.path("state"), key)
}

// recorded are the lines of the host's journal, as EVENT RULE.
func (d *desk) recorded(t *testing.T) (lines []string) {
	t.Helper()
	for r, err := range audit.ReadJournal(d.path("record/host")) {
		must(t, err)
		if r.Rule == "" {
			continue
		}
		lines = append(lines, r.Event+" "+r.Rule)
		if r.Person.UID == nil || r.Client.Address == "" || !strings.Contains(r.Detail, "by ") {
			t.Errorf("recorded without who or what: %+v", r)
		}
	}
	return lines
}

func TestAGrantIsMadeListedAndRevokedAndAllOfItIsRecorded(t *testing.T) {
	d := newDesk(t)
	id := d.does(t, "grant", "alice", "docker:web-1", "--for", "2h", "--reason", "INC-7", "--exec", "ps *", "--exec", "cat a,b", "--profile", "netadmin")
	_, table, _ := d.run(t, "grants")
	if !regexp.MustCompile(`(?s)^ID .*\n` + id + ` +alice +docker:web-1 +exec \["ps \*" "cat a,b"\] netadmin +20\d\d-.*Z +\w+ +INC-7\n$`).MatchString(table) {
		t.Errorf("listed as\n%s", table)
	}
	var listed []standing.Grant
	_, text, _ := d.run(t, "grants", "--json")
	must(t, json.Unmarshal([]byte(text), &listed))
	if len(listed) != 1 || listed[0].ID != id || listed[0].By == "" || listed[0].Until.Sub(listed[0].Since).Hours() != 2 {
		t.Errorf("listed as %s", text)
	}
	d.does(t, "revoke", id)
	if _, text, _ := d.run(t, "grants", "--json"); text != "[]\n" {
		t.Errorf("revoked, and still %s", text)
	}
	if got := d.recorded(t); !slices.Equal(got, []string{"grant.added grant " + id, "grant.ended grant " + id}) {
		t.Errorf("recorded %q", got)
	}
}

func TestAGrantThatCannotHoldIsRefusedWithTheWayOut(t *testing.T) {
	d := newDesk(t)
	for _, test := range []struct{ want, args string }{
		{`did you mean "alice"?`, "alcie web-1 --for 2h --reason x"},
		{"30d at most", "alice web-1 --for 31d --reason x"},
		{"30d at most", "alice web-1 --for 9999h --reason x"},
		{"from 1s on", "alice web-1 --for 10ms --reason x"},
		{"from 1s on", "alice web-1 --for=-2h --reason x"},
		{"from 1s on", "alice web-1 --for soon --reason x"},
		{"--for", "alice web-1 --reason x"},
		{"--reason", "alice web-1 --for 2h"},
		{"names no program", "alice web-1 --for 2h --reason x --exec="},
		{`did you mean "general"?`, "alice web-1 --for 2h --reason x --profile generl"},
		{"not the name of a container", "alice web/1/2/3/4 --for 2h --reason x"},
		{"will be another's", "alice pid:1 --for 2h --reason x"},
	} {
		d.fails(t, test.want, append([]string{"grant"}, strings.Fields(test.args)...)...)
	}
	d.fails(t, "wants some words", "grant", "alice", "web-1", "--for", "2h", "--reason", " ")
	d.fails(t, "cartsshd grants lists them", "revoke", "g-nosuch")
	if state := d.store(t).Read(); len(state.Grants) > 0 {
		t.Errorf("made %+v", state.Grants)
	}
}

func TestAGrantForWhatIsNotThereIsMadeWithANote(t *testing.T) {
	d := newDesk(t)
	if code, _, stderr := d.run(t, "grant", "alice", "web-1", "--for", "2h", "--reason", "x"); code != 0 || !strings.Contains(stderr, "web-1 was not found now") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestAGrantThatCannotBeRecordedIsNotMade(t *testing.T) {
	d := newDesk(t)
	d.write(t, "record", "in the way")
	if code, _, stderr := d.run(t, "grant", "alice", "web-1", "--for", "2h", "--reason", "x"); code != unrecordedExit {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if state := d.store(t).Read(); len(state.Grants) > 0 {
		t.Errorf("made %+v", state.Grants)
	}
}

func TestALockIsSetListedAndTakenAwayAndAllOfItIsRecorded(t *testing.T) {
	d := newDesk(t)
	alice := d.does(t, "lock", "person", "alice", "--for", "3d", "--reason", "laptop stolen")
	web := d.does(t, "lock", "target", "docker:web-1", "--reason", "x")
	all := d.does(t, "lock", "all", "--reason", "x")
	_, table, _ := d.run(t, "locks")
	for _, row := range []string{alice + ` +alice +\* +20.*Z +\w+ +laptop stolen`, web + ` +\* +docker:web-1 +unlocked +`, all + ` +\* +\* +unlocked +`} {
		if !regexp.MustCompile(`(?m)^` + row).MatchString(table) {
			t.Errorf("%s is not in\n%s", row, table)
		}
	}
	if got := d.does(t, "unlock", "all"); got != all {
		t.Errorf("unlocked %s", got)
	}
	d.does(t, "unlock", "person", "alice")
	d.does(t, "unlock", web)
	if _, text, _ := d.run(t, "locks", "--json"); text != "[]\n" {
		t.Errorf("unlocked, and still %s", text)
	}
	want := []string{"lock.added lock " + alice, "lock.added lock " + web, "lock.added lock " + all, "lock.ended lock " + all, "lock.ended lock " + alice, "lock.ended lock " + web}
	if got := d.recorded(t); !slices.Equal(got, want) {
		t.Errorf("recorded %q", got)
	}
}

func TestALockIsNotMisunderstood(t *testing.T) {
	d := newDesk(t)
	for want, args := range map[string]string{
		"person NAME, target NAME, or all": "lock bob --reason x",
		"Say person NAME":                  "lock person --reason x",
		"takes no name":                    "lock all bob --reason x",
		"not the name of a container":      "lock target a/b/c/d --reason x",
		"wants some words":                 "lock all",
		"there is no such lock":            "unlock l-nosuch",
		"Say target NAME":                  "unlock target",
		"l-x takes no name":                "unlock l-x y",
	} {
		d.fails(t, want, strings.Fields(args)...)
	}
	if code, _, stderr := d.run(t, "lock", "person", "alcie", "--reason", "x"); code != 0 || !strings.Contains(stderr, `did you mean "alice"?`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestALockHoldsThoughItCannotBeRecordedAndNobodyUnlocksThen(t *testing.T) {
	d := newDesk(t)
	d.write(t, "record", "in the way")
	d.fails(t, "holds, and that is not on the record", "lock", "person", "alice", "--reason", "x")
	if locks := d.store(t).Read().Locks; len(locks) != 1 {
		t.Fatalf("locks %+v", locks)
	}
	if code, _, _ := d.run(t, "unlock", "person", "alice"); code != unrecordedExit || len(d.store(t).Read().Locks) != 1 {
		t.Errorf("exit code %d", code)
	}
}

func TestSomebodyIsLockedOutWhileThePolicyIsBroken(t *testing.T) {
	d := newDesk(t)
	text, err := os.ReadFile(d.path("config.yaml"))
	must(t, err)
	d.write(t, "config.yaml", string(text)+"  - {nonsense: true}\n")
	code, _, stderr := d.run(t, "lock", "person", "alice", "--reason", "x")
	if code != 0 || !strings.Contains(stderr, d.path("state")) || len(d.store(t).Read().Locks) != 1 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	d.fails(t, "unknown key", "grant", "alice", "web-1", "--for", "2h", "--reason", "x")
	d.write(t, "config.yaml", "host_key: [")
	d.fails(t, "--config none", "lock", "person", "alice", "--reason", "x")
}

func TestWhatIsDamagedIsToldWithTheWayOutAndCheckSaysSo(t *testing.T) {
	d := newDesk(t)
	g := d.does(t, "grant", "alice", "web-1", "--for", "2h", "--reason", "x")
	l := d.does(t, "lock", "person", "bob", "--reason", "x")
	if _, out, _ := d.run(t, "check"); !strings.Contains(out, "state: grants: 1, locks: 1\n") {
		t.Errorf("check says\n%s", out)
	}
	must(t, os.Truncate(d.path("state/grants/"+g+".json"), 50))
	must(t, os.Truncate(d.path("state/locks/"+l+".json"), 50))
	d.fails(t, "cartsshd revoke "+g, "grants")
	d.fails(t, "cartsshd unlock "+l, "locks")
	_, out, _ := d.run(t, "check")
	if !strings.Contains(out, "warn  state ") || !strings.Contains(out, "BAD   state ") {
		t.Errorf("check says\n%s", out)
	}
	d.fails(t, "no such lock", "unlock", "all")
	d.fails(t, "no such lock", "unlock", "person", "bob")
	d.does(t, "unlock", l)
	d.does(t, "revoke", g)
	if state := d.store(t).Read(); state.Faults != nil {
		t.Errorf("left %+v", state)
	}
}

func TestWhatIsListedCannotDriveATerminal(t *testing.T) {
	d := newDesk(t)
	d.does(t, "lock", "all", "--reason", "\x1b[2J\u202eevil")
	for _, args := range [][]string{{"locks"}, {"locks", "--json"}, {"unlock", "all"}} {
		if _, out, _ := d.run(t, args...); strings.ContainsAny(out, "\x1b\u202e") {
			t.Errorf("%q: %q", args, out)
		}
	}
}
