package rig

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
	"golang.org/x/sys/unix"
)

// PodmanHost is a podman with storage of a test's own: root's, or a user's.
type PodmanHost struct {
	Socket string // of its service, which does not run until Serve
	Root   string // its storage
	State  string // its run root
	Users  string // directory of the users' run-time directories

	UID  int    // of whose it is
	User string // empty for root

	dir     string
	service *process
}

// Podman makes a podman of root's, with the image Busybox.
func Podman(t testing.TB) *PodmanHost {
	t.Helper()
	dir := podmanDir(t)
	p := &PodmanHost{Socket: dir + "/podman.sock", Root: dir + "/root", State: dir + "/run", Users: dir + "/users", dir: dir}
	t.Cleanup(p.close)
	p.prepare(t)
	return p
}

// RootlessPodman makes a user, and a podman of theirs.
func RootlessPodman(t testing.TB) *PodmanHost {
	t.Helper()
	need.Tool(t, "newuidmap", "uidmap")
	useradd := need.Tool(t, "useradd", "passwd")
	dir := podmanDir(t)
	user := fmt.Sprintf("rig%d", os.Getpid())
	if _, err := output(useradd, "--create-home", "--home-dir", dir+"/home", "--shell", "/bin/sh", user); err != nil {
		t.Fatal(err)
	}
	p := &PodmanHost{User: user, Users: dir + "/users", dir: dir, Root: dir + "/home/.local/share/containers/storage"}
	t.Cleanup(p.close)
	uid, err := output("id", "-u", user)
	if err != nil {
		t.Fatal(err)
	}
	p.UID, _ = strconv.Atoi(uid)
	run := p.Users + "/" + uid
	p.State = run + "/containers"
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(run, p.UID, p.UID); err != nil {
		t.Fatal(err)
	}
	p.prepare(t)
	return p
}

func podmanDir(t testing.TB) string {
	t.Helper()
	need.Root(t)
	need.Tool(t, "podman", "podman")
	need.Tool(t, "runc", "runc")
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (p *PodmanHost) prepare(t testing.TB) {
	t.Helper()
	box := busybox(t)
	archive, err := rootTar(box, applets(box))
	if err != nil {
		t.Fatal(err)
	}
	file := p.dir + "/image.tar"
	if err := os.WriteFile(file, archive, 0o644); err != nil {
		t.Fatal(err)
	}
	p.CLI(t, "import", file, Busybox)
}

// command is podman, as whose it is.
func (p *PodmanHost) command(args ...string) *exec.Cmd {
	argv := []string{"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"}
	if p.User == "" {
		argv = append(argv, "--root", p.Root, "--runroot", p.State, "--tmpdir", p.dir+"/tmp")
	}
	cmd := exec.Command("podman", append(argv, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}
	if p.User != "" {
		cmd.Dir = p.dir + "/home"
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "USER=" + p.User, fmt.Sprintf("XDG_RUNTIME_DIR=%s/%d", p.Users, p.UID)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.UID)}}
	}
	return cmd
}

// CLI runs podman, and returns what it said.
func (p *PodmanHost) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := p.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try gives podman files to write to: a pipe would be kept by what it starts.
func (p *PodmanHost) try(args ...string) (string, error) {
	out, err := os.CreateTemp("", "rig-podman")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	said, _ := os.ReadFile(out.Name())
	if err != nil {
		return "", fmt.Errorf("rig: podman %s: %w: %s", strings.Join(args, " "), err, said)
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return lines[len(lines)-1], nil // after warnings
}

// Run runs a container that sleeps, and is killed at once by a stop.
func (p *PodmanHost) Run(t testing.TB, name string, flags ...string) Container {
	t.Helper()
	argv := []string{"run", "--detach", "--name", name, "--network", "none", "--stop-signal", "KILL",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}
	argv = append(append(append(argv, flags...), Busybox), forever...)
	id := p.CLI(t, argv...)
	return Container{ID: id, Name: name, PID: p.PIDOf(t, id)}
}

// PIDOf returns the PID of a container's init; 0 if it does not run.
func (p *PodmanHost) PIDOf(t testing.TB, id string) int {
	t.Helper()
	pid, err := strconv.Atoi(p.CLI(t, "inspect", "--format", "{{.State.Pid}}", id))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Serve starts the service that speaks as Docker's engine does, and returns its
// PID. A test may do to it what it likes.
func (p *PodmanHost) Serve(t testing.TB) int {
	t.Helper()
	service, err := start(p.command("system", "service", "--time", "0", "unix://"+p.Socket), syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	p.service = service
	if err := await(patience, func() bool { _, err := os.Stat(p.Socket); return err == nil }); err != nil {
		t.Fatalf("rig: podman's service: %v", err)
	}
	return service.pid
}

// close removes the containers, and whatever else podman has started.
func (p *PodmanHost) close() {
	if p.service != nil {
		p.service.stop(syscall.SIGTERM, patience)
	}
	p.try("rm", "--all", "--force", "--time", "0")
	if p.User != "" {
		p.try("system", "migrate") // ends the process that keeps the user namespace
		await(patience, func() bool {
			left := processesBy(p.UID)
			for _, pid := range left {
				unix.Kill(pid, unix.SIGKILL)
			}
			return len(left) == 0
		})
		output("userdel", p.User)
	}
	unmountBelow(p.dir)
	removeCgroups("libpod_parent")
	os.RemoveAll(p.dir)
}

// processesBy lists the processes of a user's, other than zombies.
func processesBy(uid int) []int {
	var pids []int
	for _, pid := range processes() {
		info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		if err == nil && int(info.Sys().(*syscall.Stat_t).Uid) == uid && startTime(pid) != "" {
			pids = append(pids, pid)
		}
	}
	return pids
}
