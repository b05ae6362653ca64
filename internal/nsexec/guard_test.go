package nsexec_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

// guardPID finds the guard, a child of ours.
func guardPID(t *testing.T) int {
	t.Helper()
	out, err := exec.Command(need.Tool(t, "pgrep", "procps"), "-P", fmt.Sprint(os.Getpid()), "-x", "cartsshd-guard").Output()
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	return pid
}

func TestAGuardThatWasKilledIsReplaced(t *testing.T) {
	ctr := rig.Bare(t)
	ask := talk(t, command(t, ctr.PID, ""))
	ask("true")
	guard := pidfd(t, guardPID(t))
	raw, err := guard.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }))
	must(t, err)
	if out, status := run(t, command(t, ctr.PID, "echo entered")); out != "entered\n" || status.Code != 0 {
		t.Errorf("after its guard was killed: %q, %+v", out, status)
	}
	if got := ask("echo alive"); got != "alive\n" {
		t.Errorf("the session that ran meanwhile says %q", got)
	}
}

func TestSessionsThatStartAtOnceDoNotMix(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	var all sync.WaitGroup
	for i := range 40 {
		c := command(t, ctr.PID, fmt.Sprintf("ls /proc/self/fd; echo session %d; exit %d", i, i))
		all.Go(func() {
			out, status := run(t, c)
			if want := fmt.Sprintf("0\n1\n2\n3\nsession %d\n", i); out != want || status.Code != i {
				t.Errorf("session %d: status %d, output %q", i, status.Code, out)
			}
		})
	}
	all.Wait()
	before.Same(t)
}

func TestASessionIsSeenInPsByItsName(t *testing.T) {
	ctr := rig.Bare(t)
	c := command(t, ctr.PID, `tr '\0' '\n' </proc/$PPID/cmdline | head -n 1`)
	if out, _ := run(t, c); out != "cartsshd: session "+c.ID+"\n" {
		t.Errorf("the init is called %q, and the session %s", out, c.ID)
	}
}
