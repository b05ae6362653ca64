package sshd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/loop"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/test/rig"
)

// Here everything is the real thing.

func TestMain(m *testing.M) {
	code := m.Run()
	rig.Stop()
	if builtTools.dir != "" {
		os.RemoveAll(builtTools.dir)
	}
	os.Exit(code)
}

var builtTools struct {
	once sync.Once
	dir  string
	err  error
}

// toolsImage is a tools image of this machine's programs.
func toolsImage(t testing.TB) string {
	t.Helper()
	need.Root(t)
	b := &builtTools
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "cartsshd-sshd-"); b.err != nil {
			return
		}
		b.err = image.Build(context.Background(), image.Options{Output: filepath.Join(b.dir, "tools.img"), FromHost: true})
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "tools.img")
}

// named is a runtime that knows containers by the names they are given here.
type named map[string]int

func (named) Name() string              { return "docker" }
func (named) Verify(router.Found) error { return nil }
func (n named) List(ctx context.Context) (list []router.Found, _ error) {
	for id := range n {
		found, _ := n.Find(ctx, id)
		list = append(list, found...)
	}
	return list, nil
}
func (n named) Find(_ context.Context, id string) ([]router.Found, error) {
	pid, ok := n[id]
	if !ok {
		return nil, nil
	}
	return []router.Found{{ID: fmt.Sprintf("%064d", pid), Name: id, PID: pid}}, nil
}

// newHouse is a hall with real containers, real tools and a real way in.
func newHouse(t testing.TB, containers map[string]rig.Container) *hall {
	t.Helper()
	img, err := loop.Open(toolsImage(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	pids := named{}
	for name, c := range containers {
		pids[name] = c.PID
	}
	return newHall(t, func(s *Server) {
		s.Targets = &router.Table{Runtimes: []router.Runtime{pids}}
		s.Tools = func(string) (Tools, error) { return lent{img}, nil }
		s.start, s.openTTY = nil, nil
	})
}

// lent is an image that no session closes.
type lent struct{ *loop.Image }

func (lent) ID() string   { return "lent" }
func (lent) Close() error { return nil }

func TestARealContainerIsEnteredWithTools(t *testing.T) {
	for kind, container := range map[string]rig.Container{"bare": rig.Bare(t), "userns": rig.Userns(t)} {
		t.Run(kind, func(t *testing.T) {
			h := newHouse(t, map[string]rig.Container{"web-1": container})
			client := h.dial("web-1", h.alice)
			runOn(t, client, "true") // with the first session comes what the daemon keeps
			before := rig.Residue(t, container.PID, toolsImage(t))

			if got := runOn(t, client, "id -u; ls /; exit 3"); got.code != 3 || !strings.HasPrefix(got.out, "0\n") || !strings.Contains(got.out, "busybox") && !strings.Contains(got.out, "bin") {
				t.Errorf("%+v", got)
			}
			if got := runOn(t, client, "kill -TERM $$"); got.signal != "TERM" {
				t.Errorf("%+v", got)
			}
			if got := runOn(t, client, "no-such-tool"); got.code != 127 {
				t.Errorf("%+v", got)
			}
			if got := runOn(t, client, "nohup sleep 1000 >/dev/null 2>&1 & echo left"); got.out != "left\n" || got.code != 0 {
				t.Errorf("%+v", got)
			}
			client.Close()
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			before.Same(t)
		})
	}
}

func TestARealTerminal(t *testing.T) {
	container := rig.Bare(t)
	h := newHouse(t, map[string]rig.Container{"web-1": container})
	s := h.session()
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.RequestPty("xterm", 33, 101, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "stty size; tty; exit 5\n")
	screen, _ := io.ReadAll(out)
	if code, _ := result(t, s.Wait()); code != 5 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"alice in web-1 · recorded as ", "33 101\r\n", "/dev/pts/0\r\n"} {
		if !strings.Contains(string(screen), want) {
			t.Errorf("no %q on the screen:\n%s", want, screen)
		}
	}
}

func TestEightMegabytesThroughARealContainer(t *testing.T) {
	h := newHouse(t, map[string]rig.Container{"web-1": rig.Bare(t)})
	want := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	s := h.session()
	var got bytes.Buffer
	s.Stdin, s.Stdout = bytes.NewReader(want), &got
	if err := s.Run("cat"); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
}

func TestARealContainerThatStopsSaysSo(t *testing.T) {
	for _, pty := range []bool{false, true} {
		container := rig.Bare(t)
		h := newHouse(t, map[string]rig.Container{"web-1": container})
		s := h.session()
		out, _ := s.StdoutPipe()
		var words bytes.Buffer
		s.Stderr = &words
		ready := "ready\n"
		if pty {
			s.RequestPty("xterm", 24, 80, nil)
			ready = "ready\r\n"
		}
		if err := s.Start("echo ready; sleep 1000"); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, len(ready)))
		if err := unix.Kill(container.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(out)
		code, _ := result(t, s.Wait())
		if said := string(rest) + words.String(); code != 137 || strings.TrimSpace(said) != "cartsshd: container web-1 stopped" {
			t.Errorf("pty %v: exit %d, %q", pty, code, said)
		}
		if closed := h.recorded(audit.SessionClose); closed[0].Exit.Reason != "container web-1 stopped" {
			t.Errorf("%+v", closed[0].Exit)
		}
	}
}

func TestManyComeAndGoAtOnce(t *testing.T) {
	h := newHouse(t, map[string]rig.Container{"web-1": rig.Bare(t)})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 25 {
				client, err := h.tryDial("web-1", gossh.PublicKeys(h.alice))
				if err != nil {
					t.Error(err)
					return
				}
				s, err := client.NewSession()
				if err != nil {
					t.Error(err)
					return
				}
				if out, err := s.CombinedOutput("echo in"); err != nil || string(out) != "in\n" {
					t.Errorf("%v: %q", err, out)
				}
				client.Close()
			}
		})
	}
	clients.Wait()
	if n := len(h.recorded(audit.SessionClose)); n != 8*25 {
		t.Errorf("%d sessions are recorded", n)
	}
}
