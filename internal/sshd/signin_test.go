package sshd

import (
	"crypto/rand"
	"crypto/rsa"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
)

func TestKnownAndUnknownKeysAreAnsweredAlikeUntilProved(t *testing.T) {
	h := newHall(t)
	c := dialRaw(t, h.addr)
	c.startAuth()
	known, unknown := h.alice.PublicKey(), newKey(t).PublicKey()
	for _, key := range []gossh.PublicKey{known, unknown} {
		if m := c.offer("web-1", key); m[0] != msgAuthKeyOK {
			t.Fatalf("%q", m)
		}
	}
}

func TestAnOfferedKeyIsNobodyUntilProved(t *testing.T) {
	h := newHall(t)
	stranger := newKey(t)
	c := dialRaw(t, h.addr)
	c.startAuth()
	c.offer("web-1", h.alice.PublicKey())
	if m := c.prove("web-1", stranger); m[0] != msgAuthFailure {
		t.Fatalf("alice's key was offered, a stranger's proved, and: %q", m)
	}
	c.offer("web-1", h.alice.PublicKey())
	if m := c.prove("web-1", h.bob); m[0] != msgAuthSuccess {
		t.Fatalf("%q", m)
	}
	c.openSession(1 << 20)
	c.request("exec", false, gossh.Marshal(&struct{ C string }{"/bin/echo me"}))
	for m := c.recv(); m != nil && m[0] != msgChannelClose; m = c.recv() {
	}
	if opened := h.recorded(audit.SessionOpen); len(opened) != 1 || opened[0].Person.Name != "bob" {
		t.Fatalf("%+v", opened)
	}
}

func TestAFailedSignInIsRecordedOncePerConnection(t *testing.T) {
	h := newHall(t)
	keys := []gossh.Signer{newKey(t), newKey(t), newKey(t)}
	if _, err := h.tryDial("web-1", gossh.PublicKeys(keys...)); err == nil {
		t.Fatal("strangers got in")
	}
	failed := h.recorded(audit.SigninFailed)
	if len(failed) != 1 {
		t.Fatalf("%+v", failed)
	}
	r := failed[0]
	last := gossh.FingerprintSHA256(keys[2].PublicKey())
	if r.Login != "web-1" || r.Person != nil || r.Detail != last+" is nobody's key" || !strings.HasPrefix(r.Client.Address, "127.0.0.1:") {
		t.Fatalf("%+v", r)
	}
}

func TestAFalseSignatureIsRecordedAsOne(t *testing.T) {
	h := newHall(t)
	c := dialRaw(t, h.addr)
	c.startAuth()
	c.auth("web-1", "none", nil)
	c.session[0]++ // what is signed is not what the server expects
	if m := c.prove("web-1", h.alice); m != nil {
		t.Fatalf("%q", m)
	}
	h.await(audit.SigninFailed)
	if failed := h.recorded(audit.SigninFailed); !strings.Contains(failed[0].Detail, "verif") {
		t.Fatalf("%+v", failed)
	}
}

func TestSixTriesAreEnough(t *testing.T) {
	h := newHall(t)
	c := dialRaw(t, h.addr)
	c.startAuth()
	c.auth("web-1", "none", nil) // this one is free
	for range 5 {
		if m := c.prove("web-1", newKey(t)); m[0] != msgAuthFailure {
			t.Fatalf("%q", m)
		}
	}
	if m := c.prove("web-1", newKey(t)); m[0] != msgDisconnect {
		t.Fatalf("%q", m)
	}
}

func TestASignInIsRecordedAlsoWithoutASession(t *testing.T) {
	h := newHall(t)
	h.dial("web-1", h.alice)
	h.await(audit.SigninOK)
	ok := h.recorded(audit.SigninOK)
	if len(ok) != 1 || ok[0].Person == nil || ok[0].Person.Name != "alice" || ok[0].Login != "web-1" || ok[0].Client == nil || ok[0].Client.Address == "" {
		t.Fatalf("%+v", ok)
	}
}

func TestAPortScanIsNoSignIn(t *testing.T) {
	h := newHall(t)
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	conn.Close()
	if failed := h.recorded(audit.SigninFailed); len(failed) != 0 {
		t.Fatalf("%+v", failed)
	}
}

func TestWhoDoesNotSignInIsHungUpOn(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.LoginGrace = time.Millisecond })
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			return // and if nobody hangs up, the test never ends
		}
	}
}

func TestStrangersOfOneAddressAreFewAndDoNotKeepOthersOut(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.PerAddress = 2 })
	signedIn := []*gossh.Client{h.dial("web-1", h.alice), h.dial("web-1", h.alice), h.dial("web-1", h.alice)}
	a, b := dialRaw(t, h.addr), dialRaw(t, h.addr)
	if _, err := h.tryDial("web-1", gossh.PublicKeys(h.alice)); err == nil {
		t.Fatal("a third stranger")
	}
	for _, client := range signedIn {
		if got := runOn(t, client, "echo in"); got.out != "in\n" {
			t.Fatalf("%+v", got)
		}
	}
	a.conn.Close()
	b.conn.Close()
	for { // until the server has heard of it
		if _, err := h.tryDial("web-1", gossh.PublicKeys(h.alice)); err == nil {
			return
		}
	}
}

func TestOnlySoundAlgorithmsAreOffered(t *testing.T) {
	h := newHall(t)
	weak := map[string]func(*gossh.ClientConfig){
		"chacha20": func(c *gossh.ClientConfig) { c.Ciphers = []string{gossh.CipherChaCha20Poly1305} },
		"cbc":      func(c *gossh.ClientConfig) { c.Ciphers = []string{gossh.InsecureCipherAES128CBC} },
		"sha1 mac": func(c *gossh.ClientConfig) {
			c.Ciphers, c.MACs = []string{gossh.CipherAES128CTR}, []string{gossh.HMACSHA1}
		},
		"sha1 kex": func(c *gossh.ClientConfig) { c.KeyExchanges = []string{gossh.InsecureKeyExchangeDH14SHA1} },
	}
	for name, weaken := range weak {
		config := &gossh.ClientConfig{User: "web-1", Auth: []gossh.AuthMethod{gossh.PublicKeys(h.alice)}, HostKeyCallback: gossh.InsecureIgnoreHostKey()}
		weaken(config)
		if _, err := gossh.Dial("tcp", h.addr, config); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if !slices.Contains(keyExchanges, gossh.KeyExchangeMLKEM768X25519) {
		t.Error("no post-quantum key exchange")
	}
}

func TestRSASignsWithSHA2Only(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h := newHallOf(t, signer)
	for algorithm, ok := range map[string]bool{gossh.KeyAlgoRSA: false, gossh.KeyAlgoRSASHA256: true, gossh.KeyAlgoRSASHA512: true} {
		one, err := gossh.NewSignerWithAlgorithms(signer.(gossh.AlgorithmSigner), []string{algorithm})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.tryDial("web-1", gossh.PublicKeys(one)); (err == nil) != ok {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func TestThereIsNoServerWithoutAHostKey(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Server).Serve(t.Context(), ln); err == nil || err.Error() != "sshd: no host key" {
		t.Fatal(err)
	}
}
