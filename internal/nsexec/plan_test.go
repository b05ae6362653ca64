package nsexec

import (
	"bytes"
	"encoding/binary"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
)

var update = flag.Bool("update", false, "write the golden plans")

// A room like that of a Docker container with the default capabilities.
func dockerRoom() room {
	return room{
		namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		caps:       0xa80425fb,
		ourCaps:    allCaps,
		limits:     []limit{{unix.RLIMIT_NOFILE, 1024, 4096}},
	}
}

func under(t *testing.T, c *Cmd, r room) room {
	t.Helper()
	r, err := c.Profile.under(r)
	if err != nil {
		t.Fatal(err)
	}
	r.search = []string{Tools + "/bin", Tools + "/sbin"}
	return r
}

func TestPlansAreAsReviewed(t *testing.T) {
	userns := dockerRoom()
	userns.namespaces |= unix.CLONE_NEWUSER
	userns.ignored, userns.oomAdjust = []int{int(unix.SIGHUP)}, true

	shell := &Cmd{Path: Tools + "/bin/bash", Args: []string{"bash", "-i"}, Env: []string{"TERM=xterm"}, ID: "0197", TTY: &TTY{}}
	user := dockerRoom()
	user.init = insider{User{UID: 1000, GID: 1000, Groups: []int{27}}, 1 << unix.CAP_NET_BIND_SERVICE}
	user.filters, user.label = []filter{{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}}, "exec docker-default"
	user.joins = []string{"/sys/fs/cgroup/pids/0197/cgroup.procs"}
	user.top = []entry{{name: "bin", kind: os.ModeDir}, {name: "lib", kind: os.ModeSymlink, link: "usr/lib"}, {name: "init"}}
	restricted := &Cmd{Path: Tools + "/bin/id", Args: []string{"id"}, ID: "0197", Profile: Profile{Name: "restricted"}}
	bare := &Cmd{Path: "tcpdump", Args: []string{"tcpdump", "-i", "eth0"}, ID: "0197", Dir: "/srv"}
	for name, got := range map[string]string{
		"docker-shell.plan":    shell.entry(under(t, shell, dockerRoom())).String(),
		"restricted-user.plan": restricted.entry(under(t, restricted, user)).String(),
		"userns-exec.plan":     bare.entry(under(t, bare, userns)).String(),
	} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs (try: go test -run Plans -update, and review it):\n%s", name, got)
		}
	}
}

func TestAPlanThatDoesNotFitIsRefused(t *testing.T) {
	c := &Cmd{Path: "x", Args: []string{strings.Repeat("x", planRoom)}}
	if _, err := c.entry(under(t, c, dockerRoom())).encode(); err != unix.E2BIG {
		t.Errorf("a plan over 1 MiB: %v, want E2BIG", err)
	}
	var p plan
	for range maxSteps + 1 {
		p.call("again", "setsid")
	}
	if _, err := p.encode(); err == nil {
		t.Error("a plan of 256 steps was encoded")
	}
}

func TestThePlanPointsIntoItself(t *testing.T) {
	var p plan
	k := p.call("one", "openat", lit(1), str("hello"))
	p.may(unix.ENOENT)
	p.call("two", "write", p.result(k), strs([]string{"a", "bc"}))
	b, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("hello\x00")) || !bytes.Contains(b, []byte("bc\x00")) {
		t.Errorf("strings are missing: %q", b)
	}
	if got := resultAddr(2) - resultAddr(1); got != stepSize {
		t.Errorf("results are %d apart, want %d", got, stepSize)
	}
}

// Both helpers run a plan and name the step that fails: this machine's by the
// kernel, the other's by qemu.
func TestTheHelperRunsAPlanAndNamesTheStepThatFails(t *testing.T) {
	type numbers struct{ getpid, write, close uintptr }
	for arch, nr := range map[string]numbers{"amd64": {39, 1, 3}, "arm64": {172, 64, 57}} {
		argv := []string{"helper/helper_" + arch}
		if arch != runtime.GOARCH {
			emulator := map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}[arch]
			argv = append([]string{need.Tool(t, emulator, "qemu-user-static")}, argv...)
		}
		p := plan{steps: []step{
			{nr: nr.getpid},
			{nr: nr.write, args: []*arg{lit(fdSocket), lit(resultAddr(1)), lit(8)}},
			{nr: nr.close, args: []*arg{lit(999)}, may: []unix.Errno{unix.EBADF}},
			{nr: nr.getpid, when: 1}, // not a child: left out
			{nr: nr.close, args: []*arg{lit(999)}},
		}}
		blob, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
		defer ours.Close()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.ExtraFiles = []*os.File{theirs}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		if _, err := ours.Write(blob); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(ours)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if len(said) != 16 {
			t.Fatalf("%s: said %x, want two words", arch, said)
		}
		if pid := binary.LittleEndian.Uint64(said); pid != uint64(cmd.Process.Pid) {
			t.Errorf("%s: the first step gave %d, want the PID %d", arch, pid, cmd.Process.Pid)
		}
		if word, want := binary.LittleEndian.Uint64(said[8:]), uint64(saysFailed<<56|4<<32|int(unix.EBADF)); word != want {
			t.Errorf("%s: the failure is %#x, want %#x", arch, word, want)
		}
	}
}

// What is embedded must be what helper.c says, or nobody could review it.
func TestTheHelperIsBuiltFromItsSource(t *testing.T) {
	for arch, cc := range map[string][2]string{
		"amd64": {"x86_64-linux-gnu-gcc", "gcc"},
		"arm64": {"aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"},
	} {
		need.Tool(t, cc[0], cc[1])
		built := filepath.Join(t.TempDir(), arch)
		if out, err := exec.Command("sh", "helper/build.sh", arch, built).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", arch, err, out)
		}
		fresh, err := os.ReadFile(built)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile("helper/helper_" + arch)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(fresh, kept) && compiler(t, cc[0]) == compilerOfRecord {
			t.Errorf("helper_%s is not what helper.c makes (try: make helper)", arch)
		}
		if compiler(t, cc[0]) != compilerOfRecord {
			t.Logf("%s is %s, the helpers were built by %s: only built, not compared", cc[0], compiler(t, cc[0]), compilerOfRecord)
		}
	}
	if len(helper) == 0 || runtime.GOOS != "linux" {
		t.Error("no helper is embedded")
	}
}

// Another compiler makes other bytes of the same source.
const compilerOfRecord = "12.2.0"

func compiler(t *testing.T, cc string) string {
	t.Helper()
	out, err := exec.Command(cc, "-dumpfullversion").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
