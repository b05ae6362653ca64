package sshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
)

// What is offered, in x/crypto's words. Of each kind the client's first choice
// among these is taken. chacha20 is missing on purpose: see Server.Chacha20.
var (
	keyExchanges = []string{
		gossh.KeyExchangeMLKEM768X25519,
		gossh.KeyExchangeCurve25519, // brings its @libssh.org name along
		gossh.KeyExchangeECDHP256,
		gossh.KeyExchangeECDHP384,
		gossh.KeyExchangeECDHP521,
	}
	ciphers = []string{
		gossh.CipherAES128GCM,
		gossh.CipherAES256GCM,
		gossh.CipherAES128CTR,
		gossh.CipherAES192CTR,
		gossh.CipherAES256CTR,
	}
	macs = []string{
		gossh.HMACSHA256ETM,
		gossh.HMACSHA512ETM,
	}
	// No ssh-rsa: that is RSA with SHA-1. What signs for a certificate is the
	// key in it, so these are for certificates as well.
	keyAlgorithms = []string{
		gossh.KeyAlgoED25519,
		gossh.KeyAlgoSKED25519,
		gossh.KeyAlgoECDSA256,
		gossh.KeyAlgoECDSA384,
		gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoRSASHA256,
		gossh.KeyAlgoRSASHA512,
	}
)

// signin is how a connection's sign-in goes. All of it happens in the
// connection's own goroutine, before the first channel.
type signin struct {
	grace *time.Timer // until then
	over  func()      // gives the place among strangers back

	tried    bool
	login    string // the last that was tried
	software string
	why      string // it failed, for the record
	asked    bool   // for more than a key
	broken   error  // what ended the connection before it was signed in

	key    gossh.PublicKey // of who has signed in, or nil
	person *audit.Person   // the same, for the record of the connection; sessions ask the policy again
}

// proved is where the permissions of a connection keep the key that was proved.
type proved struct{}

// door is gliderlabs/ssh, with nothing of its own left to decide. Each
// connection has one, so that what the library calls back knows for whom.
func (c *conn) door() *ssh.Server {
	return &ssh.Server{
		Version:              "cartsshd",
		HostSigners:          c.server.hostSigners(),
		ServerConfigCallback: func(ssh.Context) *gossh.ServerConfig { return c.config() },
		ConnectionFailedCallback: func(_ net.Conn, err error) {
			c.signin.broken = err
		},
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session": c.openSession,
			"default": c.refuseChannel,
		},
		RequestHandlers: map[string]ssh.RequestHandler{
			"default": c.answer,
		},
	}
}

func (s *Server) hostSigners() []ssh.Signer {
	signers := make([]ssh.Signer, len(s.HostKeys))
	for i, key := range s.HostKeys {
		signers[i] = key
	}
	return signers
}

func (c *conn) config() *gossh.ServerConfig {
	config := &gossh.ServerConfig{
		Config: gossh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs},

		PublicKeyAuthAlgorithms:   keyAlgorithms,
		MaxAuthTries:              c.server.Limits.AuthTries,
		PublicKeyCallback:         c.offered,
		VerifiedPublicKeyCallback: c.verified,
		AuthLogCallback:           c.attempted,

		// gliderlabs/ssh sets NoClientAuth when none of its own handlers is
		// set, and lets everyone in: unless this says no.
		NoClientAuthCallback: func(gossh.ConnMetadata) (*gossh.Permissions, error) {
			return nil, errors.New("no key was offered")
		},
	}
	if c.server.Chacha20 {
		config.Ciphers = append(ciphers[:len(ciphers):len(ciphers)], gossh.CipherChaCha20Poly1305)
	}
	return config
}

// offered takes every key, for what it is worth: nothing yet. Were it to tell
// known keys from others, anyone with a list of public keys (GitHub has one for
// everybody) could ask us who works here. Of a certificate nothing is known
// either: whether its authority is one of ours, the policy judges.
func (c *conn) offered(meta gossh.ConnMetadata, _ gossh.PublicKey) (*gossh.Permissions, error) {
	c.signin.tried, c.signin.login = true, meta.User()
	return nil, nil
}

// verified decides, once the client has shown that the key is its own.
func (c *conn) verified(meta gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
	policy := c.server.Policy()
	who, err := policy.Identify(authz.Credential{Key: key, From: c.from, Time: time.Now()})
	if err != nil {
		return nil, err
	}
	person := personOf(who, key)
	c.signin.person = &person
	if steps := c.stepsOf(policy, who, key, parseLogin(meta.User())); !steps.none() {
		return nil, steps.demand()
	}
	return c.admit(meta, key, who, given{}), nil
}

// admit ends a sign-in well.
func (c *conn) admit(meta gossh.ConnMetadata, key gossh.PublicKey, who authz.Subject, besides given) *gossh.Permissions {
	c.signin.key = key
	c.signin.grace.Stop()
	c.signin.over()
	client := c.client(string(meta.ClientVersion()))
	if err := c.server.Record.Note(audit.Event{Event: audit.SigninOK, Person: c.signin.person, Client: &client, Login: meta.User(), Reason: besides.reason}); err != nil {
		c.server.Logger.Error("record", "err", err)
	}
	c.server.Logger.Info("signed in", "person", who.Person, "client", meta.RemoteAddr(), "login", brief(meta.User()))
	return &gossh.Permissions{ExtraData: map[any]any{proved{}: key, answered{}: besides}}
}

// graceTime is how long a sign-in may take: longer where a person has to look
// something up.
func (c *conn) graceTime() time.Duration {
	if c.signin.asked {
		return 4 * c.server.Limits.LoginGrace
	}
	return c.server.Limits.LoginGrace
}

// attempted hears of every attempt, of whatever kind.
func (c *conn) attempted(meta gossh.ConnMetadata, method string, err error) {
	c.signin.tried, c.signin.login = true, meta.User()
	c.signin.software = string(meta.ClientVersion())
	if err == nil || method == "none" && c.signin.why != "" {
		return
	}
	c.signin.why = err.Error()
	if c.signin.asked && errors.As(err, new(*gossh.PartialSuccessError)) {
		c.signin.why = "left before answering what was asked"
	}
}

// turnedAway records a sign-in that failed: once a connection, at its end, and
// only if there was one. A port scan is not a sign-in.
func (c *conn) turnedAway(late bool) {
	why := c.signin.why
	switch {
	case late:
		why = fmt.Sprintf("took longer than %v", c.graceTime())
	case why == "" || !hungUp(c.signin.broken):
		why = fmt.Sprint(c.signin.broken)
	}
	if !c.signin.tried {
		c.server.Logger.Debug("left without signing in", "client", c.RemoteAddr(), "why", why)
		return
	}
	c.note(audit.Event{Event: audit.SigninFailed, Person: c.signin.person, Login: brief(c.signin.login), Detail: brief(why)})
}

// hungUp tells a client that gave up from one that broke the rules: with a
// signature that is false, say.
func hungUp(err error) bool {
	var refused *gossh.ServerAuthError
	var network *net.OpError
	return errors.As(err, &refused) || errors.As(err, &network) || errors.Is(err, io.EOF)
}

// refuseChannel refuses everything but sessions: forwarding, in both
// directions, agents, X11.
func (c *conn) refuseChannel(_ *ssh.Server, peer *gossh.ServerConn, ch gossh.NewChannel, _ ssh.Context) {
	defer c.server.guard("channel")
	c.refuse(peer.User(), "channel "+brief(ch.ChannelType()))
	ch.Reject(gossh.Prohibited, "cartsshd serves sessions only")
}

// answer answers what concerns the whole connection.
func (c *conn) answer(_ ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	defer c.server.guard("request")
	switch req.Type {
	case "keepalive@openssh.com":
		return true, nil
	case "no-more-sessions@openssh.com": // of every OpenSSH client without ControlMaster
		return false, nil
	}
	c.refuse(c.signin.login, "request "+brief(req.Type))
	return false, nil
}
