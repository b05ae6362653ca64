package rig

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/need"
	"golang.org/x/sys/unix"
)

// Lxd is a running LXD, from which Incus comes.
type Lxd struct {
	Root string // its data

	proc *process
}

// LXD starts one for a test, with the image Busybox. It has no network.
func LXD(t testing.TB) *Lxd {
	t.Helper()
	need.Root(t)
	program := need.Tool(t, "lxd", "lxd")
	need.Tool(t, "lxc", "lxd-client")
	root, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	d := &Lxd{Root: root}
	cmd := exec.Command(program, "--group", "root")
	cmd.Env = d.environ()
	t.Cleanup(d.close)
	if d.proc, err = start(cmd, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := await(30*time.Second, func() bool { _, err := d.try("query", "/1.0"); return err == nil }); err != nil {
		t.Fatalf("rig: lxd: %v", err)
	}
	d.load(t)
	d.CLI(t, "storage", "create", "default", "dir")
	d.CLI(t, "profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
	return d
}

func (d *Lxd) environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.Root + "/home", "LXD_DIR=" + d.Root}
}

// load imports an image: a root directory with busybox in it as /sbin/init.
func (d *Lxd) load(t testing.TB) {
	t.Helper()
	file := d.Root + "/image.tar.gz"
	archive, err := lxdImage(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	d.CLI(t, "image", "import", file, "--alias", Busybox)
}

func lxdImage(box string) ([]byte, error) {
	program, err := os.ReadFile(box)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	file := func(name, content string, mode int64) {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
		w.Write([]byte(content))
	}
	file("metadata.yaml", "architecture: x86_64\ncreation_date: 1700000000\nproperties: {description: "+Busybox+"}\n", 0o644)
	for _, dir := range []string{"", "bin", "dev", "etc", "proc", "sbin", "sys", "tmp"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "rootfs/" + dir, Mode: 0o755})
	}
	file("rootfs/bin/busybox", string(program), 0o755)
	file("rootfs/etc/inittab", "::respawn:"+strings.Join(forever, " ")+"\n", 0o644)
	for name, target := range map[string]string{"sbin/init": "../bin/busybox", "bin/sh": "busybox"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "rootfs/" + name, Linkname: target, Mode: 0o777})
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Run launches a container of the image Busybox.
func (d *Lxd) Run(t testing.TB, name string, flags ...string) Container {
	t.Helper()
	d.CLI(t, append([]string{"launch", "--quiet", Busybox, name}, flags...)...)
	c := Container{Name: name, PID: d.pid(t, name, flags)}
	return c
}

func (d *Lxd) pid(t testing.TB, name string, flags []string) int {
	t.Helper()
	path := "/1.0/instances/" + name + "/state"
	for i, flag := range flags {
		if flag == "--project" {
			path += "?project=" + flags[i+1]
		}
	}
	_, rest, _ := strings.Cut(d.CLI(t, "query", path), `"pid":`)
	number, _, _ := strings.Cut(strings.TrimSpace(rest), ",")
	pid, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// CLI runs LXD's client, and returns what it said.
func (d *Lxd) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (d *Lxd) try(args ...string) (string, error) {
	cmd := exec.Command("lxc", args...)
	cmd.Env = d.environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("rig: lxc %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// PID is that of the daemon itself, to which a test may do what it likes.
func (d *Lxd) PID() int { return d.proc.pid }

// close kills the containers and the daemon. A monitor that has lost its
// container calls the daemon, and is not waited for.
func (d *Lxd) close() {
	if d.proc == nil {
		os.RemoveAll(d.Root)
		return
	}
	for _, pid := range processes() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parentOf(pid))); bytes.Contains(line, []byte("[lxc monitor] "+d.Root+"/")) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	d.proc.stop(syscall.SIGTERM, 10*time.Second)
	await(patience, func() bool {
		left := processesOf(d.Root)
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	})
	unmountBelow(d.Root)
	removeCgroups("lxc.*.*", "lxc.pivot")
	os.RemoveAll(d.Root)
	os.RemoveAll("/run/lxc/lock" + d.Root)
}
