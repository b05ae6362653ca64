package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// Read right after ssh has returned: by then it is on the disk.
func TestTheRecordHasEverySessionFromItsBeginToItsEnd(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	for _, claim := range []struct {
		who, login, command, kind, rule string
		code                            int
		signal                          string
	}{
		{"alice", "web-1", "exit 7", "exec", "sre", 7, ""},
		{"bob", c.ID[:12], "echo $x", "exec", "errands", 0, ""},
		{"alice", "web-1", "kill -TERM $$", "exec", "sre", 143, "TERM"},
		{"carol", "docker:web-1", "no-such", "exec", "sre", 127, ""},
		{"carol", "web-1", "", "shell", "sre", 0, ""},
	} {
		h.run(t, claim.who, claim.login, append([]string{"-T"}, words(claim.command)...)...)
		open, closed := h.last(t, audit.SessionOpen), h.last(t, audit.SessionClose)
		if closed.Session != open.Session || open.Session == "" {
			t.Fatalf("%+v: opened %s, closed %s", claim, open.Session, closed.Session)
		}
		if open.Person.Name != claim.who || open.Login != claim.login || open.Target.ID != c.ID || open.Target.PID != c.PID || open.Kind != claim.kind ||
			open.Command != claim.command || open.Rule != claim.rule || open.Profile != "general" || !strings.HasPrefix(open.Tools, "sha256:") ||
			!strings.HasPrefix(open.Client.Software, "SSH-2.0-OpenSSH") || !strings.HasPrefix(open.Person.Key, "SHA256:") {
			t.Errorf("%+v: opened as %+v", claim, open)
		}
		if closed.Exit.Code != claim.code || closed.Exit.Signal != claim.signal || closed.Exit.Reason != "exited" || closed.Target.ID != c.ID {
			t.Errorf("%+v: closed as %+v", claim, *closed.Exit)
		}
	}
	for i, r := range h.journal(t) {
		if r.Seq != uint64(i+1) {
			t.Errorf("record %d has the number %d", i+1, r.Seq)
		}
	}
}

func words(command string) []string {
	if command == "" {
		return nil
	}
	return []string{command}
}

func TestARecordingPlaysWithAsciinemaAndShowsWhatWasShown(t *testing.T) {
	asciinema := need.Tool(t, "asciinema", "asciinema")
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	s := h.shell(t, "alice", "web-1")
	s.does(t, "echo grü''n; ls --color=always /; printf 'a\\tb\\x07\\n'")
	s.types(t, "exit 4\n")
	shown := s.ends(t).stdout

	r := h.last(t, audit.SessionClose)
	if r.Recording == nil || r.Recording.Error != "" || r.PTY == nil || *r.PTY != (audit.PTY{Term: "xterm", Cols: 80, Rows: 24}) {
		t.Fatalf("recorded as %+v", r)
	}
	file := filepath.Join(h.path("record"), r.Recording.Name)
	if info, err := os.Stat(file); err != nil || info.Size() != r.Recording.Bytes || info.Mode().Perm() != 0o600 {
		t.Errorf("%+v, %v", info, err)
	}
	played := inTerminal(t, command(asciinema, "cat", file), 80, 24)
	// The client adds its own last line, and the terminal of the player its own line ends.
	told := strings.TrimSuffix(shown, "Connection to 127.0.0.1 closed.\n")
	if got := played.ends(t); got.code != 0 || got.stdout != told {
		t.Errorf("played:\n%q\nshown:\n%q", got.stdout, told)
	}
	if !strings.Contains(told, "grün\n") {
		t.Errorf("shown:\n%s", told)
	}
}

func TestNothingTypedIsInTheRecordUnlessItIsShown(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	s := h.shell(t, "alice", "web-1")
	s.types(t, "read -s -p 'pass''word? ' x; echo ${#x}\n")
	s.sees(t, "password? ")
	s.types(t, "xyzzy-plugh\n")
	s.sees(t, "11\n")
	s.types(t, "exit\n")
	s.ends(t)
	err := filepath.WalkDir(h.path("record"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "plugh") {
			t.Errorf("the password is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeRecordedDoesNotRun(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := newHost(t, d)
	small(t, h.path("record"))
	h.start(t)
	h.run(t, "alice", "web-1", "echo in").is(t, result{stdout: "in\n"})
	fill(t, h.path("record"))

	unrecorded := result{stderr: "cartsshd: this session could not be recorded, so it was not run\n", code: 254}
	// The journal's last page may still have room for some lines.
	var got []result
	for len(got) < 20 && !slices.Contains(got, unrecorded) {
		got = append(got, h.run(t, "alice", "web-1", "echo in"))
	}
	got[len(got)-1].is(t, unrecorded)
	h.run(t, "alice", "web-1", "echo in").is(t, unrecorded)
	if got := h.terminal(t, "alice", "web-1").ends(t); got.code != 254 || !strings.HasPrefix(got.stdout, "\n"+unrecorded.stderr) {
		t.Errorf("with a terminal: %+v", got)
	}
	if got := h.run(t, "dave", "web-1", "echo in"); got.code == 0 || got.stdout != "" {
		t.Errorf("denied: %+v", got)
	}

	if err := os.Remove(filepath.Join(h.path("record"), "filler")); err != nil {
		t.Fatal(err)
	}
	h.run(t, "alice", "web-1", "echo in").is(t, result{stdout: "in\n"})
	s := h.shell(t, "alice", "web-1")
	s.types(t, "exit\n")
	if got := s.ends(t); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if fault := h.last(t, audit.JournalFault); !strings.Contains(fault.Detail, "no space left on device") {
		t.Errorf("recorded %+v", fault)
	}
}

func TestASessionThatCannotBeRecordedAnyLongerIsEnded(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := newHost(t, d)
	small(t, h.path("record"))
	h.start(t)
	before := rig.Residue(t, c.PID, toolsImage(t))
	s := h.shell(t, "alice", "web-1")
	fill(t, h.path("record"))
	s.types(t, "while :; do echo more and more; done\n")
	if got := s.ends(t); got.code != 254 || !strings.Contains(got.stdout, "cartsshd: this session could not be recorded any longer, so it was ended\n") {
		t.Errorf("exit status %d, %d bytes: %.300q…", got.code, len(got.stdout), got.stdout)
	}
	before.Same(t)
}

// small makes dir a file system of a megabyte.
func small(t *testing.T, dir string) {
	t.Helper()
	need.Root(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill leaves not a page of it free.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, os.Getpagesize()); err == nil; {
		_, err = f.Write(page)
	}
}
