package rig

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/need"
)

// bareScript is what PID 1 of a bare container does before it becomes its
// program: an almost empty tmpfs is made the root, and the host's is let go.
const bareScript = `set -e
box=$1 root=$2; shift 2
b() { "$box" "$@"; }
b mount --make-rprivate /
b mount -t tmpfs -o mode=755 rig "$root"
cd "$root"
b mkdir bin proc dev tmp old
b cp "$box" bin/busybox
b mount -t proc -o nosuid,nodev,noexec proc proc
b mount -t tmpfs -o mode=755,nosuid dev dev
for node in null:1:3 zero:1:5 urandom:1:9; do
	IFS=: read -r name major minor <<-END
		$node
	END
	b mknod -m 666 dev/$name c $major $minor
done
b pivot_root . old
cd /
/bin/busybox umount -l /old
/bin/busybox rmdir /old
echo ready >&3
exec "$@" 3>&- </dev/null >/dev/null 2>&1
`

// Bare starts a container that no runtime knows of: its own PID, mount, UTS,
// IPC, network and cgroup namespaces, and a root of its own with /bin/busybox,
// /proc, /tmp and a bare /dev. The argv is run as its PID 1; none sleeps.
func Bare(t testing.TB, argv ...string) Container {
	t.Helper()
	need.Root(t)
	if len(argv) == 0 {
		argv = forever
	}
	box := busybox(t)
	root := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	var complaint strings.Builder
	cmd := exec.Command(box, append([]string{"sh", "-c", bareScript, "rig", box, root}, argv...)...)
	cmd.Env = []string{"PATH=/bin"}
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS |
		syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET | syscall.CLONE_NEWCGROUP}
	p, err := start(cmd, syscall.SIGKILL)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(syscall.SIGKILL, time.Minute) })

	if said, _ := io.ReadAll(r); string(said) != "ready\n" {
		p.stop(syscall.SIGKILL, time.Minute)
		t.Fatalf("rig: bare container: %s", complaint.String())
	}
	return Container{PID: p.pid}
}

// SubID is the host's number for root inside of Userns.
const SubID = 100000

// Userns starts a container in a user namespace of its own, with runc: root
// inside is SubID outside. The argv is run as its PID 1; none sleeps.
func Userns(t testing.TB, argv ...string) Container {
	t.Helper()
	need.Root(t)
	runc := need.Tool(t, "runc", "runc")
	box := busybox(t)
	if len(argv) == 0 {
		argv = forever
	}
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := writeBundle(dir, box, argv); err != nil {
		t.Fatal(err)
	}

	name := filepath.Base(dir)
	state := dir + "/state"
	t.Cleanup(func() { output(runc, "--root", state, "delete", "--force", name) })
	cmd := exec.Command(runc, "--root", state, "--log", dir+"/log", "run", "--detach",
		"--bundle", dir, "--pid-file", dir+"/pid", name)
	// No pipes: the container keeps them, and waiting for their end would be
	// waiting for its end.
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(dir + "/log")
		t.Fatalf("rig: runc: %v: %s", err, log)
	}
	number, err := os.ReadFile(dir + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(number))
	if err != nil {
		t.Fatal(err)
	}
	return Container{ID: name, Name: name, PID: pid}
}

// writeBundle makes an OCI bundle of dir.
func writeBundle(dir, box string, argv []string) error {
	if err := writeRoot(dir+"/rootfs", box, SubID); err != nil {
		return err
	}
	config, err := json.Marshal(usernsConfig(argv, filepath.Base(dir)))
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/config.json", config, 0o600)
}

// writeRoot lays out a root directory that belongs to owner.
func writeRoot(root, box string, owner int) error {
	program, err := os.ReadFile(box)
	if err != nil {
		return err
	}
	for _, dir := range []string{"", "bin", "dev", "etc", "proc", "sbin", "sys", "tmp", "usr"} {
		if err := os.MkdirAll(root+"/"+dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(root+"/bin/busybox", program, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("busybox", root+"/bin/sh"); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, owner, owner)
	})
}

// usernsConfig is ociConfig with a user namespace.
func usernsConfig(argv []string, name string) any {
	type object = map[string]any
	type list = []any
	config := ociConfig(argv, name, nil)
	linux := config["linux"].(object)
	ids := list{object{"containerID": 0, "hostID": SubID, "size": 65536}}
	linux["uidMappings"], linux["gidMappings"] = ids, ids
	linux["namespaces"] = append(linux["namespaces"].(list), object{"type": "user"})
	return config
}
