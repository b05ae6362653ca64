package router

import (
	"os"
	"os/exec"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

func TestFactsAreTheKernels(t *testing.T) {
	d := rig.Docker(t)
	for name, claim := range map[string]struct {
		flags []string
		want  Facts
	}{
		"plain":                     {nil, Facts{}},
		"privileged":                {[]string{"--privileged"}, Facts{Privileged: true}},
		"privileged, but not root":  {[]string{"--privileged", "--user", "1000"}, Facts{Privileged: true}},
		"all but privileged":        {[]string{"--runtime", "rig", "--cap-add", "ALL"}, Facts{}},
		"without a seccomp filter":  {[]string{"--security-opt", "seccomp=unconfined"}, Facts{}},
		"both of these":             {[]string{"--runtime", "rig", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined"}, Facts{Privileged: true}},
		"with the host's processes": {[]string{"--pid", "host"}, Facts{HostPID: true}},
		"with the host's network":   {[]string{"--network", "host"}, Facts{HostNet: true}},
		"with all of it":            {[]string{"--privileged", "--pid", "host", "--network", "host"}, Facts{true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := d.Run(t, "web-1", claim.flags...)
			for _, login := range []string{"web-1", pidOf(c)} {
				target, err := on(t, d, login)
				if err != nil || target.Facts != claim.want {
					t.Errorf("%s: got %+v, %v; want %+v", login, target, err, claim.want)
				}
			}
			all, err := Match{"docker", Found{PID: c.PID}}.Facts()
			if err != nil || len(all) != 1 || all[0] != claim.want {
				t.Errorf("not pinned: got %+v, %v", all, err)
			}
		})
	}
}

func TestTheHostsOwnProcessesAreWithTheHost(t *testing.T) {
	facts, err := factsOf(os.Getpid())
	if err != nil || !facts.HostPID || !facts.HostNet {
		t.Errorf("got %+v, %v", facts, err)
	}
}

// What nobody could find out is no fact, and least of all that it is harmless.
func TestFactsThatCannotBeReadAreAnError(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	pid := gone.ProcessState.Pid()
	if facts, err := factsOf(pid); err == nil {
		t.Errorf("of a process that has ended: %+v", facts)
	}
	if all, err := (Match{"docker", Found{PID: pid}}).Facts(); err == nil || all != nil {
		t.Errorf("of a container that has ended: %+v, %v", all, err)
	}
}

func TestAContainerWithoutAProcessMayBeAnything(t *testing.T) {
	all, err := Match{"docker", Found{}}.Facts()
	distinct := map[Facts]bool{}
	for _, facts := range all {
		distinct[facts] = true
	}
	if err != nil || len(distinct) != 8 {
		t.Errorf("got %+v, %v", all, err)
	}
}
