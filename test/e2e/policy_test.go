package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
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
		{"alice", "pid:1", "id", "", "host's own"},
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

// All three with one login name: a process that sees the files of one container
// while another's share them; then of that one alone, which is forbidden; and
// then the process is gone.
func TestAmbiguousForbiddenAndUnknownLookTheSame(t *testing.T) {
	d := rig.Docker(t)
	vault := d.Run(t, "vault", "--label", "tier=secrets")
	intruder := among(t, vault.PID)
	moveToCgroupOf(t, intruder, d.Run(t, "web-1").PID)
	process := among(t, vault.PID)
	h := serving(t, d)
	login := fmt.Sprintf("pid:%d", process.Process.Pid)
	asked := func(why string) result {
		got := h.run(t, "alice", login, "true")
		if r := h.last(t, audit.SessionDenied); !strings.Contains(r.Detail, why) {
			t.Errorf("recorded as %q, want %q", r.Detail, why)
		}
		return got
	}

	ambiguous := asked("more than one container: docker:vault, docker:web-1")
	intruder.Process.Kill()
	intruder.Wait()
	forbidden := asked("ask security")
	process.Process.Kill()
	process.Wait()
	unknown := asked("no such container")

	ambiguous.is(t, unknown)
	forbidden.is(t, unknown)
	unknown.is(t, result{stderr: "cartsshd: " + login + sentence, code: 255})
}

// among starts a process that sees a container's files, and is not in it.
func among(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	need.Tool(t, "nsenter", "util-linux")
	cmd := exec.Command("nsenter", "--mount", "--target", strconv.Itoa(pid), "/bin/busybox", "cat")
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	io.WriteString(stdin, "x") // cat runs when it gives back what it was given
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// moveToCgroupOf moves a process to the cgroup v2 of another.
func moveToCgroupOf(t *testing.T, cmd *exec.Cmd, pid int) {
	t.Helper()
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, path, found := strings.Cut(string(cgroups), "0::")
	if !found {
		t.Fatalf("no cgroup v2 in %q", cgroups)
	}
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	procs := filepath.Join(root, strings.TrimSpace(path), "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
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
