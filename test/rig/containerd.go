package rig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/need"
	"golang.org/x/sys/unix"
)

// Containerd is a running containerd of one test's own, with its CRI plugin.
type Containerd struct {
	Socket string
	State  string // its state directory, as /run/containerd is
	Runc   string // below it is a state directory of runc's for each namespace

	dir  string
	proc *process
}

// NewContainerd starts a containerd for one test, which may do to it what it
// likes. It has the image Busybox in the namespaces default and k8s.io, and in
// the latter the one that pods' sandboxes are made of.
func NewContainerd(t testing.TB) *Containerd {
	t.Helper()
	need.Root(t)
	need.Tool(t, "ctr", "containerd")
	need.Tool(t, "runc", "runc")
	program := need.Tool(t, "containerd", "containerd")
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Socket: dir + "/containerd.sock", State: dir + "/state", Runc: dir + "/runc", dir: dir}
	t.Cleanup(c.close)
	if err := os.WriteFile(dir+"/config.toml", []byte(c.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "--config", dir+"/config.toml")
	cmd.Stdout, cmd.Stderr = log, log
	if c.proc, err = start(cmd, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.prepare(t); err != nil {
		tail, _ := os.ReadFile(dir + "/log")
		t.Fatalf("rig: containerd: %v\n%s", err, tail)
	}
	return c
}

// pause is what sandboxes are made of.
const pause = "docker.io/rig/pause:1"

// config sets everything of its own. Without CAP_SYS_RESOURCE nothing may be
// kept from being killed first.
func (c *Containerd) config() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = %q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`, c.dir+"/root", c.State, c.Socket, pause, c.Runc, c.dir+"/cni", c.dir+"/cni")
}

func (c *Containerd) prepare(t testing.TB) error {
	answers := func() bool { _, err := c.try("default", "version"); return err == nil }
	if err := await(30*time.Second, answers); err != nil {
		return err
	}
	archive, err := imageTar(t, Busybox, pause)
	if err != nil {
		return err
	}
	path := c.dir + "/images.tar"
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		return err
	}
	for _, namespace := range []string{"default", "k8s.io"} {
		if _, err := c.try(namespace, "images", "import", "--snapshotter", "native", path); err != nil {
			return err
		}
	}
	return nil
}

// Run runs a container in a namespace, as `ctr run --detach FLAGS… IMAGE ID`; it
// sleeps.
func (c *Containerd) Run(t testing.TB, namespace, id string, flags ...string) Container {
	t.Helper()
	argv := append([]string{"run", "--detach", "--snapshotter", "native", "--runc-root", c.Runc, "--cgroup", c.cgroup() + "/" + namespace + "/" + id}, flags...)
	c.CLI(t, namespace, append(argv, "docker.io/"+Busybox+":latest", id)...)
	return Container{ID: id, Name: id, PID: c.PIDOf(t, namespace, id)}
}

// CLI runs ctr in a namespace, and returns what it said.
func (c *Containerd) CLI(t testing.TB, namespace string, args ...string) string {
	t.Helper()
	out, err := c.try(namespace, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try runs ctr, whose output goes to a file: the shim keeps what it inherits.
func (c *Containerd) try(namespace string, args ...string) (string, error) {
	out, err := os.CreateTemp(c.dir, "ctr")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command("ctr", append([]string{"--address", c.Socket, "--namespace", namespace}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	said, _ := os.ReadFile(out.Name())
	said = bytes.TrimSpace(said)
	if err != nil {
		return "", fmt.Errorf("rig: ctr %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return string(said), nil
}

// PIDOf returns the PID of a container's init.
func (c *Containerd) PIDOf(t testing.TB, namespace, id string) int {
	t.Helper()
	for line := range strings.Lines(c.CLI(t, namespace, "tasks", "ls")) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == id {
			pid, _ := strconv.Atoi(fields[1])
			return pid
		}
	}
	t.Fatalf("rig: containerd has no task %s", id)
	return 0
}

// cgroup is what its containers' cgroups are below.
func (c *Containerd) cgroup() string { return "/" + filepath.Base(c.dir) }

// removeCgroups removes what runc leaves: it makes the cgroups above a
// container's, and removes that one only.
func (c *Containerd) removeCgroups() {
	trees, _ := filepath.Glob("/sys/fs/cgroup/*" + c.cgroup())
	for _, tree := range append(trees, "/sys/fs/cgroup"+c.cgroup()) {
		var dirs []string
		filepath.WalkDir(tree, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			os.Remove(dir)
		}
	}
}

// PID is that of the daemon itself.
func (c *Containerd) PID() int { return c.proc.pid }

// close ends the daemon, the shims and all containers: with their shims gone,
// runc is who knows them.
func (c *Containerd) close() {
	if c.proc != nil {
		c.proc.stop(syscall.SIGTERM, 20*time.Second)
	}
	await(patience, func() bool {
		left := processesOf(c.dir)
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	})
	namespaces, _ := os.ReadDir(c.Runc)
	for _, namespace := range namespaces {
		root := c.Runc + "/" + namespace.Name()
		containers, _ := os.ReadDir(root)
		for _, container := range containers {
			output("runc", "--root", root, "delete", "--force", container.Name())
		}
	}
	c.removeCgroups()
	unmountBelow(c.dir)
	os.RemoveAll(c.dir)
}

// Pod makes a pod by CRI calls, with containers of these names, and returns its
// sandbox and them. It goes with the containerd.
func (c *Containerd) Pod(t testing.TB, namespace, pod string, containers ...string) []Container {
	t.Helper()
	client := c.criClient(t)
	out, err := output(append([]string{client, c.Socket, c.cgroup(), Busybox, namespace, pod}, containers...)...)
	if err != nil {
		log, _ := os.ReadFile(c.dir + "/log")
		t.Fatalf("%v\n%s", err, log[max(0, len(log)-2000):])
	}
	var made []Container
	for i, id := range strings.Fields(out) {
		name := ""
		if i > 0 {
			name = namespace + "/" + pod + "/" + containers[i-1]
		}
		made = append(made, Container{ID: id, Name: name, PID: c.PIDOf(t, "k8s.io", id)})
	}
	return made
}

// criClient builds the client, which is a module of its own.
func (c *Containerd) criClient(t testing.TB) string {
	t.Helper()
	tool := need.Tool(t, "go", "golang")
	_, here, _, _ := runtime.Caller(0)
	path := c.dir + "/cri"
	cmd := exec.Command(tool, "build", "-o", path, ".")
	cmd.Dir = filepath.Join(filepath.Dir(here), "../cri")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rig: test/cri: %v: %s", err, said)
	}
	return path
}
