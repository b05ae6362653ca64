package nsexec_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

func TestASessionHasNoMoreProcessesThanItsLimit(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait")
	c.Profile.Processes = 5
	if out, status := run(t, c); status.Code == 0 || !strings.Contains(out, "can't fork") {
		t.Errorf("status %+v: %s", status, out)
	}
	c = command(t, ctr.PID, "sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & kill $(jobs -p)") // and itself
	c.Profile.Processes = 5
	if out, status := run(t, c); status.Code != 0 {
		t.Errorf("status %+v: %s", status, out)
	}
	c = command(t, ctr.PID, "sleep 1; sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & :") // by then no place is free
	c.Profile.Processes = 5
	if out, status := run(t, c); status.Code == 0 {
		t.Errorf("six of five: status %+v: %s", status, out)
	}
	c = command(t, ctr.PID, "exec true")
	c.Profile.Processes = 1
	if out, status := run(t, c); status.Code != 0 {
		t.Errorf("of one process: status %+v: %s", status, out)
	}
	before.Same(t)
}

func TestASessionHasNoMoreMemoryThanItsLimit(t *testing.T) {
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID)
	for limit, killed := range map[int64]bool{16 << 20: true, 256 << 20: false} {
		c := command(t, ctr.PID, "exec dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null")
		c.Profile.Memory = limit
		if _, status := run(t, c); (status.Signal == unix.SIGKILL) != killed || status.Memory != killed {
			t.Errorf("64 MiB of %d bytes: status %+v", limit, status)
		}
	}
	before.Same(t)
}

func TestASessionMayBeUnderTheContainersLimits(t *testing.T) {
	d := rig.Docker(t)
	ctr := d.Run(t, "limited", "--pids-limit", "12")
	before := rig.Residue(t, ctr.PID)
	for target, forks := range map[bool]bool{false: true, true: false} {
		c := command(t, ctr.PID, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13; do sleep 1000 & done; kill $(jobs -p)")
		c.Profile.TargetCgroup = target
		out, status := run(t, c)
		if (status.Code == 0) != forks || strings.Contains(out, "can't fork") == forks {
			t.Errorf("target %v: status %+v: %s", target, status, out)
		}
	}
	before.Same(t)
}

// As on a host of cgroup v2 alone, but for the limits, which no controller is
// there to set here.
func TestACgroupBelowTheContainersOwnIsNoBurdenToIt(t *testing.T) {
	defer nsexec.NestAnyway()()
	d := rig.Docker(t)
	ctr := d.Run(t, "nest")
	before := rig.Residue(t, ctr.PID)
	c := command(t, ctr.PID, "cat /proc/self/cgroup")
	c.Profile.TargetCgroup = true
	if out, status := run(t, c); status.Code != 0 || !strings.Contains(out, ctr.ID+"/"+c.ID+"/run\n") {
		t.Errorf("status %+v: %s", status, out)
	}
	before.Same(t)

	c = command(t, ctr.PID, "sleep 1000")
	c.Profile.TargetCgroup = true
	must(t, c.Start())
	d.Remove(t, "nest")
	if status, err := c.Wait(); err == nil && status.Signal != unix.SIGKILL {
		t.Errorf("when its container was removed: %+v, %v", status, err)
	}
	must(t, c.Close())
}
