package nsexec_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

// Docker's default capabilities, and all that this machine can give.
const dockerCaps = 0xa80425fb

func wide(t *testing.T) uint64 {
	t.Helper()
	all := uint64(1<<(unix.CAP_LAST_CAP+1) - 1)
	for c := range unix.CAP_LAST_CAP + 1 {
		if held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err != nil || held == 0 {
			all &^= 1 << c
		}
	}
	return all
}

func caps(list ...int) (mask uint64) {
	for _, c := range list {
		mask |= 1 << c
	}
	return mask
}

// privileges of a session, by its own word.
type privileges struct {
	ids      string // uid, gid and groups
	caps     uint64
	ambient  uint64
	nnp      string
	filtered bool // has more than our own filter
}

func privilegesIn(t *testing.T, pid int, p nsexec.Profile) privileges {
	t.Helper()
	c := command(t, pid, "cat /proc/self/status")
	c.Profile = p
	out, status := run(t, c)
	if status.Code != 0 {
		t.Fatalf("%+v: %+v: %s", p, status, out)
	}
	fields := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = strings.TrimSpace(value)
	}
	mask := func(name string) uint64 {
		m, err := strconv.ParseUint(fields[name], 16, 64)
		must(t, err)
		return m
	}
	if mask("CapPrm") != mask("CapEff") || mask("CapBnd")|mask("CapPrm") != mask("CapBnd") {
		t.Errorf("%+v: permitted %s, effective %s, bounding %s", p, fields["CapPrm"], fields["CapEff"], fields["CapBnd"])
	}
	return privileges{
		ids:      strings.Fields(fields["Uid"])[1] + ":" + strings.Fields(fields["Gid"])[1] + ":" + fields["Groups"],
		caps:     mask("CapEff"),
		ambient:  mask("CapAmb"),
		nnp:      fields["NoNewPrivs"],
		filtered: fields["Seccomp_filters"] > "1",
	}
}

func TestAProfileGivesItsPrivilegesAndNoOthers(t *testing.T) {
	d := rig.Docker(t)
	plain := d.Run(t, "plain").PID
	narrow := d.Run(t, "narrow", "--user", "1000:1000", "--group-add", "27", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--read-only").PID
	loose := d.Run(t, "loose", "--security-opt", "seccomp=unconfined").PID
	userns := rig.Userns(t).PID
	const wake, trace = unix.CAP_WAKE_ALARM, unix.CAP_SYS_PTRACE
	// What runc gives to a user namespace: see usernsConfig of the rig.
	const runcCaps = 0x200004e3 &^ (1 << unix.CAP_SETPCAP) &^ (1 << unix.CAP_FOWNER)
	user := &nsexec.User{UID: 1000, GID: 1001, Groups: []int{27, 28}}
	all := wide(t)
	for name, claim := range map[string]struct {
		pid     int
		profile nsexec.Profile
		want    privileges
	}{
		"the zero profile is general":    {plain, nsexec.Profile{}, privileges{"0:0:", dockerCaps | caps(wake), 0, "1", true}},
		"general":                        {plain, nsexec.Profile{Name: "general"}, privileges{"0:0:", dockerCaps | caps(wake), 0, "1", true}},
		"general, unconfined":            {loose, nsexec.Profile{Name: "general"}, privileges{"0:0:", dockerCaps | caps(wake), 0, "1", false}},
		"general, narrow":                {narrow, nsexec.Profile{}, privileges{"0:0:", caps(unix.CAP_NET_BIND_SERVICE, wake), 0, "1", true}},
		"restricted, root":               {plain, nsexec.Profile{Name: "restricted"}, privileges{"0:0:0", dockerCaps, 0, "1", true}},
		"restricted, narrow":             {narrow, nsexec.Profile{Name: "restricted"}, privileges{"1000:1000:27 1000", 0, 0, "1", true}},
		"netadmin":                       {narrow, nsexec.Profile{Name: "netadmin"}, privileges{"0:0:", caps(unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, wake), 0, "1", true}},
		"sysadmin":                       {narrow, nsexec.Profile{Name: "sysadmin"}, privileges{"0:0:", all, 0, "1", false}},
		"a user":                         {plain, nsexec.Profile{User: user}, privileges{"1000:1001:27 28", caps(wake), caps(wake), "1", true}},
		"a user, restricted":             {plain, nsexec.Profile{Name: "restricted", User: user}, privileges{"1000:1001:27 28", 0, 0, "1", true}},
		"a user, netadmin":               {plain, nsexec.Profile{Name: "netadmin", User: user}, privileges{"1000:1001:27 28", caps(wake, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW), caps(wake, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW), "1", true}},
		"added and dropped":              {plain, nsexec.Profile{CapAdd: []string{"SYS_PTRACE", "cap_syslog"}, CapDrop: []string{"NET_RAW"}}, privileges{"0:0:", dockerCaps&^caps(unix.CAP_NET_RAW) | caps(wake, trace, unix.CAP_SYSLOG), 0, "1", true}},
		"all dropped":                    {plain, nsexec.Profile{CapDrop: []string{"ALL"}}, privileges{"0:0:", 0, 0, "1", true}},
		"in a user namespace":            {userns, nsexec.Profile{}, privileges{"0:0:", runcCaps | caps(wake, trace), 0, "1", false}},
		"sysadmin in a user namespace":   {userns, nsexec.Profile{Name: "sysadmin"}, privileges{"0:0:", 1<<(unix.CAP_LAST_CAP+1) - 1, 0, "1", false}},
		"restricted in a user namespace": {userns, nsexec.Profile{Name: "restricted"}, privileges{"0:0:", runcCaps, 0, "1", false}},
		"a user in a user namespace":     {userns, nsexec.Profile{User: user, CapAdd: []string{"KILL"}}, privileges{"1000:1001:27 28", caps(wake, unix.CAP_KILL), caps(wake, unix.CAP_KILL), "1", false}},
	} {
		got := privilegesIn(t, claim.pid, claim.profile)
		if got != claim.want {
			t.Errorf("%s:\ngot  %+v (%#x)\nwant %+v (%#x)", name, got, got.caps, claim.want, claim.want.caps)
		}
	}
}

func TestAProfileThatMakesNoSenseIsRefused(t *testing.T) {
	ctr := rig.Bare(t)
	for want, p := range map[string]nsexec.Profile{
		`nsexec: no profile is called "root"`:                                               {Name: "root"},
		`nsexec: no capability is called "SYS_ROOT"`:                                        {CapAdd: []string{"SYS_ROOT"}},
		nsexec.ErrHostNamespaces.Error():                                                    {Namespaces: []string{"mnt", "pid", "ipc", "uts"}},
		`nsexec: the profile sysadmin has no seccomp filter, and seccomp: must demands one`: {Name: "sysadmin", SeccompMust: true},
	} {
		c := command(t, ctr.PID, "true")
		c.Profile = p
		if err := c.Start(); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", p, err, want)
		}
	}
}

func TestTheTerminalIsTheUsers(t *testing.T) {
	for name, pid := range map[string]int{"host's users": rig.Bare(t).PID, "user namespace": rig.Userns(t).PID} {
		c := command(t, pid, "tty; exec 3<>/dev/tty && stat -c %u:%a $(tty)")
		c.Profile.User = &nsexec.User{UID: 1000, GID: 1000}
		tty, err := nsexec.OpenTTY()
		must(t, err)
		c.TTY = tty
		must(t, c.Start())
		var said strings.Builder
		for b := make([]byte, 4096); ; {
			n, err := tty.Master.Read(b)
			said.Write(b[:n])
			if err != nil {
				break
			}
		}
		if said.String() != "/dev/pts/0\r\n1000:620\r\n" {
			t.Errorf("%s: %q", name, said.String())
		}
		must(t, c.Close())
		must(t, tty.Close())
	}
}

// The container's filter refuses one call, by which it is known.
func TestTheContainersSeccompFilterIsTheSessions(t *testing.T) {
	d := rig.Docker(t)
	file := filepath.Join(t.TempDir(), "seccomp.json")
	must(t, os.WriteFile(file, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`), 0o600))
	ctr := d.Run(t, "no-mkdir", "--security-opt", "seccomp="+file)
	for profile, want := range map[string]string{
		"general":    "mkdir: can't create directory '/tmp/x': Operation not supported\n",
		"restricted": "mkdir: can't create directory '/tmp/x': Operation not supported\n",
		"sysadmin":   "",
	} {
		c := command(t, ctr.PID, "busybox mkdir /tmp/x")
		c.Profile.Name = profile
		if out, _ := run(t, c); out != want {
			t.Errorf("%s: %q, want %q", profile, out, want)
		}
	}
	// It goes on where it was, if not at once.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		out, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", ctr.PID))
		must(t, err)
		if strings.Contains(string(out), "TracerPid:\t0\n") && strings.Contains(string(out), "S (sleeping)") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("its init was not let go:\n%s", out)
		}
	}
}

// Or the session would get rid of the container's filter by its init.
func TestASessionCannotTraceItsInit(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "own-init")
	for name, pid := range map[string]int{"docker": ctr.PID, "user namespace": rig.Userns(t).PID} {
		out, _ := run(t, command(t, pid, "cat /proc/$PPID/comm; cat /proc/$PPID/environ; ls /proc/$PPID/root/ /proc/$PPID/fd/; dd if=/proc/$PPID/mem bs=1 count=1"))
		if !strings.HasPrefix(out, "cartsshd\n") || strings.Count(out, "denied") < 3 {
			t.Errorf("%s: %s", name, out)
		}
	}
	c := command(t, ctr.PID, "until grep -q '^State:.S' /proc/$PPID/status; do :; done; cat /proc/$PPID/status") // not at once
	c.Profile.CapAdd = []string{"SYS_PTRACE"}
	if out, _ := run(t, c); !strings.Contains(out, "Seccomp_filters:\t2\n") {
		t.Errorf("where it may be traced, the init has not both filters:\n%s", out)
	}
}

// A filter without what the session's init lives by must not hang or spin it.
func TestAFilterThatTheInitCannotLiveWithIsTheCommandsAlone(t *testing.T) {
	d := rig.Docker(t)
	file := filepath.Join(t.TempDir(), "seccomp.json")
	must(t, os.WriteFile(file, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ppoll", "wait4"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`), 0o600))
	ctr := d.Run(t, "no-wait", "--security-opt", "seccomp="+file)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "exec cat /proc/self/status")
	c.Profile.CapAdd = []string{"SYS_PTRACE"}
	if out, status := run(t, c); status.Code != 0 || !strings.Contains(out, "Seccomp_filters:\t2\n") {
		t.Errorf("status %+v:\n%s", status, out)
	}
	before.Same(t)
}

// Whoever traces the init is the only one who can; the container's root may.
func TestAContainerCannotKeepItsFilterFromASession(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "traced-init")
	stop := trace(t, ctr.PID)
	defer stop()
	for _, profile := range []string{"general", "restricted"} {
		c := command(t, ctr.PID, "true")
		c.Profile.Name = profile
		if err := c.Start(); err == nil || !strings.Contains(err.Error(), "seccomp filter cannot be taken over") {
			t.Errorf("%s: %v, want a refusal", profile, err)
		}
	}
	// Any other process of the container's begins with the same.
	d.CLI(t, "exec", "--detach", "traced-init", "sleep", "1000")
	c := command(t, ctr.PID, "cat /proc/self/status")
	if out, status := run(t, c); status.Code != 0 || !strings.Contains(out, "Seccomp_filters:\t2\n") {
		t.Errorf("status %+v: %s", status, out)
	}
}

func TestTheDaemonsGroupsAreNotTheSessions(t *testing.T) {
	need.Tool(t, "unshare", "util-linux")
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--root", rigRoot(t), "/bin/busybox", "sh", "-c", "echo in; exec busybox sleep 1000")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	must(t, err)
	c := command(t, pid, "read x")
	r, w, err := os.Pipe()
	must(t, err)
	defer w.Close()
	c.Stdin = r
	must(t, c.Start())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.InitPID(t)))
	must(t, err)
	deny, err := os.ReadFile(fmt.Sprintf("/proc/%d/setgroups", pid))
	must(t, err)
	if !strings.Contains(string(status), "Groups:\t \n") || string(deny) != "deny\n" {
		t.Errorf("setgroups is %s; the session's init has\n%s", deny, status)
	}
}

// trace seizes a process, as a debugger would.
func trace(t *testing.T, pid int) (stop func()) {
	t.Helper()
	seized, done := make(chan error), make(chan struct{})
	go func() { // ends with its thread, and so does the tracing
		runtime.LockOSThread()
		seized <- unix.PtraceSeize(pid)
		<-done
	}()
	must(t, <-seized)
	return func() { close(done) }
}

func TestOnlyTheNamedNamespacesAreJoined(t *testing.T) {
	ctr := rig.Bare(t)
	for _, claim := range []struct {
		names  []string
		joined []string
	}{
		{[]string{"mnt", "net"}, []string{"mnt", "net"}},
		{[]string{"mnt", "pid", "uts"}, []string{"mnt", "pid", "uts"}},
		{nil, []string{"mnt", "pid", "net", "ipc", "uts"}},
	} {
		r, w, err := os.Pipe()
		must(t, err)
		c := command(t, ctr.PID, "read x")
		c.Stdin = r
		c.Profile.Namespaces, c.Profile.Host = claim.names, claim.names != nil
		must(t, c.Start())
		pid := c.InitPID(t)
		var joined []string
		for _, ns := range nsexec.Namespaces[:5] {
			ours, _ := os.Readlink("/proc/self/ns/" + ns)
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			must(t, err)
			if theirs != ours {
				joined = append(joined, ns)
			}
		}
		if strings.Join(joined, " ") != strings.Join(claim.joined, " ") {
			t.Errorf("%v: joined %v", claim.names, joined)
		}
		w.Close()
		r.Close()
		must(t, c.Close())
	}
}

// On the host itself only where it is meant.
func TestAProcessOfTheHostIsEnteredWhereThatIsMeant(t *testing.T) {
	c := command(t, os.Getpid(), "readlink /proc/self/ns/pid; ls -d /dev/crashcart/bin")
	if err := c.Start(); err != nsexec.ErrHost {
		t.Errorf("%v, want ErrHost", err)
	}
	before := rig.Residue(t, os.Getpid())
	c = command(t, os.Getpid(), "readlink /proc/self/ns/pid; ls -d /dev/crashcart/bin")
	c.Profile.Host = true
	ours, err := os.Readlink("/proc/self/ns/pid")
	must(t, err)
	if out, _ := run(t, c); out != ours+"\n/dev/crashcart/bin\n" {
		t.Errorf("%q", out)
	}
	before.Same(t)
}
