package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// kinds of containers, and how each is named at sign-in.
var kinds = []struct {
	name string
	run  func(t *testing.T) (c rig.Container, login string)
}{
	{"plain", docker()},
	{"narrow", docker("--read-only", "--user", "1000", "--cap-drop", "ALL")},
	{"privileged", docker("--privileged")},
	{"the host's processes", docker("--pid", "host")},
	{"user namespace", func(t *testing.T) (rig.Container, string) {
		c := rig.Userns(t)
		return c, fmt.Sprintf("pid:%d", c.PID)
	}},
	{"no runtime", func(t *testing.T) (rig.Container, string) {
		c := rig.Bare(t)
		return c, fmt.Sprintf("pid:%d", c.PID)
	}},
}

func docker(flags ...string) func(*testing.T) (rig.Container, string) {
	return func(t *testing.T) (rig.Container, string) { return rig.Docker(t).Run(t, "web-1", flags...), "web-1" }
}

// stubborn leaves behind what a session can: what ignores the hang-up, what has
// a session of its own, what holds the streams, what ignores its parent's death.
const stubborn = `
nohup sleep 1000 >/dev/null 2>&1 &
sleep 1000 &
setsid sleep 1000 &
setsid sh -c 'trap "" HUP INT TERM QUIT; (sleep 1000; true) & sleep 1000; true' &
(setsid setsid sleep 1000 &)
until [ "$(ps -e -o comm= | grep -c sleep)" -ge 6 ]; do :; done
echo running
`

func TestNothingOfASessionIsLeft(t *testing.T) {
	d := rig.Docker(t)
	h := serving(t, d)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			c, login := kind.run(t)
			before := rig.Residue(t, c.PID, toolsImage(t))

			// The command ends.
			h.run(t, "alice", login, stubborn+"exit 5").is(t, result{stdout: "running\n", code: 5})
			before.Same(t)

			// The shell ends.
			shell := h.shell(t, "alice", login)
			shell.types(t, stubborn+"exit 6\n")
			if got := shell.ends(t); got.code != 6 {
				t.Errorf("%+v", got)
			}
			before.Same(t)

			// The client is gone.
			gone := []*session{h.begin(t, "alice", login, stubborn+"exec sleep 1000"), h.shell(t, "alice", login)}
			gone[1].types(t, stubborn+"exec sleep 1000\n")
			for _, s := range gone {
				s.sees(t, "running\n")
				s.cmd.Process.Kill()
				s.ends(t)
			}
			before.Same(t)
			eventually(t, "the record says so", func() bool {
				closed := h.recorded(t, audit.SessionClose)
				return closed[len(closed)-1].Exit.Reason == "client left" && len(closed) == len(h.recorded(t, audit.SessionOpen))
			})
		})
	}
}

func TestNothingIsLeftWhenTheServerIsKilled(t *testing.T) {
	d := rig.Docker(t)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			c, login := kind.run(t)
			before := rig.Residue(t, c.PID, toolsImage(t))
			h := newHost(t, d)
			h.edit(t, "{runtime: pid}], allow: [shell]}", "{runtime: pid}], allow: [shell], terms: {memory: 512M, pids: 100}}")
			h.start(t)
			sessions := []*session{h.begin(t, "alice", login, stubborn+"exec sleep 1000"), h.shell(t, "carol", login)}
			sessions[1].types(t, stubborn+"exec sleep 1000\n")
			for _, s := range sessions {
				s.sees(t, "running\n")
			}

			children := descendants(h.server.Process.Pid)
			if len(children) < 10 {
				t.Errorf("the server has but %d descendants", len(children))
			}
			h.end(t, syscall.SIGKILL)

			for _, s := range sessions {
				if got := s.ends(t); got.code != 255 {
					t.Errorf("%+v", got)
				}
			}
			before.Same(t)
			eventually(t, "all of its processes have ended", func() bool { return !slices.ContainsFunc(children, process.there) })

			// The next one says what became of them, and goes on.
			h.start(t)
			lost := h.recorded(t, audit.SessionClose)
			if len(lost) != 2 || lost[0].Exit.Reason != audit.DaemonLost || lost[1].Exit.Reason != audit.DaemonLost {
				t.Errorf("recorded %+v", lost)
			}
			h.run(t, "alice", login, "echo in").is(t, result{stdout: "in\n"})
		})
	}
}

// process is one of the host's. Its number alone could be another's by now.
type process struct {
	pid  int
	born string
}

// descendants are all children of a process, and theirs, and so on.
func descendants(pid int) []process {
	children := map[int][]process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if parent, child := lineage(dir); child.born != "" {
			children[parent] = append(children[parent], child)
		}
	}
	var all []process
	for parents := []int{pid}; len(parents) > 0; parents = parents[1:] {
		for _, child := range children[parents[0]] {
			all = append(all, child)
			parents = append(parents, child.pid)
		}
	}
	return all
}

// lineage reads fields 4 and 22 of proc_pid_stat(5).
func lineage(dir string) (parent int, p process) {
	stat, _ := os.ReadFile(dir + "/stat")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, process{}
	}
	parent, _ = strconv.Atoi(fields[1])
	p.pid, _ = strconv.Atoi(filepath.Base(dir))
	p.born = fields[19]
	return parent, p
}

func (p process) there() bool {
	_, now := lineage(fmt.Sprintf("/proc/%d", p.pid))
	return now == p
}

func TestWhileASessionRunsTheContainerSeesNothingOfTheTools(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	h := serving(t, d)
	inside := func() string {
		return d.CLI(t, "exec", "web-1", "sh", "-c", "ls -R /dev; cat /proc/1/mounts")
	}
	before := inside()
	s := h.begin(t, "alice", "web-1", "ls -d /dev/crashcart/bin; cat")
	s.sees(t, "/dev/crashcart/bin\n")
	if now := inside(); now != before {
		t.Errorf("it sees\n%s\nand not any more\n%s", now, before)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/dev/crashcart", c.PID)); !os.IsNotExist(err) {
		t.Errorf("/dev/crashcart is in the container: %v", err)
	}
	s.in.Close()
	s.ends(t)
}
