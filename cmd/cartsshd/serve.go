package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/glance"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/sshd"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/totp"
)

type serveCmd struct {
	Config string `short:"c" placeholder:"FILE" default:"/etc/cartsshd/config.yaml" help:"Configuration (${default})."`
	Debug  bool   `help:"Log more."`
}

func (c serveCmd) Run(ctx context.Context) error {
	delayCollections()
	logger := c.logger()
	var files glance.Watch
	files.Look(c.Config) // before it is read: what changes after that is seen
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	d, err := newDaemon(cfg, logger)
	if err != nil {
		return err
	}
	defer d.close()
	d.path, d.read, d.named = c.Config, files, watched(c.Config, cfg)
	d.read.Also(d.named...)
	d.sweep()
	ln, err := listen(cfg.Listen)
	if err != nil {
		return err
	}
	defer on(unix.SIGHUP, d.reload)()
	defer every(glanceAtConfig, d.followConfig)()
	return d.serve(ctx, ln)
}

func (c serveCmd) logger() *slog.Logger {
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// A daemon is a configuration made real.
type daemon struct {
	cfg    *config.Config
	logger *slog.Logger
	policy atomic.Pointer[authz.Policy]
	tools  toolbox
	record *audit.Log
	key    gossh.Signer

	source
	beside
	changed func() // judges those again who are in already; nil: nobody is
}

// newDaemon puts the parts together. Whatever is missing or broken is told
// here, before anybody could connect.
func newDaemon(cfg *config.Config, logger *slog.Logger) (*daemon, error) {
	d := &daemon{cfg: cfg, logger: logger}
	d.rules = cfg.Policy
	d.policy.Store(cfg.Policy)
	if err := nsexec.Check(); err != nil {
		return nil, err
	}
	var err error
	if d.key, err = hostKey(cfg.HostKey); err != nil {
		return nil, err
	}
	d.store = standing.In(cfg.State.Dir, d.key)
	if d.tools.set, err = openToolset(cfg.Image); err != nil {
		return nil, err
	}
	if d.record, err = audit.Open(cfg.Record.Dir); err != nil {
		d.tools.swap(nil)
		return nil, err
	}
	return d, nil
}

// sweep takes away what commands at the host have left in containers that were
// killed. It keeps nobody from coming in.
func (d *daemon) sweep() {
	l, err := openLedger()
	if err == nil {
		err = l.close()
	}
	if err != nil {
		d.logger.Warn("what commands at the host may have left behind", "err", err)
	}
}

func (d *daemon) close() {
	if err := errors.Join(d.record.Close(), d.tools.swap(nil)); err != nil {
		d.logger.Error("closing", "err", err)
	}
}

// serve lets people in by ln until ctx is done.
func (d *daemon) serve(ctx context.Context, ln net.Listener, more ...router.Runtime) error {
	found := append(more, runtimes(d.cfg.Runtimes)...)
	for _, r := range found {
		go d.warnOffline(r)
	}
	server := &sshd.Server{
		Targets:  &router.Table{Runtimes: found},
		Policy:   d.policy.Load,
		Tools:    d.tools.choose,
		TOTP:     (&totp.Checker{Dir: filepath.Join(d.cfg.State.Dir, "totp")}).Check,
		Record:   d.record,
		HostKeys: []gossh.Signer{d.key},
		Logger:   d.logger,
		Limits: sshd.Limits{
			Connections: int(d.cfg.Limits.Connections),
			PerAddress:  int(d.cfg.Limits.ConnectionsPerAddress),
			Sessions:    int(d.cfg.Limits.SessionsPerConnection),
			LoginGrace:  d.cfg.Limits.LoginGrace,
		},
	}
	if err := d.recordStart(); err != nil {
		ln.Close()
		return err
	}
	d.changed = server.Judge
	d.startState(time.Now())
	defer every(glanceAtState, func() { d.followState(time.Now()) })()
	d.logger.Info("listening", "address", ln.Addr(), "host key", gossh.FingerprintSHA256(d.key.PublicKey()), "version", version())
	err := server.Serve(ctx, ln)
	d.logger.Info("stopped")
	return errors.Join(err, d.record.Event(audit.Event{Event: audit.DaemonStop, Detail: stopWords(ctx)}))
}

func (d *daemon) recordStart() error {
	err := d.record.Event(audit.Event{Event: audit.DaemonStart, Detail: "cartsshd " + version()})
	d.warnUnmet(d.cfg.Policy, d.tools.now())
	return errors.Join(err, d.announce(d.tools.now(), nil))
}

// announce records which tools are new.
func (d *daemon) announce(set, old toolset) error {
	var errs []error
	for _, c := range set {
		switch {
		case c.tools == nil:
			d.logger.Info("tools image skipped", "file", c.path, "architecture", c.arch)
		case !old.has(c.tools):
			d.logger.Info("tools image loaded", "file", c.path, "digest", c.tools.ID())
			errs = append(errs, d.record.Event(audit.Event{Event: audit.ToolsLoaded, Tools: c.tools.ID(), Detail: c.path}))
		}
	}
	return errors.Join(errs...)
}

// warnUnmet warns only: the image that a digest names may be on its way.
func (d *daemon) warnUnmet(p *authz.Policy, set toolset) {
	for _, err := range set.unmet(p) {
		d.logger.Warn("sessions by a rule will be denied", "err", err)
	}
}

// warnOffline warns of an emergency in which nobody could be let in. Nobody
// waits for it: an engine may hang, and it is not yet time to care.
func (d *daemon) warnOffline(r router.Runtime) {
	docker, ok := r.(*router.Docker)
	if !ok {
		return
	}
	if err := offline(docker); err != nil {
		d.logger.Warn("containers will not be found while docker is dead", "err", err)
	}
}

func stopWords(ctx context.Context) string {
	if err := context.Cause(ctx); err != nil {
		return err.Error()
	}
	return "the listener failed"
}
