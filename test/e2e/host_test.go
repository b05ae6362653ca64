package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// Of these people, alice and carol may have shells in every container web-* and
// in those without a name; bob may run some commands there; dave may nothing.
const sample = `listen: "127.0.0.1:0"
host_key: host_key
image: {path: %q}
record: {dir: record}
state: {dir: state}
runtimes: {%spid: {}}
people:
  alice: {keys: [%s], groups: [sre]}
  carol: {keys: [%s], groups: [sre]}
  bob: {keys: [%s]}
  dave: {keys: [%s]}
rules:
  - {name: vault, who: ["*"], targets: [{labels: {tier: secrets}}], deny: ask security}
  - {name: sre, who: [group:sre], targets: [{name: "web-*"}, {runtime: pid}], allow: [shell]}
  - {name: errands, who: [bob], targets: [{name: "web-*"}], allow: [exec: ["echo *", cat, "/dev/crashcart/bin/tcpdump --version"]]}
`

// host is a machine with containers on it and a jump server before them.
type host struct {
	dir  string // of its config.yaml
	port string
	log  *screen

	server *exec.Cmd // nil if it does not run
	ended  chan struct{}
}

// newHost lays out everything that the server needs, and does not start it.
func newHost(t testing.TB, docker *rig.Dockerd) *host {
	t.Helper()
	h := &host{dir: t.TempDir()}
	engine := ""
	if docker != nil {
		engine = fmt.Sprintf("docker: {socket: %q}, ", docker.Socket)
	}
	h.write(t, "config.yaml", fmt.Sprintf(sample, toolsImage(t), engine,
		publicKey(t, "alice"), publicKey(t, "carol"), publicKey(t, "bob"), publicKey(t, "dave")))
	public := publicKey(t, "host")
	private, err := os.ReadFile(privateKey("host"))
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, "host_key", string(private))
	h.write(t, "known_hosts", "cartsshd "+public+"\n")
	return h
}

// serving is a host whose jump server runs. When the test ends so does the
// server, which must then have nothing to be ashamed of.
func serving(t testing.TB, docker *rig.Dockerd) *host {
	t.Helper()
	h := newHost(t, docker)
	h.start(t)
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit changes a part of config.yaml.
func (h *host) edit(t testing.TB, from, to string) {
	t.Helper()
	text, err := os.ReadFile(h.path("config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), from) != 1 {
		t.Fatalf("%q is not once in config.yaml:\n%s", from, text)
	}
	h.write(t, "config.yaml", strings.Replace(string(text), from, to, 1))
}

var listening = regexp.MustCompile(`msg=listening address=127\.0\.0\.1:(\d+)`)

// start returns when the door is open.
func (h *host) start(t testing.TB) {
	t.Helper()
	h.log = &screen{}
	h.server = exec.Command(program(t), "serve", "--config", h.path("config.yaml"))
	h.server.Stdout, h.server.Stderr = h.log, h.log
	h.ended = spawn(t, h.server)
	t.Cleanup(func() { h.stop(t) })
	eventually(t, "the server listens", func() bool {
		select {
		case <-h.ended:
			t.Fatalf("the server has ended:\n%s", h.log)
		default:
		}
		found := listening.FindStringSubmatch(h.log.String())
		if found != nil {
			h.port = found[1]
		}
		return found != nil
	})
}

// spawn starts a program that ends with us, even if we are killed: the signal
// for that is sent when the parent's *thread* ends, and Go ends threads as it
// likes, so it has one of its own. What is returned is closed at its end.
func spawn(t testing.TB, cmd *exec.Cmd) chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended, started := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return ended
}

// stop ends the server as systemd does. There must be nothing for it to be
// ashamed of.
func (h *host) stop(t testing.TB) {
	t.Helper()
	if h.server == nil {
		return
	}
	code := h.end(t, syscall.SIGTERM)
	if t.Failed() {
		t.Logf("the server's log:\n%s", h.log)
	}
	if code != 0 {
		t.Errorf("the server ended with %d:\n%s", code, h.log)
	}
	for _, shame := range []string{"DATA RACE", "panic"} {
		if strings.Contains(h.log.String(), shame) {
			t.Errorf("the server's log tells of a %s:\n%s", shame, h.log)
		}
	}
}

// end sends the server a signal, and returns its exit code.
func (h *host) end(t testing.TB, sig syscall.Signal) int {
	t.Helper()
	h.server.Process.Signal(sig)
	select {
	case <-h.ended:
	case <-time.After(patience):
		h.server.Process.Signal(syscall.SIGQUIT) // where does it hang?
		<-h.ended
		t.Errorf("the server did not end:\n%s", h.log)
	}
	code := h.server.ProcessState.ExitCode()
	h.server = nil
	return code
}

// journal is all of the record.
func (h *host) journal(t testing.TB) []audit.Record {
	t.Helper()
	var records []audit.Record
	for r, err := range audit.ReadJournal(h.path("record")) {
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

// recorded returns the records of one kind.
func (h *host) recorded(t testing.TB, event string) []audit.Record {
	t.Helper()
	return slices.DeleteFunc(h.journal(t), func(r audit.Record) bool { return r.Event != event })
}

// last returns the newest record of one kind.
func (h *host) last(t testing.TB, event string) audit.Record {
	t.Helper()
	records := h.recorded(t, event)
	if len(records) == 0 {
		t.Fatalf("the record has no %s", event)
	}
	return records[len(records)-1]
}
