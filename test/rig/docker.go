package rig

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/need"
	"golang.org/x/sys/unix"
)

// The images that every dockerd of the rig has.
const (
	Busybox = "rig/busybox" // all of busybox's applets, /etc/passwd with a user 1000, /tmp, /var/www
	Static  = "rig/static"  // /bin/busybox and nothing else: no shell by name, no /etc, no /tmp
)

// Dockerd is a running dockerd without networks of its own.
type Dockerd struct {
	Socket string // path of its Unix socket
	Root   string // its data root

	dir  string
	proc *process
}

var shared struct {
	sync.Mutex
	docker *Dockerd
}

// Docker returns the dockerd that all tests of this binary share. TestMain
// must call Stop when they are done.
//
//	func TestMain(m *testing.M) { code := m.Run(); rig.Stop(); os.Exit(code) }
func Docker(t testing.TB) *Dockerd {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.docker == nil {
		shared.docker = startDockerd(t)
	}
	return shared.docker
}

// Stop ends what the tests of this binary share.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.docker != nil {
		shared.docker.close()
		shared.docker = nil
	}
}

// NewDocker starts a dockerd for one test, which may do to it what it likes.
func NewDocker(t testing.TB, args ...string) *Dockerd {
	t.Helper()
	d := startDockerd(t, args...)
	t.Cleanup(d.close)
	return d
}

func startDockerd(t testing.TB, args ...string) *Dockerd {
	t.Helper()
	need.Root(t)
	need.Tool(t, "docker", "docker.io")
	dockerd := need.Tool(t, "dockerd", "docker.io")
	box := busybox(t)

	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	d := &Dockerd{Socket: dir + "/docker.sock", Root: dir + "/data", dir: dir}
	log, err := os.Create(d.log())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := writeRuntime(d.runtime()); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command(dockerd, append([]string{
		"--host", "unix://" + d.Socket,
		"--data-root", d.Root,
		"--exec-root", dir + "/exec",
		"--pidfile", dir + "/pid",
		"--config-file", dir + "/none.json", // not the machine's
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false",
		"--add-runtime", "rig=" + d.runtime(),
		"--shutdown-timeout", "5",
	}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	os.WriteFile(dir+"/none.json", []byte("{}"), 0o600)
	if d.proc, err = start(cmd, syscall.SIGTERM); err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	if err := d.prepare(box); err != nil {
		tail, _ := os.ReadFile(d.log())
		d.close()
		t.Fatalf("rig: dockerd: %v\n%s", err, tail)
	}
	return d
}

// prepare waits for the daemon and gives it its images.
func (d *Dockerd) prepare(box string) error {
	answers := func() bool { _, err := d.try("version"); return err == nil }
	dead := func() bool {
		select {
		case <-d.proc.done:
			return true
		default:
			return false
		}
	}
	if err := await(30*time.Second, func() bool { return dead() || answers() }); err != nil {
		return err
	}
	if err := d.load(Busybox, box, applets(box)); err != nil {
		return err
	}
	return d.load(Static, box, nil)
}

// load imports an image of a root directory that holds busybox.
func (d *Dockerd) load(image, box string, applets []string) error {
	archive, err := rootTar(box, applets)
	if err != nil {
		return err
	}
	cmd := exec.Command("docker", "--host", "unix://"+d.Socket, "import", "--change", `CMD ["`+strings.Join(forever, `", "`)+`"]`, "-", image)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w: %s", image, err, out)
	}
	return nil
}

// Run runs a container of the image Busybox with no network of its own, as
// `docker run -d --name NAME FLAGS… rig/busybox COMMAND…`, and removes it when
// the test ends. What follows "--" is the command; without one it sleeps. A
// stop kills it at once.
func (d *Dockerd) Run(t testing.TB, name string, flags ...string) Container {
	t.Helper()
	return d.RunImage(t, Busybox, name, flags...)
}

// RunImage is Run with another image.
func (d *Dockerd) RunImage(t testing.TB, image, name string, flags ...string) Container {
	t.Helper()
	flags, command := split(flags)
	argv := []string{"run", "--detach", "--name", name, "--stop-signal", "KILL"}
	if !mentions(flags, "--network", "--net") {
		argv = append(argv, "--network", "none")
	}
	if mentions(flags, "--privileged") && !mentions(flags, "--runtime") {
		argv = append(argv, "--runtime", "rig") // see writeRuntime
	}
	argv = append(append(append(argv, flags...), image), command...)

	t.Cleanup(func() { d.try("rm", "--force", "--volumes", name) })
	id := d.CLI(t, argv...)
	return Container{ID: id, Name: name, PID: d.PIDOf(t, id)}
}

// CLI runs the docker client against this daemon, and returns what it said.
func (d *Dockerd) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// PIDOf returns the PID of a container's init; 0 if it does not run.
func (d *Dockerd) PIDOf(t testing.TB, id string) int {
	t.Helper()
	pid, err := strconv.Atoi(d.CLI(t, "inspect", "--format", "{{.State.Pid}}", id))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Stop stops a container.
func (d *Dockerd) Stop(t testing.TB, name string) {
	t.Helper()
	d.CLI(t, "stop", name)
}

// Remove kills and removes a container.
func (d *Dockerd) Remove(t testing.TB, name string) {
	t.Helper()
	d.CLI(t, "rm", "--force", "--volumes", name)
}

// PID is that of the daemon itself: of one's own (NewDocker) it may be
// stopped, or killed.
func (d *Dockerd) PID() int { return d.proc.pid }

func (d *Dockerd) try(args ...string) (string, error) {
	return output(append([]string{"docker", "--host", "unix://" + d.Socket}, args...)...)
}

func (d *Dockerd) log() string     { return d.dir + "/log" }
func (d *Dockerd) runtime() string { return d.dir + "/runc" }

// close ends the daemon, whatever a test has done to it, and all that is left
// of its containers.
func (d *Dockerd) close() {
	d.proc.stop(syscall.SIGTERM, 20*time.Second)
	// Only after a SIGKILL is anything left: containers; containerd and the
	// shims, which have our directory, that nobody else uses, in their command
	// line.
	roots, _ := filepath.Glob(d.dir + "/exec/runtime-*/moby")
	for _, root := range roots {
		containers, _ := os.ReadDir(root)
		for _, c := range containers {
			output("runc", "--root", root, "delete", "--force", c.Name())
		}
	}
	await(patience, func() bool {
		left := processesOf(d.dir)
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL)
		}
		return len(left) == 0
	})
	unmountBelow(d.dir)
	os.RemoveAll(d.dir)
}

// writeRuntime makes a runc that does without CAP_SYS_RESOURCE. On a host
// whose bounding set lacks it, a privileged container cannot be started
// otherwise: Docker asks for every capability that the kernel knows.
func writeRuntime(path string) error {
	keep := "-e ''"
	if held, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); held == 0 {
		keep = `-e 's/,"CAP_SYS_RESOURCE"//g' -e 's/"CAP_SYS_RESOURCE",//g'`
	}
	script := `#!/bin/sh
# runc [global options] create --bundle DIR … | exec --process FILE …
last=
for arg; do
	case $last in
	--bundle) sed -i ` + keep + ` "$arg/config.json" ;;
	--process) sed -i ` + keep + ` "$arg" ;;
	esac
	last=$arg
done
exec runc "$@"
`
	return os.WriteFile(path, []byte(script), 0o755)
}

// rootTar packs a root directory.
func rootTar(box string, applets []string) ([]byte, error) {
	program, err := os.ReadFile(box)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dir := func(name string, mode int64) {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
	}
	file := func(name string, mode int64, content []byte) {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
		w.Write(content)
	}
	dir("bin", 0o755)
	file("bin/busybox", 0o755, program)
	if applets != nil {
		dir("etc", 0o755)
		dir("tmp", 0o1777)
		dir("var", 0o755)
		dir("var/www", 0o755)
		dir("home", 0o755)
		file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n"))
		file("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\n"))
		file("var/www/index.html", 0o644, []byte("hello from the container\n"))
	}
	for _, name := range applets {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777})
	}
	if err := w.Close(); err != nil { // tells of any error before it, too
		return nil, err
	}
	return buf.Bytes(), nil
}

func applets(box string) []string {
	list, _ := output(box, "--list")
	var names []string
	for name := range strings.FieldsSeq(list) {
		if name != "busybox" {
			names = append(names, name)
		}
	}
	return names
}

func split(args []string) (flags, command []string) {
	for i, arg := range args {
		if arg == "--" {
			return args[:i], args[i+1:]
		}
	}
	return args, nil
}

func mentions(flags []string, names ...string) bool {
	for _, flag := range flags {
		for _, name := range names {
			if flag == name || strings.HasPrefix(flag, name+"=") {
				return true
			}
		}
	}
	return false
}

// processesOf lists the processes that name dir in their command line.
func processesOf(dir string) []int {
	var pids []int
	for _, pid := range processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.Contains(line, []byte(dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmountBelow unmounts whatever is left below dir: dockerd forgets the
// network namespace of the host network.
func unmountBelow(dir string) {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], filepath.Clean(dir)+"/") {
			unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
}
