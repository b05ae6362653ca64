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

// From plan to exit, beside a bare nsenter(1) of the same namespaces.
func BenchmarkEntry(b *testing.B) {
	ctr := rig.Bare(b)
	tools, target := b.TempDir(), pidfd(b, ctr.PID)
	b.Run("nsexec", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			fd, err := unix.OpenTree(unix.AT_FDCWD, tools, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			must(b, err)
			mount := os.NewFile(uintptr(fd), "tools")
			c := &nsexec.Cmd{ID: fmt.Sprint("bench-", n), Target: target, Tools: mount, Path: "/bin/busybox", Args: []string{"true"}}
			must(b, c.Start())
			if status, err := c.Wait(); err != nil || status.Code != 0 {
				b.Fatal(status, err)
			}
			must(b, c.Close())
			mount.Close()
		}
	})
	nsenter := need.Tool(b, "nsenter", "util-linux")
	b.Run("nsenter", func(b *testing.B) {
		for b.Loop() {
			must(b, exec.Command(nsenter, "-t", fmt.Sprint(ctr.PID), "-a", "/bin/busybox", "true").Run())
		}
	})
}
