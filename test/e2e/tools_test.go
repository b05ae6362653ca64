package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// imageOfItsOwn gives the host a copy of the tools image, at tools.img, and
// returns its digest.
func (h *host) imageOfItsOwn(t testing.TB) string {
	t.Helper()
	digest := h.install(t, "")
	h.image(t, "DIR/tools.img")
	return digest
}

// install puts the tools image in the place of tools.img, as install(1) does.
// A file system ends where it ends, so more bytes make another file of it.
func (h *host) install(t testing.TB, more string) (digest string) {
	t.Helper()
	data, err := os.ReadFile(toolsImage(t))
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, more...)
	h.write(t, "new.img", string(data))
	if err := os.Rename(h.path("new.img"), h.path("tools.img")); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// loops are the names of the files behind loop devices that are, or were, this.
func loops(path string) (names []string) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range all {
		backing, _ := os.ReadFile(f)
		if name := string(bytes.TrimSpace(backing)); strings.HasPrefix(name, path) {
			names = append(names, name)
		}
	}
	return names
}

func TestANewImageIsForNewSessionsAndTheOldOneGoesWithTheLastOfTheOld(t *testing.T) {
	need.Root(t)
	login := fmt.Sprintf("pid:%d", rig.Bare(t).PID)
	h := newHost(t, nil)
	a := h.imageOfItsOwn(t)
	h.start(t)
	const readAll = "cat /dev/crashcart/bin/* | cksum; stat -c %d /dev/crashcart\n"

	old := h.begin(t, "alice", login, "-T")
	old.types(t, "echo in; read; "+readAll)
	old.sees(t, "in\n")
	h.reload(t, audit.PolicyLoaded)
	if loaded := h.recorded(t, audit.ToolsLoaded); len(loaded) != 1 || loaded[0].Tools != a || loaded[0].Detail != h.path("tools.img") {
		t.Errorf("an image that has not changed was loaded: %+v", loaded)
	}

	b := h.install(t, "more")
	h.reload(t, audit.PolicyLoaded)
	if got := h.last(t, audit.ToolsLoaded); got.Tools != b {
		t.Errorf("loaded %+v", got)
	}
	fresh := h.run(t, "alice", login, readAll)
	if got := h.last(t, audit.SessionOpen); got.Tools != b || h.recorded(t, audit.SessionOpen)[0].Tools != a {
		t.Errorf("a new session had %s, want %s", got.Tools, b)
	}

	// What the old one has not read of its tools yet, it can still read.
	old.types(t, "\necho all; exit 3\n")
	old.sees(t, "all\n")
	got := old.ends(t)
	checksum, device, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(got.stdout, "in\n"), "all\n"), "\n")
	if got.code != 3 || !strings.HasPrefix(fresh.stdout, checksum+"\n") || fresh.stdout == checksum+"\n"+device {
		t.Errorf("the old session saw\n%s\nthe new one\n%s", got.stdout, fresh.stdout)
	}
	if closed := h.last(t, audit.SessionClose); closed.Tools != a {
		t.Errorf("closed %+v", closed)
	}
	eventually(t, "the old image is behind no device", func() bool {
		left := loops(h.path("tools.img"))
		return len(left) == 1 && left[0] == h.path("tools.img")
	})
}

func TestAWrongImageOnReloadChangesNothing(t *testing.T) {
	need.Root(t)
	login := fmt.Sprintf("pid:%d", rig.Bare(t).PID)
	h := newHost(t, nil)
	a := h.imageOfItsOwn(t)
	pin := strings.TrimPrefix(a, "sha256:")
	h.edit(t, `tools.img"}`, `tools.img", sha256: `+pin+"}")
	h.start(t)

	b := strings.TrimPrefix(h.install(t, "more"), "sha256:")
	h.edit(t, "who: [group:sre]", "who: [dave]")
	refused := h.reload(t, audit.PolicyRefused)
	if want := h.path("tools.img") + ": its sha256 is to be " + pin + ", and is " + b + ": put the right file there"; !strings.Contains(refused.Detail, want) {
		t.Errorf("recorded %q, want %q", refused.Detail, want)
	}
	h.run(t, "alice", login, "echo in").is(t, result{stdout: "in\n"})
	if got := h.last(t, audit.SessionOpen); got.Tools != a || len(h.recorded(t, audit.ToolsLoaded)) != 1 {
		t.Errorf("tools %s, want %s", got.Tools, a)
	}
	h.run(t, "dave", login, "echo in").is(t, result{stderr: "cartsshd: " + login + sentence, code: 255})

	h.edit(t, pin, b)
	h.reload(t, audit.PolicyLoaded)
	h.run(t, "dave", login, "echo in").is(t, result{stdout: "in\n"})
}

func TestWhereTheToolsThatARuleDemandsAreNotTheAnswerIsNo(t *testing.T) {
	need.Root(t)
	login := fmt.Sprintf("pid:%d", rig.Bare(t).PID)
	h := newHost(t, nil)
	a := h.imageOfItsOwn(t)
	h.edit(t, "allow: [shell]", fmt.Sprintf("allow: [shell], terms: {image: %q}", a))
	h.start(t)
	h.run(t, "alice", login, "echo in").is(t, result{stdout: "in\n"})

	h.install(t, "more")
	h.reload(t, audit.PolicyLoaded)
	h.run(t, "alice", login, "echo in").is(t, result{stderr: "cartsshd: " + login + sentence, code: 255})
	if got := h.last(t, audit.SessionDenied); got.Rule != "sre" || got.Detail != `a rule demands the tools image "`+a+`", which is not loaded` {
		t.Errorf("recorded %+v", got)
	}

	h.install(t, "")
	h.reload(t, audit.PolicyLoaded)
	h.run(t, "alice", login, "echo in").is(t, result{stdout: "in\n"})
}

// One configuration for all hosts of a fleet, this one and one that is not here.
func TestAnImageForAnotherArchitectureIsSkipped(t *testing.T) {
	need.Root(t)
	login := fmt.Sprintf("pid:%d", rig.Bare(t).PID)
	h := newHost(t, nil)
	h.foreignImage(t, "far.img")
	h.edit(t, fmt.Sprintf("{path: %q}", toolsImage(t)), fmt.Sprintf("[{name: far, path: far.img}, {name: full, path: far.img}, {name: full, path: %q}]", toolsImage(t)))
	check := func() result {
		return finish(t, exec.Command(program(t), "check", "--config", h.path("config.yaml")))
	}
	for _, want := range []string{"ok    tools image    " + h.path("far.img") + " is for s390x, and skipped on this machine", "ok    tools image    " + toolsImage(t) + " is for "} {
		if got := check(); got.code != 0 || !strings.Contains(got.stdout, want) {
			t.Errorf("check has no %q:\n%s", want, got.stdout)
		}
	}
	h.edit(t, "who: [group:sre]", "who: [carol]")
	h.edit(t, "  - {name: errands", `  - {name: far, who: [alice], targets: [{runtime: pid}], allow: [shell], terms: {image: far}}
  - {name: full, who: [dave], targets: [{runtime: pid}], allow: [shell], terms: {image: full}}
  - {name: errands`)
	warning := `warn  rules          some will be denied: a rule demands the tools image "far"`
	if got := check(); got.code != 0 || !strings.Contains(got.stdout, warning) {
		t.Errorf("check has no %q:\n%s", warning, got.stdout)
	}
	h.start(t)
	eventually(t, "the log warns", func() bool { return strings.Contains(h.log.String(), "sessions by a rule will be denied") })
	for who, want := range map[string]string{"carol": "in\n", "dave": "in\n", "alice": ""} {
		if got := h.run(t, who, login, "echo in"); got.stdout != want {
			t.Errorf("%s: %+v", who, got)
		}
	}
	if got := h.last(t, audit.SessionDenied); got.Rule != "far" || !strings.Contains(got.Detail, `"far", which is here for s390x only`) {
		t.Errorf("recorded %+v", got)
	}
	finish(t, h.enter(t, login, "--", "echo", "in")).is(t, result{stdout: "in\n"})

	h.edit(t, toolsImage(t), h.path("far.img"))
	h.edit(t, "{name: far, path", "{path")
	h.edit(t, "{name: full, path: far", "{path: far")
	h.edit(t, "image: far", "image: full")
	if got := check(); got.code != 1 || !strings.Contains(got.stdout, "BAD   tools images   tools images: none is for this machine") {
		t.Errorf("check: %s", got.stdout)
	}
}

// foreignImage makes an image with the head of a program for s390x in it.
func (h *host) foreignImage(t testing.TB, name string) {
	t.Helper()
	mksquashfs := need.Tool(t, "mksquashfs", "squashfs-tools")
	bin := filepath.Join(t.TempDir(), "bin")
	head := append([]byte("\x7fELF\x02\x02\x01"), make([]byte, 64)...)
	head[19] = 22 // EM_S390
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "bash"), head, 0o755); err != nil {
		t.Fatal(err)
	}
	got := finish(t, exec.Command(mksquashfs, filepath.Dir(bin), h.path(name), "-all-root", "-quiet", "-no-progress"))
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
}
