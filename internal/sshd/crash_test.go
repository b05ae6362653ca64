package sshd

import (
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// These are first because they are what the library gets wrong by itself.

func TestNoCredentialIsRefused(t *testing.T) {
	h := newHall(t)
	if _, err := h.tryDial("web-1"); err == nil {
		t.Fatal("anyone gets in")
	}
	if _, err := h.tryDial("web-1", gossh.Password("")); err == nil {
		t.Fatal("an empty password gets in")
	}
	c := dialRaw(t, h.addr)
	c.startAuth()
	for _, method := range []string{"none", "none", "keyboard-interactive", "gssapi-with-mic", "hostbased"} {
		if m := c.auth("web-1", method, nil); m[0] != msgAuthFailure {
			t.Fatalf("%s: %q", method, m)
		}
	}
}

func TestMalformedPTYRequestIsRefusedAndNothingCrashes(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	for _, payload := range []string{"\xff\xff\xff\xff", "", "\x00\x00\x00\x05xterm", "\x00\x00\x00\x05xterm" + strings.Repeat("\xff", 20)} {
		s := open(t, client)
		ok, err := s.SendRequest("pty-req", true, []byte(payload))
		if ok || err != nil {
			t.Fatalf("%q: %v, %v", payload, ok, err)
		}
	}
	if got := runOn(t, client, "echo still here"); got.out != "still here\n" {
		t.Fatalf("%+v", got)
	}
}

func TestPanicEndsOneSessionOnly(t *testing.T) {
	h := newHall(t)
	h.start = func(c *nsexec.Cmd) (process, error) {
		if strings.Contains(strings.Join(c.Args, " "), "panic") {
			panic("a bug")
		}
		return startHere(c)
	}
	client := h.dial("web-1", h.alice)
	bystander := open(t, client)
	stdin, _ := bystander.StdinPipe()
	var out strings.Builder
	bystander.Stdout = &out
	if err := bystander.Start("cat"); err != nil {
		t.Fatal(err)
	}

	got := runOn(t, client, "panic")
	if got.code != 255 || !strings.Contains(got.err, "internal error") {
		t.Fatalf("%+v", got)
	}

	stdin.Write([]byte("unimpressed"))
	stdin.Close()
	if err := bystander.Wait(); err != nil || out.String() != "unimpressed" {
		t.Fatalf("%v, %q", err, out.String())
	}
	if log := h.log.String(); !strings.Contains(log, "a bug") || !strings.Contains(log, "crash_test.go") {
		t.Fatalf("no stack in the log: %s", log)
	}
	if closed := h.recorded(audit.SessionClose); len(closed) != 2 || closed[0].Exit.Reason != "panic" {
		t.Fatalf("%+v", closed)
	}
}

func TestResizesBeforeTheShellHangNothing(t *testing.T) {
	h := newHall(t)
	s := h.session()
	var out strings.Builder
	s.Stdout = &out
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		if err := s.WindowChange(n+1, n+2); err != nil {
			t.Fatal(err)
		}
	}
	// The resizes are older than the command, so it cannot miss the last.
	if err := s.Run("until [ \"$(stty size)\" = '1000 1001' ]; do :; done; stty size"); err != nil {
		t.Fatal(err)
	}
	if out.String() != "1000 1001\r\n" {
		t.Fatalf("%q", out.String())
	}
}

func TestTheContainerIsTheOneThatWasSignedInFor(t *testing.T) {
	h := newHall(t)
	c := dialRaw(t, h.addr)
	c.startAuth()
	c.auth("web-1", "none", nil)                               // the library keeps this name
	c.offer("web-2", h.alice.PublicKey())                      // and x/crypto's cache might keep this one
	if m := c.prove("db-1", h.alice); m[0] != msgAuthSuccess { // this is what counts
		t.Fatalf("%q", m)
	}
	c.openSession(1 << 20)
	c.request("exec", false, gossh.Marshal(&struct{ C string }{"echo in"}))
	for m := c.recv(); m != nil && m[0] != msgChannelClose; m = c.recv() {
		if m[0] == msgChannelData {
			t.Fatalf("entered: %q", m)
		}
	}
	denied := h.recorded(audit.SessionDenied)
	if len(denied) != 1 || denied[0].Login != "db-1" || denied[0].Target.Name != "db-1" {
		t.Fatalf("%+v", denied)
	}
}
