package sshd

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
)

// signedIn is a raw client that is alice, with a session channel to web-1.
func (h *hall) signedIn(window uint32) *rawClient {
	h.t.Helper()
	c := dialRaw(h.t, h.addr)
	c.startAuth()
	if m := c.prove("web-1", h.alice); m[0] != msgAuthSuccess {
		h.t.Fatalf("%q", m)
	}
	c.openSession(window)
	return c
}

func (c *rawClient) exec(command string) {
	c.t.Helper()
	c.request("exec", true, gossh.Marshal(&struct{ C string }{command}))
	c.expect(msgChannelSuccess)
}

func (c *rawClient) widen(n uint32) {
	c.t.Helper()
	c.send(gossh.Marshal(&struct {
		Peer, N uint32 `sshtype:"93"`
	}{0, n}))
}

func TestTheEndIsToldInOrder(t *testing.T) {
	h := newHall(t)
	c := h.signedIn(10) // of 2020 bytes
	c.exec("head -c 1010 /dev/zero; head -c 1010 /dev/zero >&2; exit 7")
	var order []byte
	data := 0
	for {
		m := c.recv()
		if len(m) == 0 {
			t.Fatal("hung up")
		}
		switch m[0] {
		case msgChannelRequest:
			var r channelRequest
			c.must(gossh.Unmarshal(m, &r))
			if r.Name != "exit-status" || binary.BigEndian.Uint32(r.Payload) != 7 || r.Reply {
				t.Fatalf("%+v", r)
			}
			c.widen(1 << 20) // the rest is still to come
		case msgChannelData:
			data += int(binary.BigEndian.Uint32(m[5:]))
		case msgChannelExtended:
			data += int(binary.BigEndian.Uint32(m[9:]))
		}
		if m[0] == msgChannelExtended {
			m[0] = msgChannelData
		}
		if !slices.Contains(order, m[0]) || order[len(order)-1] != m[0] {
			order = append(order, m[0])
		}
		if m[0] == msgChannelClose {
			break
		}
	}
	want := []byte{msgChannelData, msgChannelRequest, msgChannelData, msgChannelEOF, msgChannelClose}
	if !bytes.Equal(order, want) || data != 2020 {
		t.Fatalf("%v with %d bytes, want %v", order, data, want)
	}
}

func TestTheRecordIsOnTheDiskBeforeTheChannelCloses(t *testing.T) {
	h := newHall(t)
	for n := range 5 {
		c := h.signedIn(1 << 20)
		c.exec("echo x")
		for m := c.recv(); m[0] != msgChannelClose; m = c.recv() {
		}
		closed := 0
		for r, err := range audit.ReadJournal(h.record) {
			if err == nil && r.Event == audit.SessionClose {
				closed++
			}
		}
		if closed != n+1 {
			t.Fatalf("%d sessions have ended, %d are in the record", n+1, closed)
		}
	}
}

func TestAClientThatReadsNoMoreHoldsNothingUp(t *testing.T) {
	h := newHall(t)
	c := h.signedIn(10)
	c.exec("cat /dev/zero")
	c.expect(msgChannelData) // ten bytes, and there is no room for more
	c.conn.Close()
	if closed := h.recorded(audit.SessionClose); len(closed) != 1 || closed[0].Exit.Code != 255 {
		t.Fatalf("%+v", closed)
	}
}

func TestAClientThatDoesNotAnswerIsGone(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.Keepalive = 20 * time.Millisecond })
	c := h.signedIn(1 << 20)
	c.exec("sleep 1000")
	for asked := 0; ; {
		m := c.recv()
		if m == nil {
			if asked == 0 {
				t.Fatal("hung up on without a question")
			}
			break
		}
		if m[0] == msgGlobalRequest {
			asked++
		}
	}
	h.await(audit.SessionClose)
	if closed := h.recorded(audit.SessionClose); closed[0].Exit.Reason != "client left" {
		t.Fatalf("%+v", closed)
	}
}

func TestAClientThatAnswersStays(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.Keepalive = 2 * time.Second })
	c := h.signedIn(1 << 20)
	c.exec("cat")
	for answered := 0; answered < 4; {
		m := c.recv()
		if m == nil {
			t.Fatal("hung up on")
		}
		if m[0] == msgGlobalRequest {
			c.send([]byte{msgRequestFailure}) // as OpenSSH's client does
			answered++
		}
	}
	c.send([]byte{msgChannelEOF, 0, 0, 0, 0})
	for {
		m := c.recv()
		if m == nil {
			t.Fatal("hung up on")
		}
		if m[0] == msgChannelClose {
			return
		}
	}
}

func TestServeEndsSessionsAndReturnsWhenAllAreGone(t *testing.T) {
	h := newHall(t)
	s := h.session()
	var words bytes.Buffer
	s.Stderr = &words
	out, _ := s.StdoutPipe()
	if err := s.Start("echo ready; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("ready\n")))
	idle := dialRaw(t, h.addr) // not even signed in

	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if code, _ := result(t, s.Wait()); code != 255 || words.String() != "cartsshd: the server is stopping; this session was ended\n" {
		t.Errorf("%d, %q", code, words.String())
	}
	if m := idle.recv(); m != nil {
		t.Errorf("%q", m)
	}
	if _, err := net.Dial("tcp", h.addr); err == nil {
		t.Error("still listens")
	}
	if closed := h.recorded(audit.SessionClose); len(closed) != 1 || closed[0].Exit.Reason != "server stopped" {
		t.Errorf("%+v", closed)
	}
}

// The queue of a wire must neither lose nor reorder what is written, whatever
// the sizes.
func TestWhatIsWrittenArrivesInOrder(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	want := make([]byte, 8<<20)
	rand.Read(want)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		w := newWire(raw)
		defer w.Close() // with much in the queue
		rest := want
		for n := 1; len(rest) > 0; n = n*7%40009 + 1 {
			p := slices.Clone(rest[:min(n, len(rest))])
			w.Write(p)
			clear(p) // it is the writer's again
			rest = rest[min(n, len(rest)):]
		}
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
	}
}
