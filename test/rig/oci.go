package rig

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

// OCI is an OCI runtime, runc or crun, with a state directory of its own.
type OCI struct {
	Root string // its state directory, --root

	dir     string
	program []string
}

// Runc returns a runc of the test's own.
func Runc(t testing.TB) *OCI {
	t.Helper()
	return newOCI(t, need.Tool(t, "runc", "runc"))
}

// Crun returns a crun of the test's own. It understands hosts of cgroup v1 or of
// v2, and gets to see a hybrid one as v1.
func Crun(t testing.TB) *OCI {
	t.Helper()
	crun := need.Tool(t, "crun", "crun")
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err != nil {
		return newOCI(t, crun)
	}
	return newOCI(t, need.Tool(t, "unshare", "util-linux"), "--mount", "sh", "-c", `umount /sys/fs/cgroup/unified && exec "$@"`, "sh", crun)
}

func newOCI(t testing.TB, program ...string) *OCI {
	t.Helper()
	need.Root(t)
	dir, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &OCI{Root: dir + "/state", dir: dir, program: program}
}

// Run starts a container with these annotations, that sleeps.
func (o *OCI) Run(t testing.TB, id string, annotations map[string]string) Container {
	t.Helper()
	bundle := o.dir + "/" + id
	if err := o.writeBundle(t, bundle, annotations); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.CLI(t, "delete", "--force", id) })
	o.CLI(t, "run", "--detach", "--bundle", bundle, "--pid-file", bundle+"/pid", id)
	pid, err := os.ReadFile(bundle + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		t.Fatal(err)
	}
	return Container{ID: id, Name: id, PID: number}
}

// CLI runs the runtime. No pipes: a container keeps them, and waiting for their
// end would be waiting for its end.
func (o *OCI) CLI(t testing.TB, args ...string) {
	t.Helper()
	log := o.dir + "/log"
	argv := append(append(append([]string{}, o.program...), "--root", o.Root, "--log", log), args...)
	if err := exec.Command(argv[0], argv[1:]...).Run(); err != nil {
		said, _ := os.ReadFile(log)
		t.Fatalf("rig: %s: %v: %s", strings.Join(argv, " "), err, said)
	}
}

func (o *OCI) writeBundle(t testing.TB, bundle string, annotations map[string]string) error {
	if err := writeRoot(bundle+"/rootfs", busybox(t), 0); err != nil {
		return err
	}
	text, err := json.Marshal(ociConfig(forever, filepath.Base(o.dir)+"-"+filepath.Base(bundle), annotations))
	if err != nil {
		return err
	}
	return os.WriteFile(bundle+"/config.json", text, 0o600)
}

// ociConfig is an OCI runtime configuration: runc's default capabilities,
// everything unshared but the user namespace.
func ociConfig(argv []string, name string, annotations map[string]string) map[string]any {
	type object = map[string]any
	type list = []any
	mount := func(target, kind string, options ...string) object {
		return object{"destination": target, "type": kind, "source": kind, "options": options}
	}
	var namespaces list
	for _, kind := range []string{"pid", "mount", "network", "ipc", "uts", "cgroup"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"}
	return object{
		"ociVersion":  "1.0.2",
		"hostname":    name,
		"annotations": annotations,
		"process": object{
			"args":         argv,
			"cwd":          "/",
			"env":          []string{"PATH=/bin"},
			"user":         object{"uid": 0, "gid": 0},
			"capabilities": object{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"root": object{"path": "rootfs"},
		"mounts": list{
			mount("/proc", "proc"),
			mount("/dev", "tmpfs", "nosuid", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		},
		"linux": object{
			"namespaces":  namespaces,
			"cgroupsPath": fmt.Sprintf("/%s", name),
		},
	}
}
