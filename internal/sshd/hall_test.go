package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// hall is a server with containers that are not there: what is started runs
// here, as whoever runs the test. All else is the real thing.
type hall struct {
	t       testing.TB
	server  *Server
	addr    string
	record  string // directory
	alice   gossh.Signer
	bob     gossh.Signer // may run two commands
	options string       // of alice's key, as in authorized_keys(5)
	stop    func() error // and wait until Serve has returned
	tools   shelf
	start   func(*nsexec.Cmd) (process, error)
	log     *syncBuffer

	mu         sync.Mutex
	containers map[string]*exec.Cmd
}

// newHall starts a hall with the containers web-1, web-2, web-a, web-b and db-1,
// of which alice may enter all but the last (a and b with those tools only), and bob web-1 only for what he may run there.
func newHall(t testing.TB, adjust ...func(*Server)) *hall {
	t.Helper()
	return newHallOf(t, newKey(t), adjust...)
}

// newHallOf starts a hall in which alice has this key.
func newHallOf(t testing.TB, alice gossh.Signer, adjust ...func(*Server)) *hall {
	t.Helper()
	h := &hall{t: t, record: t.TempDir(), alice: alice, bob: newKey(t), log: new(syncBuffer)}
	h.start = startHere
	h.containers = map[string]*exec.Cmd{}
	for _, name := range []string{"web-1", "web-2", "web-a", "web-b", "db-1"} {
		h.containers[name] = sleeper(t)
	}
	record, err := audit.Open(h.record)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { record.Close() })
	policy := h.policy()
	h.server = &Server{
		Targets:  h,
		Policy:   func() *authz.Policy { return policy },
		Tools:    func(demand string) (Tools, error) { return h.tools.choose(demand) },
		Record:   record,
		HostKeys: []gossh.Signer{newKey(t)},
		Logger:   slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		start:    func(c *nsexec.Cmd) (process, error) { return h.start(c) },
		openTTY:  openTTYHere,
	}
	for _, f := range adjust {
		f(h.server)
	}
	h.serve()
	t.Cleanup(func() {
		h.stop()
		if t.Failed() {
			t.Logf("log:\n%s", h.log)
		}
	})
	return h
}

func (h *hall) serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(ctx, ln) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-served })
}

func (h *hall) policy() *authz.Policy {
	h.t.Helper()
	return h.policyOf(`
  - {name: with-a, who: [alice], targets: [{name: web-a}], allow: [shell], terms: {image: a}}
  - {name: with-b, who: [alice], targets: [{name: web-b}], allow: [shell], terms: {image: b}}
  - {name: web, who: [alice], targets: [{name: "web-*"}], allow: [shell]}
  - {name: look, who: [bob], targets: [{name: web-1}], allow: [exec: ["/bin/echo *", "/bin/nothing", "/etc/passwd"]]}
`)
}

// policyOf makes a policy of rules.
func (h *hall) policyOf(rules string) *authz.Policy {
	h.t.Helper()
	text := fmt.Sprintf(`
people:
  alice: {keys: ['%s %s'], groups: [ops]}
  bob: {keys: ["%s"]}
rules:
%s`, h.options, authorized(h.alice), authorized(h.bob), rules)
	return policyOf(h.t, text)
}

// policyOf reads a policy.
func policyOf(t testing.TB, text string) *authz.Policy {
	t.Helper()
	var file struct {
		People      authz.People      `yaml:"people"`
		Authorities authz.Authorities `yaml:"authorities"`
		Rules       authz.Rules       `yaml:"rules"`
	}
	if err := strictyaml.Decode("policy", []byte(text), &file); err != nil {
		t.Fatal(err)
	}
	p, err := authz.New(authz.Document{People: file.People, Authorities: file.Authorities, Rules: file.Rules}, authz.Known{Profiles: []string{"general", "restricted"}, Runtimes: []string{"docker", "pid"}, Images: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Resolve knows the hall's containers.
func (h *hall) Resolve(_ context.Context, ref router.Ref) (*router.Target, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ref.ID == "twice" {
		return nil, router.ErrAmbiguous
	}
	c, ok := h.containers[ref.ID]
	if !ok {
		return nil, router.ErrNotFound
	}
	fd, err := unix.PidfdOpen(c.Process.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &router.Target{
		Runtime: "docker",
		ID:      strings.Repeat("0123456789abcdef", 4),
		Name:    ref.ID,
		PID:     c.Process.Pid,
		Process: os.NewFile(uintptr(fd), "pidfd"),
	}, nil
}

// shelf has the tools "a", and no others; what is started here needs none.
type shelf struct{ out atomic.Int32 } // chosen, and not closed yet

func (s *shelf) choose(demand string) (Tools, error) {
	if demand != "" && demand != "a" {
		return nil, fmt.Errorf("there is no %s on the shelf", demand)
	}
	s.out.Add(1)
	return s, nil
}

func (s *shelf) ID() string                       { return "sha256:a" }
func (s *shelf) Mount(*os.File) (*os.File, error) { return nil, errors.New("not here") }
func (s *shelf) Close() error                     { s.out.Add(-1); return nil }

// sleeper stands for a container's first process. Its input ends with the test,
// and so does it, even if the test crashes.
func sleeper(t testing.TB) *exec.Cmd {
	t.Helper()
	c := exec.Command("cat")
	_, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

// here is a process of the machine that runs the test.
type here struct {
	cmd   *exec.Cmd
	ended chan struct{}
	once  sync.Once
}

func startHere(c *nsexec.Cmd) (process, error) {
	local := func(s string) string { return strings.Replace(s, nsexec.Tools, "", 1) }
	path, err := exec.LookPath(local(c.Path))
	if err != nil {
		return nil, &nsexec.JoinError{Step: "execve", Err: errnoOf(err)}
	}
	cmd := &exec.Cmd{Path: path, Args: c.Args, Env: c.Env, Dir: "/", SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if c.TTY != nil {
		slave, err := slaveOf(c.TTY.Master)
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr.Setctty = true
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &here{cmd: cmd, ended: make(chan struct{})}
	go func() { cmd.Wait(); close(p.ended) }()
	return p, nil
}

func errnoOf(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return unix.EACCES
	}
	return unix.ENOENT
}

func (p *here) Wait() (nsexec.Status, error) {
	<-p.ended
	w := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if w.Signaled() {
		return nsexec.Status{Code: 128 + int(w.Signal()), Signal: w.Signal(), Core: w.CoreDump()}, nil
	}
	return nsexec.Status{Code: w.ExitStatus()}, nil
}

func (p *here) Signal(sig unix.Signal) error { return unix.Kill(-p.cmd.Process.Pid, sig) }

func (p *here) End() {
	p.once.Do(func() {
		killSession(p.cmd.Process.Pid)
		<-p.ended
	})
}

func (p *here) Close() error { p.End(); return nil }

// killSession kills what a cgroup would have held.
func killSession(sid int) {
	out, _ := exec.Command("ps", "-o", "pid=", "-s", fmt.Sprint(sid)).Output()
	for _, pid := range strings.Fields(string(out)) {
		var n int
		fmt.Sscan(pid, &n)
		unix.Kill(n, unix.SIGKILL)
	}
}

func openTTYHere() (*nsexec.TTY, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	return &nsexec.TTY{Master: os.NewFile(uintptr(fd), "ptmx")}, nil
}

func slaveOf(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN) })
	if err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
}

func newKey(t testing.TB) gossh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// keyFile makes a key for ssh(1).
func keyFile(t testing.TB) (gossh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, path
}

func authorized(key gossh.Signer) string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key.PublicKey())))
}

// dial signs in.
func (h *hall) dial(login string, key gossh.Signer) *gossh.Client {
	h.t.Helper()
	client, err := h.tryDial(login, gossh.PublicKeys(key))
	if err != nil {
		h.t.Fatal(err)
	}
	return client
}

func (h *hall) tryDial(login string, auth ...gossh.AuthMethod) (*gossh.Client, error) {
	client, err := gossh.Dial("tcp", h.addr, &gossh.ClientConfig{
		User:            login,
		Auth:            auth,
		HostKeyCallback: gossh.InsecureIgnoreHostKey(),
	})
	if err == nil {
		h.t.Cleanup(func() { client.Close() })
	}
	return client, err
}

// session opens a session as alice in web-1.
func (h *hall) session() *gossh.Session {
	h.t.Helper()
	return open(h.t, h.dial("web-1", h.alice))
}

func open(t testing.TB, client *gossh.Client) *gossh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ran is what became of a command.
type ran struct {
	out, err string
	code     int
	signal   string
}

// run runs a command as alice in web-1, or a shell if it is empty.
func (h *hall) run(command string) ran {
	h.t.Helper()
	return runOn(h.t, h.dial("web-1", h.alice), command)
}

func runOn(t testing.TB, client *gossh.Client, command string) ran {
	t.Helper()
	s := open(t, client)
	var out, err strings.Builder
	s.Stdout, s.Stderr = &out, &err
	code, signal := result(t, s.Run(command))
	return ran{out.String(), err.String(), code, signal}
}

// result is the exit status that a client was told.
func result(t testing.TB, err error) (code int, signal string) {
	t.Helper()
	var exit *gossh.ExitError
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &exit):
		return exit.ExitStatus(), exit.Signal()
	}
	t.Fatalf("no exit status: %v", err)
	return 0, ""
}

// journal is what was recorded, once the server has stopped.
func (h *hall) journal() []audit.Record {
	h.t.Helper()
	if err := h.stop(); err != nil {
		h.t.Fatal(err)
	}
	var all []audit.Record
	for r, err := range audit.ReadJournal(h.record) {
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// recorded are the events of one name, once the server has stopped.
func (h *hall) recorded(event string) []audit.Record {
	h.t.Helper()
	return slices.DeleteFunc(h.journal(), func(r audit.Record) bool { return r.Event != event })
}

// await returns when an event is in the record.
func (h *hall) await(event string) {
	for {
		for r, err := range audit.ReadJournal(h.record) {
			if err == nil && r.Event == event {
				return
			}
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// processState is the letter of proc_pid_stat(5), or nothing.
func processState(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[:1]
}
