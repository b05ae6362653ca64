package main

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

type demoCmd struct {
	Image string `placeholder:"FILE" default:"tools.img" help:"Tools image, built if it is not there (${default})."`
	Port  uint16 `default:"2222" help:"Port on localhost (${default})."`
}

// Run starts a container and a jump server, both throw-away. At a terminal it
// says how to get in, and waits; without one it gets in by itself, and fails
// unless all goes as it should.
func (c demoCmd) Run(ctx context.Context, out io.Writer) error {
	if err := nsexec.Check(); err != nil {
		return err
	}
	// Whatever ends us, a closed terminal or a closed pipe, nothing is left.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer on(unix.SIGHUP, cancel)()
	defer on(unix.SIGPIPE, cancel)()
	if err := c.buildImage(ctx); err != nil {
		return err
	}
	d, err := newDemo(c)
	if err != nil {
		return err
	}
	defer d.close()
	if term.IsTerminal(int(os.Stdin.Fd())) {
		d.invite(out)
		<-ctx.Done()
		return nil
	}
	return d.drive(ctx, out)
}

func (c demoCmd) buildImage(ctx context.Context) error {
	if _, err := os.Stat(c.Image); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return image.Build(ctx, image.Options{Output: c.Image, Log: os.Stderr})
}

// A demo is a running one.
type demo struct {
	dir    string // throw-away
	port   uint16
	daemon *daemon
	stop   func()
	ended  chan struct{} // when served is the error of the server
	served error
	web    *demoRuntime
}

func newDemo(c demoCmd) (*demo, error) {
	dir, err := os.MkdirTemp("", "cartsshd-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{dir: dir, port: c.Port, ended: make(chan struct{}), stop: func() {}}
	close(d.ended) // nothing serves yet
	if err := d.start(c); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *demo) start(c demoCmd) error {
	img, err := filepath.Abs(c.Image)
	if err != nil {
		return err
	}
	alice, err := makeKey(d.path("alice"))
	if err != nil {
		return err
	}
	for _, name := range []string{"mallory", "host_key"} {
		if _, err := makeKey(d.path(name)); err != nil {
			return err
		}
	}
	text := fmt.Sprintf(demoConfig, d.port, img, alice)
	if err := os.WriteFile(d.path("config.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	cfg, err := config.Load(d.path("config.yaml"))
	if err != nil {
		return err
	}
	log, err := os.Create(d.path("log"))
	if err != nil {
		return err
	}
	if d.daemon, err = newDaemon(cfg, slog.New(slog.NewTextHandler(log, nil))); err != nil {
		return err
	}
	container, err := startDemoContainer()
	if err != nil {
		return err
	}
	d.web = &demoRuntime{container}
	return d.serve()
}

// serve returns when the door is open.
func (d *demo) serve() error {
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	ln, err := net.Listen("tcp", string(d.daemon.cfg.Listen))
	if err != nil {
		return fmt.Errorf("%w (for another port: build/cartsshd demo --port 2223 --image build/tools.img)", err)
	}
	d.ended = make(chan struct{})
	go func() {
		defer close(d.ended)
		d.served = d.daemon.serve(ctx, ln, d.web)
	}()
	return nil
}

func (d *demo) close() {
	d.stop()
	if d.web != nil {
		_ = d.web.container.Process.Kill()
		_ = d.web.container.Wait()
	}
	<-d.ended
	if d.daemon != nil {
		d.daemon.close()
	}
	os.RemoveAll(d.dir)
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

const demoConfig = `listen: "127.0.0.1:%d"
host_key: host_key
image: {path: %q}
record: {dir: record}
state: {dir: state}
runtimes: {pid: {}}
people:
  alice: {keys: [%s]}
rules:
  - {name: demo, who: [alice], targets: [{name: "web-*"}], allow: [shell]}
`

// demoRuntime knows one container.
type demoRuntime struct{ container *exec.Cmd }

func (demoRuntime) Name() string { return "demo" }

func (r demoRuntime) Find(_ context.Context, id string) ([]router.Found, error) {
	if id != "web-1" {
		return nil, nil
	}
	return []router.Found{{ID: "web-1", Name: "web-1", Image: "none", PID: r.container.Process.Pid}}, nil
}

// List lists it.
func (r demoRuntime) List(ctx context.Context) ([]router.Found, error) { return r.Find(ctx, "web-1") }

// Verify has nothing to ask: the process is our child, and not waited for.
func (demoRuntime) Verify(router.Found) error { return nil }

// makeKey writes a private key, and returns the public one as in a .pub file.
func makeKey(path string) (string, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	block, err := gossh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	key, err := gossh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(key))), nil
}

// ssh is the stock client's command line for a login by somebody's key.
func (d *demo) ssh(key, login string, more ...string) []string {
	args := []string{"ssh", "-F", "none", "-p", strconv.Itoa(int(d.port)), "-i", d.path(key),
		"-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + d.path("known_hosts"), "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"}
	return append(append(args, login+"@localhost"), more...)
}

func (d *demo) invite(out io.Writer) {
	fmt.Fprintf(out, `
The container web-1 is running: no shell in it, no libc, one static web server.
try:  %s
then: curl -s localhost:8080 ; ps ; ls / ; tcpdump --version
The record of it is in %s, as long as this runs.
Ctrl-C ends it all and leaves nothing.
`, strings.Join(d.ssh("alice", "web-1"), " "), d.daemon.cfg.Record.Dir)
}
