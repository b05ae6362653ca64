// Package e2e_test drives the real thing from outside: the program itself as a
// process of its own, with a config.yaml, in front of real containers, and
// OpenSSH's client before it.
//
// It knows no more than a user does: what is on the screen, exit statuses, the
// record on the disk, and what the kernel says is left. A test here reads like a
// claim of the manual; what only one part promises is tested beside that part.
//
// It needs root, dockerd, runc, OpenSSH's client, asciinema, and a tools image:
// build/tools.img, or the file that CARTSSHD_TOOLS names.
package e2e_test

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// workshop is a directory that all tests share.
var workshop string

func TestMain(m *testing.M) { os.Exit(inWorkshop(m.Run)) }

func inWorkshop(run func() int) int {
	var err error
	if workshop, err = os.MkdirTemp("", "cartsshd-e2e-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(workshop)
	if err := os.Chmod(workshop, 0o711); err != nil { // one test is nobody
		panic(err)
	}
	// Programs that look out for data races sleep a second before they exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	defer rig.Stop()
	return run()
}

// program returns the path of the program, which is built once. It looks out
// for data races if the tests do.
func program(t testing.TB) string {
	t.Helper()
	return built(t, buildProgram)
}

// shipped returns the path of the program as make build makes it.
func shipped(t testing.TB) string {
	t.Helper()
	return built(t, buildShipped)
}

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	buildProgram = sync.OnceValues(func() (string, error) {
		return build("cartsshd", nil, racing...)
	})
	buildShipped = sync.OnceValues(func() (string, error) {
		return build("shipped", []string{"CGO_ENABLED=0"}, "-tags", "nethttpomithttp2", "-trimpath", "-ldflags", "-s -w")
	})
)

func build(name string, env []string, flags ...string) (path string, err error) {
	path = filepath.Join(workshop, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "../../cmd/cartsshd")...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// toolsImage returns the path of a tools image that no other test uses, so that
// the loop devices behind it are ours.
func toolsImage(t testing.TB) string {
	t.Helper()
	from := cmp.Or(os.Getenv("CARTSSHD_TOOLS"), "../../build/tools.img")
	need.File(t, from, "make image")
	image, err := copyImage(from)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

var copyImage = func() func(string) (string, error) {
	var once sync.Once
	var path string
	var err error
	return func(from string) (string, error) {
		once.Do(func() {
			var data []byte
			if data, err = os.ReadFile(from); err == nil {
				path = filepath.Join(workshop, "tools.img")
				err = os.WriteFile(path, data, 0o644)
			}
		})
		return path, err
	}
}()

// publicKey returns somebody's public key, as in a .pub file. Their private key
// is beside the program, under their name.
func publicKey(t testing.TB, name string) string {
	t.Helper()
	public, err := makeKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

var keys sync.Map // name → public key

func makeKey(name string) (string, error) {
	if public, ok := keys.Load(name); ok {
		return public.(string), nil
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(privateKey(name), pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	keys.Store(name, line)
	return line, nil
}

func privateKey(name string) string { return filepath.Join(workshop, name+".key") }

// patience is how long something may take that ought to come about soon. No
// test claims that it takes less: it only bounds the wait for what never does.
const patience = 20 * time.Second

// eventually fails unless something comes about.
func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// screen keeps what is written to it.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}
