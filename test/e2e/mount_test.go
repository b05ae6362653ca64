package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// at runs a command of cartsshd's at the host: "mount", "image bind" …
func (h *host) at(t testing.TB, command_ string, args ...string) *exec.Cmd {
	t.Helper()
	argv := append(strings.Fields(command_), "--config", h.path("config.yaml"))
	return command(program(t), append(argv, args...)...)
}

// says fails unless a command at the host ends well, with this on stderr only.
func (h *host) says(t testing.TB, want string, command string, args ...string) {
	t.Helper()
	finish(t, h.at(t, command, args...)).is(t, result{stderr: "cartsshd: " + want + "\n"})
}

// atHost is the record of what was done at the host.
func (h *host) atHost(t testing.TB) (all []audit.Record) {
	t.Helper()
	for r, err := range audit.ReadJournal(filepath.Join(h.path("record"), "host")) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestMountedToolsAreThereForDockerExecAndNsenterAndNothingOfThemIsLeft(t *testing.T) {
	nsenter := need.Tool(t, "nsenter", "util-linux")
	d := rig.Docker(t)
	for name, flags := range map[string][]string{
		"plain":      nil,
		"narrow":     {"--read-only", "--user", "1000", "--cap-drop", "ALL"},
		"privileged": {"--privileged"},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.Run(t, "web-1", flags...)
			before := rig.Residue(t, c.PID, toolsImage(t))
			h := serving(t, d)
			h.says(t, "web-1: the tools are at /dev/crashcart", "mount", "web-1")
			h.says(t, "web-1: the tools are at /dev/crashcart already", "mount", "web-1")
			h.end(t, syscall.SIGKILL) // no daemon is needed
			if out := d.CLI(t, "exec", "web-1", "/dev/crashcart/bin/tcpdump", "--version"); !strings.Contains(out, "tcpdump version") {
				t.Errorf("tcpdump says %q", out)
			}
			finish(t, command(nsenter, "--target", fmt.Sprint(c.PID), "--mount", "--uts", "--ipc", "--net", "--pid",
				"/dev/crashcart/bin/bash", "-c", "echo in")).is(t, result{stdout: "in\n"})
			if got := finish(t, h.at(t, "image status")); got.code != 0 || !strings.Contains(got.stdout, "container web-1  /dev/crashcart  by mount") {
				t.Errorf("status: %+v", got)
			}
			h.says(t, "web-1: the tools are gone", "unmount", "web-1")
			h.says(t, "web-1: no tools are there that mount has put there", "unmount", "web-1")
			before.Same(t)

			// Docker may leave the terminal of its own exec in the container's
			// /dev/pts for long: only the tools are looked for.
			h.says(t, "web-1: the tools are at /dev/crashcart", "mount", "web-1")
			shell := []string{"/dev/crashcart/profile/bin/bash", "--rcfile", "/dev/crashcart/.crashcartrc", "-i", "-c", "echo $PATH; ls -d /dev/crashcart"}
			s := inTerminal(t, command("docker", append([]string{"--host", "unix://" + d.Socket, "exec", "-it", "web-1"}, shell...)...), 80, 24)
			if got := s.ends(t); got.code != 0 || !strings.Contains(got.stdout, "/dev/crashcart/bin:") || !strings.Contains(got.stdout, "/dev/crashcart\n") {
				t.Errorf("bash: %+v", got)
			}
			h.says(t, "web-1: the tools are gone", "unmount", "web-1")
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/dev/crashcart", c.PID)); err == nil {
				t.Error("the tools are left")
			}
		})
	}
}

func TestMountInAUserNamespaceAndUnmountOfAll(t *testing.T) {
	nsenter := need.Tool(t, "nsenter", "util-linux")
	c := rig.Userns(t)
	h := newHost(t, nil)
	before := rig.Residue(t, c.PID, toolsImage(t))
	login := fmt.Sprintf("pid:%d", c.PID)
	h.says(t, login+": the tools are at /dev/crashcart", "mount", login)
	finish(t, command(nsenter, "--target", fmt.Sprint(c.PID), "--all", "/dev/crashcart/bin/stat", "-c", "%u", "/dev/crashcart/bin/bash")).is(t, result{stdout: "0\n"})
	if got := finish(t, h.at(t, "unmount", "--all")); got.code != 0 || !strings.Contains(got.stderr, fmt.Sprintf("%d: the tools are gone\n", c.PID)) {
		t.Errorf("unmount --all: %+v", got)
	}
	before.Same(t)
}

func TestExecIsTheEnginesAndTheToolsAreThereMeanwhile(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--user", "1000")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	for _, claim := range []struct {
		args  []string
		stdin string
		want  result
	}{
		{[]string{"true"}, "", result{}},
		{[]string{"bash", "-c", "echo out; echo err >&2; exit 7"}, "", result{stdout: "out\n", stderr: "err\n", code: 7}},
		{[]string{"bash", "-c", "kill -TERM $$"}, "", result{code: 143}},
		{[]string{"id", "-u"}, "", result{stdout: "1000\n"}},
		{[]string{"cat"}, "from here\n", result{stdout: "from here\n"}},
		{nil, "ls -d /dev/crashcart\n", result{stdout: "/dev/crashcart\n"}},
		{[]string{"no-such"}, "", result{code: 127, stderr: "cartsshd: no-such: command not found\n"}},
	} {
		cmd := h.at(t, "enter --exec", append([]string{"web-1", "--"}, claim.args...)...)
		cmd.Stdin = strings.NewReader(claim.stdin)
		got := finish(t, cmd)
		if got != claim.want {
			t.Errorf("%q:", claim.args)
			got.is(t, claim.want)
		}
	}
	// What the engine says of its own is no output of the command's.
	for path, code := range map[string]int{"/no/such": 127, "/tmp": 126} {
		if got := finish(t, h.at(t, "enter --exec", "web-1", "--", path)); got.code != code || got.stdout != "" || !strings.HasPrefix(got.stderr, "cartsshd: engine: ") {
			t.Errorf("%s: %+v", path, got)
		}
	}
	before.Same(t)

	s := inTerminal(t, h.at(t, "enter --exec", "web-1", "--", "bash", "-c", "stty size; read x; exit 5"), 100, 40)
	s.sees(t, "40 100\n")
	s.types(t, "\n")
	if got := s.ends(t); got.code != 5 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/dev/crashcart", c.PID)); err == nil {
		t.Error("the tools are left")
	}
}

func TestExecAndMountDoNotTakeTheToolsFromEachOther(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	there := func() bool {
		return finish(t, command("docker", "--host", "unix://"+d.Socket, "exec", "web-1", "/dev/crashcart/bin/true")).code == 0
	}
	h.says(t, "web-1: the tools are at /dev/crashcart", "mount", "web-1")
	finish(t, h.at(t, "enter --exec", "web-1", "--", "true")).is(t, result{})
	if !there() {
		t.Error("enter --exec has taken away what mount had put there")
	}
	s := inTerminal(t, h.at(t, "enter --exec", "web-1", "--", "bash", "-c", "echo runs; read x"), 80, 24)
	s.sees(t, "runs\n")
	if got := finish(t, h.at(t, "unmount", "web-1")); !strings.Contains(got.stderr, "the tools stay until `enter --exec` ends") || !there() {
		t.Errorf("unmount: %+v", got)
	}
	s.types(t, "\n")
	s.ends(t)
	before.Same(t)

	// Nor is anything left for long of one that is killed.
	s = inTerminal(t, h.at(t, "enter --exec", "web-1", "--", "bash", "-c", "echo runs; read x"), 80, 24)
	s.sees(t, "runs\n")
	s.cmd.Process.Kill()
	s.ends(t)
	eventually(t, "the engine has ended its command", func() bool {
		finish(t, h.at(t, "unmount", "web-1"))
		return !there()
	})
	d.Remove(t, "web-1")
}

func TestExecIsPodmansWhereTheContainerIs(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1", "--user", "1000")
	p.Serve(t)
	h := newHost(t, nil)
	h.edit(t, "runtimes: {pid: {}}", fmt.Sprintf("runtimes: {podman: {socket: %q, root: %q, run: %q, users: %q}, pid: {}}", p.Socket, p.Root, p.State, p.Users))
	before := rig.Residue(t, c.PID, toolsImage(t))
	cmd := h.at(t, "enter --exec", "web-1", "--", "bash", "-c", "id -u; cat; echo err >&2; exit 7")
	cmd.Stdin = strings.NewReader("in\n")
	finish(t, cmd).is(t, result{stdout: "1000\nin\n", stderr: "err\n", code: 7})
	before.Same(t)
}

func TestWhatWasLeftInAContainerGoesWhenTheServerStarts(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := newHost(t, d)
	there := func() bool {
		return finish(t, command("docker", "--host", "unix://"+d.Socket, "exec", "web-1", "/dev/crashcart/bin/true")).code == 0
	}
	s := inTerminal(t, h.at(t, "enter --exec", "web-1", "--", "bash", "-c", "echo runs; read x"), 80, 24)
	s.sees(t, "runs\n")
	s.cmd.Process.Kill()
	s.ends(t)
	if !there() {
		t.Fatal("the tools are gone already")
	}
	h.start(t)
	eventually(t, "the tools are gone", func() bool { return !there() })
}

func TestAnImageThatIsBoundIsThereForDockerRun(t *testing.T) {
	d := rig.Docker(t)
	h := newHost(t, d)
	image := toolsImage(t)
	c := d.Run(t, "web-1")
	before := rig.Residue(t, c.PID, image)
	dir := filepath.Join(h.dir, "tools")
	h.says(t, "the tools are at "+dir+": docker run -v "+dir+":/dev/crashcart:ro", "image bind", dir)
	h.says(t, "the tools are at "+dir+" already", "image bind", dir)
	d.Run(t, "web-2", "-v", dir+":/dev/crashcart:ro")
	d.CLI(t, "exec", "web-2", "/dev/crashcart/bin/curl", "--version")
	h.says(t, "the tools are gone from "+dir, "image unbind", dir)
	h.says(t, "the tools are not at "+dir, "image unbind", dir)
	d.CLI(t, "exec", "web-2", "/dev/crashcart/bin/true") // what it has it keeps
	d.Remove(t, "web-2")
	before.Same(t)
	if got := finish(t, h.at(t, "image bind", h.path("config.yaml"))); got.code == 0 {
		t.Errorf("bound at a file: %+v", got)
	}
}

func TestWhatIsDoneAtTheHostIsOnTheRecord(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	enter := h.at(t, "enter", "web-1", "--", "bash", "-c", "exit 7")
	enter.Env = append(enter.Env, "SUDO_USER=alice")
	finish(t, enter).is(t, result{code: 7})
	finish(t, h.at(t, "enter", "no-such"))
	h.says(t, "web-1: the tools are at /dev/crashcart", "mount", "web-1")
	h.says(t, "web-1: the tools are gone", "unmount", "web-1")
	s := inTerminal(t, h.at(t, "enter", "web-1"), 80, 24)
	s.sees(t, prompt)
	s.types(t, "echo sh''own; exit 4\n")
	s.ends(t)

	var got []string
	all := h.atHost(t)
	for i, r := range all {
		if r.Seq != uint64(i+1) || r.Person.Name != "root" || r.Person.UID == nil || *r.Person.UID != 0 || !strings.HasPrefix(r.Client.Address, "local") {
			t.Errorf("recorded %+v %+v", r, r.Person)
		}
		line := r.Event + " " + r.Kind
		if r.Exit != nil {
			line += fmt.Sprint(" ", r.Exit.Code)
		}
		got = append(got, line)
	}
	want := "session.open exec, session.close exec 7, session.denied , session.open mount, session.close mount 0, " +
		"session.open unmount, session.close unmount 0, session.open shell, session.close shell 4"
	if strings.Join(got, ", ") != want {
		t.Fatalf("recorded %s\nwant     %s", strings.Join(got, ", "), want)
	}
	if r := all[0]; r.Person.SudoUser != "alice" || r.Target.ID != c.ID || r.Command != "bash -c exit 7" || !strings.HasPrefix(r.Tools, "sha256:") {
		t.Errorf("recorded %+v", r)
	}
	text, err := audit.Transcript(filepath.Join(h.path("record"), "host"), all[8].Session)
	if err != nil || !strings.Contains(text, "shown\n") || all[8].Client.Address == "local" {
		t.Errorf("%v: the terminal showed %q, at %s", err, text, all[8].Client.Address)
	}
}

func TestWhatCannotBeRecordedIsNotDoneAtTheHostEither(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := newHost(t, d)
	before := rig.Residue(t, c.PID, toolsImage(t))
	h.write(t, "record", "is no directory")
	for _, args := range [][]string{{"enter", "web-1", "--", "echo", "in"}, {"enter --exec", "web-1", "--", "echo", "in"}, {"mount", "web-1"}, {"unmount", "web-1"}, {"image bind", h.path("tools")}} {
		if got := finish(t, h.at(t, args[0], args[1:]...)); got.code != 254 || got.stdout != "" || !strings.Contains(got.stderr, "could not be recorded") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	before.Same(t)
}
