package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

var update = flag.Bool("update", false, "write what was tried into docs/containers.md")

// A kind is containers of one make.
type kind struct {
	name   string
	looks  string // what it is like
	config string // of its runtime
	target audit.Target
	pid    int
	logins []string
	user   string // who it runs as, if not root
}

// row is what came of one.
type row struct{ logins, root, restricted, terminal, left string }

// everyKind starts one of each.
func everyKind(t *testing.T) (kinds []kind) {
	t.Helper()
	docker := rig.Docker(t)
	for _, k := range []struct {
		name  string
		image string
		flags []string
		user  string
	}{
		{"plain", rig.Busybox, nil, ""},
		{"--read-only --user 1000 --cap-drop ALL", rig.Busybox, []string{"--read-only", "--user", "1000", "--cap-drop", "ALL"}, "1000"},
		{"--privileged", rig.Busybox, []string{"--privileged"}, ""},
		{"--pid host", rig.Busybox, []string{"--pid", "host"}, ""},
		{"--network host --ipc host", rig.Busybox, []string{"--network", "host", "--ipc", "host"}, ""},
		{"one static binary", rig.Static, nil, ""},
	} {
		name := fmt.Sprintf("web-%d", len(kinds))
		c := docker.RunImage(t, k.image, name, k.flags...)
		kinds = append(kinds, kind{
			name: "docker", looks: k.name, user: k.user, pid: c.PID,
			config: fmt.Sprintf("docker: {socket: %q, root: %q}", docker.Socket, docker.Root),
			target: audit.Target{Runtime: "docker", ID: c.ID, Name: name},
			logins: []string{name, "docker:" + name, c.ID, c.ID[:12], fmt.Sprintf("pid:%d", c.PID)},
		})
	}
	return append(kinds, elsewhere(t)...)
}

func elsewhere(t *testing.T) (kinds []kind) {
	t.Helper()
	add := func(k kind, runtime, id, name string, c rig.Container, logins ...string) {
		k.pid, k.target = c.PID, audit.Target{Runtime: runtime, ID: id, Name: name}
		k.logins = append(logins, fmt.Sprintf("pid:%d", c.PID))
		kinds = append(kinds, k)
	}

	d := rig.NewContainerd(t)
	config := fmt.Sprintf("containerd: {root: %q}, cri: {containerd: %q}", d.State, d.State)
	task := d.Run(t, "default", "web-task")
	add(kind{name: "containerd", looks: "ctr run", config: config}, "containerd", "web-task", "web-task", task, "web-task", "containerd:web-task", "default/web-task")
	pod := d.Pod(t, "prod", "web-pod", "nginx")
	add(kind{name: "cri", looks: "a pod, made by CRI calls", config: config}, "cri", pod[1].ID, "prod/web-pod/nginx", pod[1],
		"prod/web-pod/nginx", "prod/web-pod", "cri:prod/web-pod", pod[1].ID, pod[1].ID[:12], "containerd:"+pod[1].ID)

	runc := rig.Runc(t)
	c := runc.Run(t, "web-runc", nil)
	add(kind{name: "runc", looks: "plain", config: fmt.Sprintf("runc: {roots: [%q]}", runc.Root)}, "runc", "web-runc", "web-runc", c, "web-runc", "runc:web-runc")
	crun := rig.Crun(t)
	c = crun.Run(t, "web-crun", nil)
	add(kind{name: "crun", looks: "plain", config: fmt.Sprintf("crun: {roots: [%q]}", crun.Root)}, "crun", "web-crun", "web-crun", c, "web-crun", "crun:web-crun")

	podman := rig.Podman(t)
	c = podman.Run(t, "web-podman")
	podman.Serve(t)
	add(kind{name: "podman", looks: "root's", config: fmt.Sprintf("podman: {socket: %q, root: %q, run: %q, users: %q}", podman.Socket, podman.Root, podman.State, podman.Users)},
		"podman", c.ID, "web-podman", c, "web-podman", "podman:web-podman", c.ID, c.ID[:8])
	lxc := rig.LXC(t)
	config = fmt.Sprintf("lxc: {root: %q}", lxc.Path)
	add(kind{name: "lxc", looks: "privileged", config: config}, "lxc", "", "web-lxc", lxc.Run(t, "web-lxc"), "web-lxc", "lxc:web-lxc")
	add(kind{name: "lxc", looks: "unprivileged", config: config}, "lxc", "", "web-unpriv", lxc.Run(t, "web-unpriv", rig.Unprivileged...), "web-unpriv", "lxc:web-unpriv")
	lxd := rig.LXD(t)
	add(kind{name: "incus", looks: "LXD's, unprivileged", config: fmt.Sprintf("incus: {root: %q}", lxd.Root)},
		"incus", "", "web-lxd", lxd.Run(t, "web-lxd"), "web-lxd", "incus:web-lxd", "default_web-lxd")
	add(kind{name: "nspawn", looks: "plain", config: "nspawn: {}"}, "nspawn", "", "web-spawn", rig.Nspawn(t, "web-spawn"), "web-spawn", "nspawn:web-spawn")
	add(kind{name: "nspawn", looks: "-U", config: "nspawn: {}"}, "nspawn", "", "web-spawnu", rig.Nspawn(t, "web-spawnu", "-U"), "web-spawnu", "nspawn:web-spawnu")

	for looks, script := range map[string]string{
		"namespaces made by hand": "",
		"without /dev":            "umount -l /dev; rmdir /dev",
		"/dev is a link":          "umount -l /dev; rmdir /dev; ln -s /tmp /dev",
		"/dev is read-only":       "mount -o remount,ro /dev",
		"/dev is full":            "mount -o remount,size=4k /dev; dd if=/dev/zero of=/dev/full-up bs=1k 2>/dev/null; true",
		"without /proc":           "umount -l /proc",
	} {
		c = rig.Bare(t)
		if out, err := exec.Command("nsenter", "-t", fmt.Sprint(c.PID), "-a", "/bin/busybox", "sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		add(kind{name: "pid", looks: looks}, "pid", fmt.Sprint(c.PID), "", c, fmt.Sprint(c.PID))
	}
	c = rig.Userns(t)
	add(kind{name: "pid", looks: "a user namespace"}, "pid", fmt.Sprint(c.PID), "", c, fmt.Sprint(c.PID))
	slices.SortStableFunc(kinds, func(a, b kind) int { // a map's order is none
		if a.name != "pid" || b.name != "pid" {
			return 0
		}
		return strings.Compare(a.looks, b.looks)
	})
	return kinds
}

// remapped is a kind of Docker's that takes an engine of its own.
func remapped(t *testing.T) kind {
	t.Helper()
	d := rig.NewDocker(t, "--userns-remap", "default")
	c := d.Run(t, "web-remap")
	return kind{
		name: "docker", looks: "userns-remap", pid: c.PID,
		config: fmt.Sprintf("docker: {socket: %q, root: auto}", d.Socket),
		target: audit.Target{Runtime: "docker", ID: c.ID, Name: "web-remap"},
		logins: []string{"web-remap", "docker:web-remap", c.ID, c.ID[:12], fmt.Sprintf("pid:%d", c.PID)},
	}
}

// rootless is a user's podman, which root's cannot be told from in one
// configuration of the rig.
func rootless(t *testing.T) kind {
	t.Helper()
	p := rig.RootlessPodman(t)
	c := p.Run(t, "web-user")
	name := p.User + "/web-user"
	return kind{
		name: "podman", looks: "a user's", pid: c.PID,
		config: fmt.Sprintf("podman: {root: %q, run: %q, users: %q}", p.Users+"/none", p.Users+"/none", p.Users),
		target: audit.Target{Runtime: "podman", Name: name},
		logins: []string{name, "podman:" + name, fmt.Sprintf("pid:%d", c.PID)},
	}
}

const everybody = `listen: "127.0.0.1:0"
host_key: host_key
image: {path: %q}
record: {dir: record}
state: {dir: state}
runtimes: {%s, pid: {}}
people:
  alice: {keys: [%s]}
  bob: {keys: [%s]}
rules:
  - {name: all, who: [alice], targets: [{name: "*"}, {runtime: pid}], allow: [shell]}
  - {name: same, who: [bob], targets: [{name: "*"}, {runtime: pid}], allow: [shell], terms: {profile: restricted}}
`

func TestEveryKindOfContainerIsEnteredByEachOfItsNames(t *testing.T) {
	var table strings.Builder
	table.WriteString("| runtime | container | logins | root | restricted | terminal | left |\n|---|---|---|---|---|---|---|\n")
	for _, kinds := range [][]kind{{remapped(t), rootless(t)}, everyKind(t)} {
		h := newHost(t, nil)
		h.write(t, "config.yaml", fmt.Sprintf(everybody, toolsImage(t), configOf(kinds), publicKey(t, "alice"), publicKey(t, "bob")))
		h.start(t)
		for _, k := range kinds {
			t.Run(k.name+" "+k.looks, func(t *testing.T) {
				r := k.tried(t, h)
				fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s | %s |\n", k.name, k.looks, r.logins, r.root, r.restricted, r.terminal, r.left)
			})
		}
	}
	documented(t, "../../docs/containers.md", table.String())
}

func configOf(kinds []kind) string {
	var runtimes []string
	for _, k := range kinds {
		if k.config != "" && !slices.Contains(runtimes, k.config) {
			runtimes = append(runtimes, k.config)
		}
	}
	return strings.Join(runtimes, ", ")
}

// tried enters one in every way, and says what came of it.
func (k kind) tried(t *testing.T, h *host) (r row) {
	before := rig.Residue(t, k.pid, toolsImage(t))
	for _, login := range k.logins {
		got := h.run(t, "alice", login, "echo out; echo err >&2; exit 7")
		got.is(t, result{"out\n", "err\n", 7})
		opened := *h.last(t, audit.SessionOpen).Target
		if k.target.ID == "" {
			k.target.ID = opened.ID // whatever it is, it is the same for all
		}
		if opened.Source == "" || opened.Runtime != k.target.Runtime || opened.ID != k.target.ID || opened.Name != k.target.Name || opened.PID != k.pid {
			t.Errorf("%s: recorded as to %+v, want %+v", login, opened, k.target)
		}
	}
	r.logins = fmt.Sprintf("%d of %d", len(k.logins), len(k.logins))
	login := k.logins[0]

	cat := h.begin(t, "alice", login, "cat; id -u; stat -c %u:%g /dev/crashcart/bin/bash")
	cat.types(t, "in\n")
	cat.in.Close()
	cat.ends(t).is(t, result{stdout: "in\n0\n0:0\n"})
	r.root = "0, 0:0"

	user := h.run(t, "bob", login, "id -u")
	want := k.user
	if want == "" {
		want = "0"
	}
	user.is(t, result{stdout: want + "\n"})
	r.restricted = strings.TrimSpace(user.stdout)

	s := h.terminal(t, "alice", login)
	s.sees(t, prompt)
	r.terminal = strings.TrimSpace(s.does(t, "tty"))
	if r.terminal != "/dev/pts/0" {
		t.Errorf("tty says %q", r.terminal)
	}
	s.types(t, "exit 5\n")
	if code := s.ends(t).code; code != 5 {
		t.Errorf("the shell ended with %d", code)
	}
	before.Same(t)
	r.left = "nothing"
	return r
}

// documented fails if the page does not have this table; or writes it there.
func documented(t *testing.T, page, table string) {
	t.Helper()
	if t.Failed() {
		return
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), "<!-- the test writes from here -->\n")
	shown, after, found := strings.Cut(rest, "<!-- to here -->\n")
	if !found {
		t.Fatalf("%s has no place for the table", page)
	}
	if shown == table {
		return
	}
	if !*update {
		t.Fatalf("%s does not show what came of it (try: go test ./test/e2e -run TestEveryKind -update):\n%s", page, table)
	}
	if err := os.WriteFile(page, []byte(before+"<!-- the test writes from here -->\n"+table+"<!-- to here -->\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
