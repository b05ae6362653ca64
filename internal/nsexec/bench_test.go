package nsexec_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/test/rig"
)

// From plan to exec, and to exit, beside a bare nsenter(1) of the same
// namespaces: with all that comes with it, profile, filters and cgroup.
func BenchmarkEntry(b *testing.B) {
	d := rig.Docker(b)
	for name, ctr := range map[string]rig.Container{"docker": d.Run(b, "bench"), "unconfined": d.Run(b, "bench2", "--security-opt", "seccomp=unconfined"), "userns": rig.Userns(b)} {
		b.Run(name+"/to exec", func(b *testing.B) { benchEntry(b, ctr, false) })
		b.Run(name+"/to exit", func(b *testing.B) { benchEntry(b, ctr, true) })
		nsenter := need.Tool(b, "nsenter", "util-linux")
		b.Run(name+"/nsenter", func(b *testing.B) {
			for b.Loop() {
				must(b, exec.Command(nsenter, "-t", fmt.Sprint(ctr.PID), "-a", "/bin/busybox", "true").Run())
			}
		})
	}
}

func benchEntry(b *testing.B, ctr rig.Container, toExit bool) {
	tools, target := b.TempDir(), pidfd(b, ctr.PID)
	for n := 0; b.Loop(); n++ {
		fd, err := unix.OpenTree(unix.AT_FDCWD, tools, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		must(b, err)
		mount := os.NewFile(uintptr(fd), "tools")
		c := &nsexec.Cmd{ID: fmt.Sprint("bench-", n), Target: target, Tools: mount, Path: "/bin/busybox", Args: []string{"busybox", "true"}}
		must(b, c.Start())
		if !toExit {
			b.StopTimer()
		}
		if status, err := c.Wait(); err != nil || status.Code != 0 {
			b.Fatal(status, err)
		}
		must(b, c.Close())
		mount.Close()
		b.StartTimer()
	}
}
