package rig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"

	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

// Nspawn starts a machine of systemd-nspawn, that machined is not told of:
//
//	systemd-nspawn --register=no --keep-unit --directory NAME FLAGS… busybox sleep
//
// Without a --machine in the flags it is called after its directory.
func Nspawn(t testing.TB, name string, flags ...string) Container {
	t.Helper()
	need.Root(t)
	program := need.Tool(t, "systemd-nspawn", "systemd-container")
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	tree := dir + "/" + name
	if err := writeRoot(tree, busybox(t), 0); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(tree+"/etc/os-release", nil, 0o644) // or it takes it for no root directory

	var complaint bytes.Buffer
	argv := append([]string{"--quiet", "--register=no", "--keep-unit", "--directory", tree}, flags...)
	cmd := exec.Command(program, append(argv, forever...)...)
	cmd.Stdout, cmd.Stderr = &complaint, &complaint
	p, err := start(cmd, syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM, patience)
		os.RemoveAll(dir)
		removeCgroups("payload", "supervisor")
	})
	c := Container{Name: name}
	if err := await(patience, func() bool { c.PID = sleeperOf(p.pid); return c.PID != 0 }); err != nil {
		p.stop(syscall.SIGTERM, patience)
		t.Fatalf("rig: nspawn: %s", complaint.String())
	}
	return c
}

// sleeperOf returns the child of a process that runs forever; 0 if none does
// yet.
func sleeperOf(parent int) int {
	for _, pid := range processes() {
		if parentOf(pid) != parent {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Join(forever, "\x00")+"\x00" == string(line) {
			return pid
		}
	}
	return 0
}
