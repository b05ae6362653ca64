// Package sshd is the hall: it lets people in by SSH, hears what they ask for,
// and leads them through the other rooms. Read session.serve first; it is the
// story of one session, from what was asked to how it ended.
//
// gliderlabs/ssh is the door and no more: it shakes hands and hands out the
// channels and requests of a connection. Who somebody is comes from the
// permissions that the verified key left on the connection, and which
// container they mean is the login name that was signed with it; never the
// library's context, which keeps the first of each. Its Session type is not
// used: PITFALLS of it are a test each in this package.
//
// Only sessions are served. Forwarding, agents, X11 and subsystems are refused
// and recorded, sftp with words. If you want a general SSH server, this is not it.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/approval"
	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

// Server lets people into containers. Targets, Policy, Tools, Record and at
// least one host key must be set before Serve, and nothing changed after it.
type Server struct {
	Targets interface {
		Resolve(ctx context.Context, ref router.Ref) (*router.Target, error)
	}

	// Policy returns the policy in force. It is asked anew for every sign-in
	// and for every session, so that a reload also holds for connections that
	// are already open.
	Policy func() *authz.Policy

	// Tools returns the tools that a rule demands ([authz.Terms]), or tells,
	// for the record, why there are none. It is asked once for each session.
	Tools func(demand string) (Tools, error)

	// TOTP takes a one-time password of a person whose secret is in that file, or
	// tells, for the record, why not. It takes none twice. Nil takes none at all.
	TOTP func(person, secretFile, code string) error
	// Approvals are the sessions that wait for somebody to let them begin; nil:
	// a table of its own.
	Approvals *approval.Table

	Record   *audit.Log
	HostKeys []gossh.Signer
	Logger   *slog.Logger // nil: slog.Default
	Limits   Limits

	// Chacha20 also offers chacha20-poly1305, last. OpenSSH's clients prefer
	// it, and x/crypto runs it in generic Go, several times slower than AES-GCM.
	Chacha20 bool

	once      sync.Once
	strangers gate
	everyone  gate
	running   running

	// Seams for tests; nil is the real one.
	start   func(*nsexec.Cmd) (process, error)
	openTTY func() (*nsexec.TTY, error)

	leave time.Duration // before a session ends that the policy allows no longer
}

// Tools are a tools image. Whoever has it may mount it until they close it, even
// if it is not in force any more.
type Tools interface {
	ID() string // for the record
	Mount(userns *os.File) (*os.File, error)
	Close() error
}

// Limits bound what clients can make the server hold. Zero is the default.
type Limits struct {
	Connections int           // at a time; 4096
	Strangers   int           // connections not signed in yet; 1024
	PerAddress  int           // of these, from one address (IPv6: one /64); 32. Signed in, eight times as many
	Sessions    int           // of one connection; 64
	AuthTries   int           // failed sign-ins of one connection; 6
	LoginGrace  time.Duration // to sign in; 30 s. Four times as long where something is asked
	Keepalive   time.Duration // between questions whether a client is there; after three without an answer it is not; 15 s
}

func (l Limits) orDefault() Limits {
	return Limits{
		Connections: or(l.Connections, 4096),
		Strangers:   or(l.Strangers, 1024),
		PerAddress:  or(l.PerAddress, 32),
		Sessions:    or(l.Sessions, 64),
		AuthTries:   or(l.AuthTries, 6),
		LoginGrace:  or(l.LoginGrace, 30*time.Second),
		Keepalive:   or(l.Keepalive, 15*time.Second),
	}
}

func or[T int | time.Duration](n, standard T) T {
	if n > 0 {
		return n
	}
	return standard
}

func (s *Server) setUp() {
	s.Limits = s.Limits.orDefault()
	s.everyone.max, s.everyone.each = s.Limits.Connections, 8*s.Limits.PerAddress
	s.strangers.max, s.strangers.each = s.Limits.Strangers, s.Limits.PerAddress
	if s.Approvals == nil {
		s.Approvals = new(approval.Table)
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
}

// Serve lets people in who come by ln, until ctx is done. Then it ends the
// sessions, each with its words and its record, and returns nil when all are
// gone. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if len(s.HostKeys) == 0 {
		// gliderlabs/ssh would make an RSA key up, another one each time.
		return errors.New("sshd: no host key")
	}
	s.once.Do(s.setUp)

	var people sync.WaitGroup
	defer people.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		raw, err := accept(ctx, ln)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sshd: %w", err)
		}
		people.Go(func() { s.welcome(ctx, raw) })
	}
}

// accept tries again after what passes by itself, such as too many open files.
func accept(ctx context.Context, ln net.Listener) (net.Conn, error) {
	for {
		raw, err := ln.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return raw, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// guard, deferred in every goroutine that serves a client, keeps a panic to
// the one whom it happened to.
func (s *Server) guard(what string) {
	if p := recover(); p != nil {
		s.panicked(what, p)
	}
}

func (s *Server) panicked(what string, p any) {
	s.Logger.Error("panic", "in", what, "panic", p, "stack", string(debug.Stack()))
}
