package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// Each fault is one line, with the way out, and nothing listens.
func TestWhatIsWrongAtStartIsOneClearLine(t *testing.T) {
	for _, fault := range []struct {
		name string
		make func(t *testing.T, h *host)
		want string // DIR stands for the directory of config.yaml
	}{
		{"a value that makes no sense", func(t *testing.T, h *host) { h.edit(t, "allow: [shell]", "allow: [shall]") }, "DIR/config.yaml:14:"},
		{"an unknown key", func(t *testing.T, h *host) { h.edit(t, "host_key:", "hostkey:") }, `DIR/config.yaml:2:1: `},
		{"no configuration", func(t *testing.T, h *host) { remove(t, h.path("config.yaml")) }, "DIR/config.yaml: no such file or directory (write one after the sample"},
		{"a configuration that others may write", func(t *testing.T, h *host) { chmod(t, h.path("config.yaml"), 0o666) }, "chmod go-w DIR/config.yaml"},
		{"a directory that others may write", func(t *testing.T, h *host) { chmod(t, h.dir, 0o777) }, "DIR: others may write to this directory, and so replace what is in it: chmod go-w DIR"},
		{"no image", func(t *testing.T, h *host) { h.image(t, "DIR/none.img") }, `DIR/none.img: no such file or directory: build one with "cartsshd image build"`},
		{"a corrupt image", func(t *testing.T, h *host) {
			text, _ := os.ReadFile(toolsImage(t))
			copy(text[8:32], make([]byte, 24)) // within the superblock
			h.write(t, "bad.img", string(text))
			h.image(t, "DIR/bad.img")
		}, `build one with "cartsshd image build"`},
		{"an image that is corrupt within", func(t *testing.T, h *host) {
			text, _ := os.ReadFile(toolsImage(t))
			clear(text[4096 : len(text)*9/10]) // the files; their names are at the end
			h.write(t, "bad.img", string(text))
			h.image(t, "DIR/bad.img")
		}, `DIR/bad.img: read bin/bash: input/output error: build one with "cartsshd image build"`},
		{"an image that is something else", func(t *testing.T, h *host) { h.image(t, "DIR/config.yaml") }, `DIR/config.yaml: is not a tools image (squashfs, erofs or ext4): build one with "cartsshd image build"`},
		{"a truncated image", func(t *testing.T, h *host) {
			text, _ := os.ReadFile(toolsImage(t))
			h.write(t, "short.img", string(text[:len(text)/2]))
			h.image(t, "DIR/short.img")
		}, "DIR/short.img: is truncated: "},
		{"an image with another digest", func(t *testing.T, h *host) {
			h.edit(t, "tools.img\"}", "tools.img\", sha256: "+strings.Repeat("0", 64)+"}")
		}, "tools.img: its sha256 is to be " + strings.Repeat("0", 64) + ", and is "},
		{"no host key", func(t *testing.T, h *host) { remove(t, h.path("host_key")) }, `no host key at DIR/host_key: make one with: ssh-keygen -t ed25519 -N "" -f DIR/host_key`},
		{"a host key that others may read", func(t *testing.T, h *host) { chmod(t, h.path("host_key"), 0o644) }, "DIR/host_key: others may read it: chmod 600 DIR/host_key"},
		{"a host key that is none", func(t *testing.T, h *host) { h.write(t, "host_key", "hello\n") }, "DIR/host_key: is not a private key: ssh: no key found (make one elsewhere with: ssh-keygen"},
		{"a record that others may write", func(t *testing.T, h *host) {
			if err := os.Mkdir(h.path("record"), 0o777); err != nil {
				t.Fatal(err)
			}
			chmod(t, h.path("record"), 0o777)
		}, "DIR/record: mode 0777: others may write to the record (try: chmod go-w"},
		{"a port in use", func(t *testing.T, h *host) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
			h.edit(t, "127.0.0.1:0", ln.Addr().String())
		}, "address already in use"},
	} {
		t.Run(fault.name, func(t *testing.T) {
			need.Root(t)
			h := newHost(t, nil)
			fault.make(t, h)
			h.failsToStart(t, nil, strings.ReplaceAll(fault.want, "DIR", h.dir))
		})
	}
}

func TestWhoIsNotRootIsToldSo(t *testing.T) {
	need.Root(t)
	h := newHost(t, nil)
	for dir := h.dir; strings.HasPrefix(dir, os.TempDir()+"/"); dir = dir[:strings.LastIndexByte(dir, '/')] {
		chmod(t, dir, 0o755)
	}
	chmod(t, h.path("config.yaml"), 0o644)
	h.failsToStart(t, &syscall.Credential{Uid: 65534, Gid: 65534}, "not root: entering containers needs it (try: sudo)")
}

func TestTwoServersDoNotShareARecord(t *testing.T) {
	h := serving(t, nil)
	h.failsToStart(t, nil, h.path("record")+": in use by another cartsshd")
	if n := len(h.recorded(t, audit.DaemonStart)); n != 1 {
		t.Errorf("%d servers are on the record", n)
	}
}

func (h *host) image(t testing.TB, path string) {
	t.Helper()
	h.edit(t, fmt.Sprintf("%q", toolsImage(t)), fmt.Sprintf("%q", strings.ReplaceAll(path, "DIR", h.dir)))
}

// failsToStart starts the server, which must not come that far.
func (h *host) failsToStart(t testing.TB, as *syscall.Credential, want string) {
	t.Helper()
	cmd := exec.Command(program(t), "serve", "--config", h.path("config.yaml"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	got := finish(t, cmd)
	if got.code != 1 || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("exit code %d, want one line with %q:\n%s", got.code, want, got.stderr)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestAllThatIsWrongInAFileIsToldAtOnce(t *testing.T) {
	h := newHost(t, nil)
	h.edit(t, "host_key:", "hostkey:")
	h.edit(t, "allow: [shell]", "allow: [shall]")
	got := finish(t, exec.Command(program(t), "serve", "--config", h.path("config.yaml")))
	if lines := strings.Split(got.stderr, "\n"); got.code != 1 || len(lines) != 3 ||
		!strings.HasPrefix(lines[0], h.path("config.yaml")+":2:1: ") || !strings.HasPrefix(lines[1], h.path("config.yaml")+":14:") {
		t.Errorf("exit code %d:\n%s", got.code, got.stderr)
	}
}

// reload has the server read its configuration anew, with this for an outcome.
func (h *host) reload(t testing.TB, outcome string) audit.Record {
	t.Helper()
	n := len(h.recorded(t, outcome))
	h.server.Process.Signal(syscall.SIGHUP)
	// It may have seen by itself that the file has changed, besides.
	eventually(t, outcome, func() bool { return len(h.recorded(t, outcome)) > n })
	return h.last(t, outcome)
}

func TestReloadingTakesPeopleAndRulesAndABadFileChangesNothing(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	in, out := result{stdout: "in\n"}, result{stderr: "cartsshd: web-1" + sentence, code: 255}
	h.run(t, "dave", "web-1", "echo in").is(t, out)
	connected := h.begin(t, "alice", "web-1", "echo in; cat")
	connected.sees(t, "in\n")

	h.edit(t, "group:sre", "dave")
	h.reload(t, audit.PolicyLoaded)
	h.run(t, "dave", "web-1", "echo in").is(t, in)
	h.run(t, "carol", "web-1", "echo in").is(t, out)

	h.edit(t, "who: [dave]", "who: [nobody]")
	refused := h.reload(t, audit.PolicyRefused)
	if !strings.Contains(refused.Detail, "config.yaml:14:") {
		t.Errorf("recorded %q", refused.Detail)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(h.log.String(), "the old one stays") })
	h.run(t, "dave", "web-1", "echo in").is(t, in)

	connected.types(t, "still here\n")
	connected.sees(t, "still here\n")
}

func TestCheckSaysWhatServeWouldMeet(t *testing.T) {
	d := rig.Docker(t)
	h := newHost(t, d)
	check := func() (int, string) {
		got := finish(t, exec.Command(program(t), "check", "--config", h.path("config.yaml")))
		if got.stderr != "" {
			t.Errorf("on stderr: %s", got.stderr)
		}
		return got.code, got.stdout
	}
	code, said := check()
	for _, what := range []string{"kernel", "configuration", "host key", "tools image", "record", "state", "runtime        docker\n", "runtime        docker, while its engine is dead\n"} {
		if !strings.Contains(said, "ok    "+what) {
			t.Errorf("not ok: %s", what)
		}
	}
	if code != 0 || strings.Contains(said, "BAD") {
		t.Errorf("exit code %d", code)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := taken.Addr().String()
	h.edit(t, "127.0.0.1:0", address)
	if code, said = check(); code != 0 || !strings.Contains(said, "warn  listen         "+address) {
		t.Errorf("where another listens: exit code %d", code)
	}
	taken.Close()
	h.edit(t, address, "192.0.2.1:2222") // TEST-NET-1, nobody's (RFC 5737)
	if code, said = check(); code != 1 || !strings.Contains(said, "BAD   listen") {
		t.Errorf("an address of somebody else's: exit code %d", code)
	}

	remove(t, h.path("host_key"))
	h.image(t, "DIR/none.img")
	code, said = check()
	for _, want := range []string{"ok    kernel", "BAD   host key       no host key at " + h.path("host_key"), "BAD   tools image    loop: " + h.path("none.img"), "ok    record"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q", want)
		}
	}
	if code != 1 {
		t.Errorf("exit code %d", code)
	}

	h.edit(t, "allow: [shell]", "allow: [shall]")
	h.edit(t, "runtime: pid}]", "runtime: pit}]")
	chmod(t, h.path("config.yaml"), 0o622)
	code, said = check()
	for _, want := range []string{
		"BAD   configuration  config: " + h.path("config.yaml") + ": others may write to it: chmod go-w ",
		"BAD   configuration  " + h.path("config.yaml") + ":14:", `unknown permission "shall" (did you mean "shell"?)` + "\n", `unknown runtime "pit" (did you mean "pid"?)` + "\n",
		"ok    kernel", "BAD   host key", "BAD   tools image", "ok    record", "BAD   listen", "ok    runtime        docker\n",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if code != 1 || strings.Count(said, "BAD   configuration") != 3 {
		t.Errorf("exit code %d\n%s", code, said)
	}
}
