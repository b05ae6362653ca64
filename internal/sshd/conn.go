package sshd

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
)

// conn is one connection, from its first byte to the end of its last session.
type conn struct {
	*wire
	server *Server
	stop   context.Context // of Serve: done when the server stops
	from   netip.Addr
	signin signin

	mu       sync.Mutex
	leaving  bool // nothing more is begun
	sessions int  // channels open
	waiting  int  // of these, that have not asked for anything to run
	refused  int  // requests noted as refused
	running  sync.WaitGroup
	watch    sync.Once // that the client is there

	gone chan struct{} // closed when the client is
}

// welcome serves one connection until nothing of it is left.
func (s *Server) welcome(ctx context.Context, raw net.Conn) {
	defer s.guard("connection")
	defer raw.Close()
	from := addrOf(raw.RemoteAddr())
	house := household(from)
	if !s.everyone.enter(house) {
		s.Logger.Warn("too many connections", "client", from)
		return
	}
	defer s.everyone.leave(house)
	if !s.strangers.enter(house) {
		s.Logger.Warn("too many connections not signed in", "client", from)
		return
	}
	c := &conn{wire: newWire(raw), server: s, stop: ctx, from: from, gone: make(chan struct{})}
	c.signin.over = sync.OnceFunc(func() { s.strangers.leave(house) })
	defer c.signin.over()

	var late atomic.Bool
	grace := time.AfterFunc(s.Limits.LoginGrace, func() { late.Store(true); raw.Close() })
	defer grace.Stop()
	c.signin.grace = grace
	defer context.AfterFunc(ctx, c.goodbye)()

	c.door().HandleConn(c)
	close(c.gone)
	if c.signin.key == nil {
		c.turnedAway(late.Load())
	}
	c.lastOrders()
	c.running.Wait()
}

// lastOrders lets nothing more begin. After it, running can be waited for.
func (c *conn) lastOrders() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = true
}

// goodbye closes the connection once its sessions have ended, as they have been
// told to by the same context. Who does not listen is not waited for.
func (c *conn) goodbye() {
	c.lastOrders()
	impatient := time.AfterFunc(10*time.Second, func() { c.Conn.Close() })
	defer impatient.Stop()
	c.running.Wait()
	c.Close()
}

// run runs f beside the connection, which waits for it; unless it is leaving.
func (c *conn) run(what string, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving {
		return false
	}
	c.running.Go(func() {
		defer c.server.guard(what)
		f()
	})
	return true
}

// So many channels of one connection may have nothing running. x/crypto holds
// up to 2 MiB for each that nobody reads.
const maxWaiting = 8

// sit takes one of the places for sessions, to wait there for what to run.
func (c *conn) sit() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving || c.sessions >= c.server.Limits.Sessions || c.waiting >= maxWaiting {
		return false
	}
	c.sessions++
	c.waiting++
	return true
}

// busy says that one who waited does so no longer.
func (c *conn) busy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting--
}

func (c *conn) rise() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions--
}

// So many refusals of one connection are recorded one by one.
const maxRefused = 32

// refuse records that something was asked for that is not served. It does not
// wait for the record: requests come on the path that serves everyone on this
// connection, and refusing is all that happens.
func (c *conn) refuse(login, detail string) {
	c.mu.Lock()
	c.refused++
	n := c.refused
	c.mu.Unlock()
	if n > maxRefused {
		return
	}
	if n == maxRefused {
		detail += " (what else this connection asks for in vain is not recorded)"
	}
	c.run("refusal", func() {
		c.note(audit.Event{Event: audit.RequestRefused, Person: c.signin.person, Login: login, Detail: detail})
	})
}

// note records an event of this connection.
func (c *conn) note(e audit.Event) {
	client := c.client(c.signin.software)
	e.Client = &client
	if err := c.server.Record.Event(e); err != nil {
		c.server.Logger.Error("cannot record", "event", e.Event, "detail", e.Detail, "err", err)
	}
}

func (c *conn) client(software string) audit.Client {
	return audit.Client{Address: c.RemoteAddr().String(), Software: brief(software)}
}

// keepWatch asks the client every now and then whether it is there, and hangs
// up after three questions without an answer. TCP alone would not notice for
// minutes that a laptop was closed.
func (c *conn) keepWatch(peer gossh.Conn) {
	c.watch.Do(func() { go c.ask(peer) }) // until the connection is gone
}

func (c *conn) ask(peer gossh.Conn) {
	defer c.server.guard("keepalive")
	every := c.server.Limits.Keepalive
	hangUp := time.AfterFunc(3*every, func() {
		c.server.Logger.Info("client does not answer", "client", c.RemoteAddr())
		c.Conn.Close()
	})
	defer hangUp.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-tick.C:
		}
		// Any answer will do, and OpenSSH's is a refusal.
		if _, _, err := peer.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return
		}
		hangUp.Reset(3 * every)
	}
}

// brief cuts what a client says down to what a record can bear.
func brief(s string) string {
	const most = 255
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
