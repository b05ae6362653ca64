package sshd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
)

// session is one session channel. A connection may have many, and they know
// nothing of each other.
type session struct {
	conn   *conn
	server *Server
	peer   *gossh.ServerConn
	login  login           // the container, as the person named it
	key    gossh.PublicKey // the person, as they have proved
	given  given           // and besides
	ch     gossh.Channel

	// What was asked for so far. Only the request loop touches these, until
	// it starts serve, and then only serve does.
	pty     *terminal
	env     []string
	wanted  []variable        // that a rule may allow
	reasons map[string]string // by the variable that brought it
	started bool

	// What is asked while the command runs. The latest size is all that
	// matters, so a storm of resizes is one.
	mu      sync.Mutex
	newest  size
	resized chan struct{}
	signals chan unix.Signal

	found bool // something of that name is there

	// Of a session that has waited for approval.
	approvers []audit.Approver
	saying    sync.WaitGroup // that it waits, and for what
	ahead     *typeahead     // nil: nothing was typed meanwhile

	// What serve has opened so far.
	reason  string // that its rule asks for
	tools   Tools
	record  *audit.Session
	streams *streams
	seat    *taken
	clock   *clock
	kept    []io.Closer

	standing standing
	over     chan ending // takes one, from whoever ends the session

	left chan struct{} // closed when the client has closed the channel, or is gone
}

// ask is what a session is to run.
type ask struct {
	kind    authz.Kind
	command string // of an exec, as sent
}

// Why a session's context is done.
var (
	errClientLeft = errors.New("client left")
	errStopping   = errors.New("server stopped")
)

// openSession accepts a session channel and hears its requests until the
// client closes it.
func (c *conn) openSession(_ *ssh.Server, peer *gossh.ServerConn, newChannel gossh.NewChannel, _ ssh.Context) {
	defer c.server.guard("session channel")
	if !c.sit() {
		c.refuse(peer.User(), "one session too many")
		newChannel.Reject(gossh.ResourceShortage, "too many sessions on this connection")
		return
	}
	defer c.rise()
	ch, requests, err := newChannel.Accept()
	if err != nil {
		c.busy()
		return
	}
	c.keepWatch(peer)
	besides, _ := peer.Permissions.ExtraData[answered{}].(given)
	s := &session{
		conn:    c,
		server:  c.server,
		peer:    peer,
		login:   parseLogin(peer.User()),
		key:     peer.Permissions.ExtraData[proved{}].(gossh.PublicKey),
		given:   besides,
		ch:      ch,
		resized: make(chan struct{}, 1),
		signals: make(chan unix.Signal, 8),
		left:    make(chan struct{}),
		over:    make(chan ending, 1),
	}
	s.hear(requests)
}

// hear serves the requests of the channel. It must never wait for anything: a
// request that is not taken from x/crypto blocks the whole connection.
func (s *session) hear(requests <-chan *gossh.Request) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer context.AfterFunc(s.conn.stop, func() { cancel(errStopping) })()
	busy := sync.OnceFunc(s.conn.busy)
	defer busy()
	tooLong := time.AfterFunc(s.server.Limits.LoginGrace, func() { s.ch.Close() })
	defer tooLong.Stop()
	var served sync.WaitGroup
	for req := range requests {
		ask, ok := s.request(req)
		req.Reply(ok, nil)
		if ask == nil {
			continue
		}
		tooLong.Stop()
		busy()
		served.Add(1)
		if !s.conn.run("session", func() { defer served.Done(); s.run(ctx, *ask) }) {
			served.Done()
			s.ch.Close() // the server is stopping
		}
	}
	close(s.left)
	cancel(errClientLeft)
	served.Wait() // its place is free when its command is gone
}

// request hears one request. With the one that starts the session it returns
// what to run.
func (s *session) request(req *gossh.Request) (*ask, bool) {
	switch req.Type {
	case "shell", "exec":
		return s.begin(req)
	case "pty-req":
		return nil, s.wantTerminal(req.Payload)
	case "env":
		return nil, s.wantEnv(req.Payload)
	case "window-change":
		return nil, s.resize(req.Payload)
	case "signal":
		return nil, s.signal(req.Payload)
	case "keepalive@openssh.com":
		return nil, true
	case "subsystem":
		return s.subsystem(req)
	}
	return nil, s.refuse(brief(req.Type)) // x11-req, auth-agent-req@openssh.com …
}

func (s *session) refuse(detail string) bool {
	s.conn.refuse(s.login.typed, detail)
	return false
}

// begin hears a shell or exec: one for each channel (RFC 4254, section 6.5).
func (s *session) begin(req *gossh.Request) (*ask, bool) {
	if s.started {
		return nil, s.refuse("second " + req.Type + " on one channel")
	}
	if req.Type == "shell" {
		s.started = true
		return &ask{kind: authz.Shell}, true
	}
	command, err := parseExec(req.Payload)
	if err != nil {
		return nil, s.refuse("exec: " + err.Error())
	}
	s.started = true
	return &ask{kind: authz.Exec, command: command}, true
}

// subsystem hears of sftp, so that the person can be told why there is none. Its
// client shows what comes on stderr, and says little itself.
func (s *session) subsystem(req *gossh.Request) (*ask, bool) {
	name, err := parseSubsystem(req.Payload)
	if err != nil || name != "sftp" || s.started {
		return nil, s.refuse("subsystem " + brief(name))
	}
	s.started = true
	return &ask{kind: authz.SFTP}, true
}

func (s *session) wantTerminal(payload []byte) bool {
	if s.started || s.pty != nil {
		return s.refuse("pty-req: too late")
	}
	if who, _ := s.identify(s.server.Policy()); who.Bounds.NoPTY {
		return s.refuse("pty-req: the key is not for terminals")
	}
	pty, err := parsePTY(payload)
	if err != nil {
		return s.refuse("pty-req: " + err.Error())
	}
	s.pty = pty
	return true
}

// wantEnv refuses quietly: clients send their whole SendEnv.
func (s *session) wantEnv(payload []byte) bool {
	if s.started || len(s.env)+len(s.wanted) >= maxEnv {
		return false
	}
	if s.wantReason(payload) {
		return true
	}
	if pair, err := parseEnv(payload); err == nil {
		s.env = append(s.env, pair)
		return true
	}
	v, err := parseVariable(payload)
	if err != nil {
		return false
	}
	s.wanted = append(s.wanted, v)
	return true
}

// resize may come at any time after pty-req, before the shell as well.
func (s *session) resize(payload []byte) bool {
	z, err := parseResize(payload)
	if err != nil || s.pty == nil {
		return false
	}
	s.mu.Lock()
	s.newest = z
	s.mu.Unlock()
	select {
	case s.resized <- struct{}{}:
	default: // one is pending, and will find the newest size
	}
	return true
}

func (s *session) signal(payload []byte) bool {
	sig, err := parseSignal(payload)
	if err != nil {
		return s.refuse("signal: " + err.Error())
	}
	select {
	case s.signals <- sig:
		return true
	default:
		return false
	}
}
