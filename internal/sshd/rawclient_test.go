package sshd

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// rawClient speaks SSH one message at a time, so that tests can say what no
// well-behaved client would, and see in which order things are answered. It
// knows one algorithm of each kind, and takes the host at its word.
type rawClient struct {
	t       testing.TB
	conn    net.Conn
	in      *bufio.Reader
	read    *gcm
	write   *gcm
	session []byte
}

type gcm struct {
	cipher.AEAD
	iv []byte
}

const (
	msgDisconnect      = 1
	msgServiceRequest  = 5
	msgServiceAccept   = 6
	msgKexInit         = 20
	msgNewKeys         = 21
	msgAuthRequest     = 50
	msgAuthFailure     = 51
	msgAuthSuccess     = 52
	msgAuthKeyOK       = 60
	msgGlobalRequest   = 80
	msgRequestSuccess  = 81
	msgRequestFailure  = 82
	msgChannelOpen     = 90
	msgChannelOpened   = 91
	msgChannelRefused  = 92
	msgWindowAdjust    = 93
	msgChannelData     = 94
	msgChannelExtended = 95
	msgChannelEOF      = 96
	msgChannelClose    = 97
	msgChannelRequest  = 98
	msgChannelSuccess  = 99
	msgChannelFailure  = 100
)

// dialRaw connects and exchanges keys.
func dialRaw(t testing.TB, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute)) // a test that hangs should say where
	c := &rawClient{t: t, conn: conn, in: bufio.NewReader(conn)}
	c.exchangeKeys()
	return c
}

func (c *rawClient) exchangeKeys() {
	const version = "SSH-2.0-raw"
	io.WriteString(c.conn, version+"\r\n")
	server, err := c.in.ReadString('\n')
	c.must(err)

	type kexInit struct {
		Cookie                                   [16]byte `sshtype:"20"`
		Kex, HostKey                             []string
		CipherIn, CipherOut, MACIn, MACOut       []string
		CompressIn, CompressOut, LangIn, LangOut []string
		Follows                                  bool
		Reserved                                 uint32
	}
	aes128 := []string{gossh.CipherAES128GCM}
	none := []string{"none"}
	mine := gossh.Marshal(&kexInit{
		Kex: []string{gossh.KeyExchangeCurve25519}, HostKey: []string{gossh.KeyAlgoED25519},
		CipherIn: aes128, CipherOut: aes128, MACIn: []string{gossh.HMACSHA256ETM}, MACOut: []string{gossh.HMACSHA256ETM},
		CompressIn: none, CompressOut: none,
	})
	c.send(mine)
	theirs := c.expect(msgKexInit)

	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	c.must(err)
	public := key.PublicKey().Bytes()
	c.send(gossh.Marshal(&struct {
		Q []byte `sshtype:"30"`
	}{public}))
	var reply struct {
		HostKey, Q, Signature []byte `sshtype:"31"`
	}
	c.must(gossh.Unmarshal(c.expect(31), &reply))
	peer, err := ecdh.X25519().NewPublicKey(reply.Q)
	c.must(err)
	secret, err := key.ECDH(peer)
	c.must(err)

	type hashed struct {
		V1, V2            string
		I1, I2, K, Qc, Qs []byte
		Secret            *big.Int
	}
	k := new(big.Int).SetBytes(secret)
	h := sha256.Sum256(gossh.Marshal(&hashed{version, string(server[:len(server)-2]), mine, theirs, reply.HostKey, public, reply.Q, k}))
	c.session = h[:]
	c.send([]byte{msgNewKeys})
	c.expect(msgNewKeys)
	c.write = c.cipher(k, 'A', 'C')
	c.read = c.cipher(k, 'B', 'D')
}

func (c *rawClient) cipher(k *big.Int, iv, key byte) *gcm {
	derive := func(letter byte) []byte {
		b := gossh.Marshal(&struct{ K *big.Int }{k})
		b = append(append(append(b, c.session...), letter), c.session...)
		d := sha256.Sum256(b)
		return d[:]
	}
	block, err := aes.NewCipher(derive(key)[:16])
	c.must(err)
	aead, err := cipher.NewGCM(block)
	c.must(err)
	return &gcm{aead, derive(iv)[:12]}
}

func (g *gcm) next() []byte {
	iv := slices.Clone(g.iv)
	n := g.iv[4:]
	binary.BigEndian.PutUint64(n, binary.BigEndian.Uint64(n)+1)
	return iv
}

func (c *rawClient) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// send sends one message.
func (c *rawClient) send(payload []byte) {
	c.t.Helper()
	c.must(c.trySend(payload))
}

func (c *rawClient) trySend(payload []byte) error {
	block := 16
	pad := block - (1+len(payload))%block
	if c.write == nil {
		pad = block - (5+len(payload))%block
	}
	if pad < 4 {
		pad += block
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+pad))
	body := append([]byte{byte(pad)}, payload...)
	body = append(body, make([]byte, pad)...)
	if c.write != nil {
		body = c.write.Seal(nil, c.write.next(), body, packet)
	}
	_, err := c.conn.Write(append(packet, body...))
	return err
}

// recv receives one message, or nil when the server has hung up.
func (c *rawClient) recv() []byte {
	c.t.Helper()
	length := make([]byte, 4)
	if _, err := io.ReadFull(c.in, length); err != nil {
		return nil
	}
	n := int(binary.BigEndian.Uint32(length))
	if c.read != nil {
		n += c.read.Overhead()
	}
	body := make([]byte, n)
	_, err := io.ReadFull(c.in, body)
	c.must(err)
	if c.read != nil {
		body, err = c.read.Open(nil, c.read.next(), body, length)
		c.must(err)
	}
	return body[1 : len(body)-int(body[0])]
}

// expect receives a message of one kind.
func (c *rawClient) expect(kind byte) []byte {
	c.t.Helper()
	m := c.recv()
	if len(m) == 0 || m[0] != kind {
		c.t.Fatalf("got message %v, want %d", m, kind)
	}
	return m
}

// startAuth asks for the sign-in service.
func (c *rawClient) startAuth() {
	c.t.Helper()
	c.send(gossh.Marshal(&struct {
		Service string `sshtype:"5"`
	}{"ssh-userauth"}))
	c.expect(msgServiceAccept)
}

// auth sends a sign-in request of any method, and returns the answer.
func (c *rawClient) auth(user, method string, rest []byte) []byte {
	c.t.Helper()
	c.send(gossh.Marshal(&struct {
		User, Service, Method string `sshtype:"50"`
		Rest                  []byte `ssh:"rest"`
	}{user, "ssh-connection", method, rest}))
	return c.recv()
}

// offer asks whether a key would do, without proving it.
func (c *rawClient) offer(user string, key gossh.PublicKey) []byte {
	c.t.Helper()
	return c.auth(user, "publickey", gossh.Marshal(&struct {
		Sign bool
		Algo string
		Key  []byte
	}{false, key.Type(), key.Marshal()}))
}

// prove signs in with a key.
func (c *rawClient) prove(user string, key gossh.Signer) []byte {
	c.t.Helper()
	request := gossh.Marshal(&struct {
		Sign bool
		Algo string
		Key  []byte
	}{true, key.PublicKey().Type(), key.PublicKey().Marshal()})
	signed := gossh.Marshal(&struct {
		Session               []byte
		Kind                  byte
		User, Service, Method string
		Request               []byte `ssh:"rest"`
	}{c.session, msgAuthRequest, user, "ssh-connection", "publickey", request})
	sig, err := key.Sign(rand.Reader, signed)
	c.must(err)
	return c.auth(user, "publickey", append(request, gossh.Marshal(&struct{ S []byte }{gossh.Marshal(sig)})...))
}

// openSession opens a session channel, number 0, with a window.
func (c *rawClient) openSession(window uint32) {
	c.t.Helper()
	c.send(gossh.Marshal(&struct {
		Type                string `sshtype:"90"`
		ID, Window, Largest uint32
	}{"session", 0, window, 32 << 10}))
	for {
		m := c.recv()
		if len(m) > 0 && m[0] == msgChannelOpened {
			return
		}
		if len(m) == 0 || m[0] == msgChannelRefused {
			c.t.Fatalf("no channel: %q", m)
		}
	}
}

// request sends a channel request.
func (c *rawClient) request(name string, reply bool, payload []byte) {
	c.t.Helper()
	c.send(gossh.Marshal(&struct {
		Peer    uint32 `sshtype:"98"`
		Name    string
		Reply   bool
		Payload []byte `ssh:"rest"`
	}{0, name, reply, payload}))
}

// channelRequest is one that the server sends.
type channelRequest struct {
	Peer    uint32 `sshtype:"98"`
	Name    string
	Reply   bool
	Payload []byte `ssh:"rest"`
}
