package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

// measureEntry is the way in alone, as the daemon has it: from the plan until the
// command's execve(2) has happened, with the profile, the seccomp filters and a
// cgroup; beside nsenter(1) of the same namespaces, which has none of these, until
// its /bin/true has ended.
func measureEntry(b *bench) error {
	var plain, userns rig.Container
	err := b.tb.do(func() {
		plain = b.docker.Run(b.tb, "unconfined", "--security-opt", "seccomp=unconfined")
		userns = rig.Userns(b.tb)
	})
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		pid  int
	}{
		{"no seccomp filter", plain.PID},
		{"a user namespace", userns.PID},
		{"Docker's seccomp filter", b.patient.PID},
	} {
		if err := b.compareEntry(kind.name, kind.pid); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) compareEntry(name string, pid int) error {
	e := &entrance{bench: b, pid: pid}
	flags := []string{"-t", fmt.Sprint(pid), "-a", "/bin/busybox", "true"}
	n := b.rounds(300, 100)
	t, err := interleave(n, e.enter, func() (float64, error) {
		return milliseconds(func() error { return exec.Command("nsenter", flags...).Run() })
	})
	if err != nil {
		return err
	}
	row := Row{Unit: "ms", Samples: n, Note: "in the daemon, from plan to exec; nsenter's is a whole process"}
	b.compareMedians(row, "entry, "+name, "nsenter", t[0], t[1], ratioAtMost(0.6))
	return nil
}

type entrance struct {
	*bench
	pid, n int
}

// enter starts a command, and measures that alone.
func (e *entrance) enter() (ms float64, err error) {
	target, err := unix.PidfdOpen(e.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return 0, err
	}
	tools, err := unix.OpenTree(unix.AT_FDCWD, e.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return 0, err
	}
	e.n++
	c := &nsexec.Cmd{
		ID: fmt.Sprint("bench-", e.n), Path: "/bin/busybox", Args: []string{"busybox", "true"},
		Target: os.NewFile(uintptr(target), "pidfd"), Tools: os.NewFile(uintptr(tools), "tools"),
	}
	defer c.Target.Close()
	defer c.Tools.Close()
	defer c.Close()
	if ms, err = milliseconds(c.Start); err != nil {
		return 0, err
	}
	status, err := c.Wait()
	if err == nil && status.Code != 0 {
		err = fmt.Errorf("bench: entry: %+v", status)
	}
	return ms, err
}
