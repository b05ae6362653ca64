package router

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/test/rig"
)

// all are the runtimes of a host that has these, in their order.
func all(d *rig.Dockerd, c *rig.Containerd) []Runtime {
	return []Runtime{
		NewDocker(d.Socket, d.Root), NewCRI(c.State, "/nonexistent"), NewContainerd(c.State), NewCrun("/nonexistent"),
		NewRunc(c.Runc + "/*"), PID{},
	}
}

// leads fails unless each of the logins leads to that container.
func leads(t *testing.T, runtimes []Runtime, runtime string, c rig.Container, logins ...string) {
	t.Helper()
	for _, login := range logins {
		target, err := resolveBy(t, &Table{Runtimes: runtimes}, login)
		if err != nil {
			t.Errorf("%s: %v", login, err)
			continue
		}
		if target.Runtime != runtime || target.ID != c.ID || target.Name != c.Name || target.PID != c.PID {
			t.Errorf("%s: got %s:%s, %q, process %d; want %s:%+v", login, target.Runtime, target.ID, target.Name, target.PID, runtime, c)
		}
	}
}

func pidOf(c rig.Container) string { return "pid:" + strconv.Itoa(c.PID) }

func TestEverySpellingOfAContainerOfContainerdsIsOne(t *testing.T) {
	d, c := rig.Docker(t), rig.NewContainerd(t)
	runtimes := all(d, c)
	plain := c.Run(t, "default", "web_1", "--label", "team=web")
	named := c.Run(t, "k8s.io", "web.2", "--label", "nerdctl/name=shop-1")
	named.Name = "shop-1"

	leads(t, runtimes, "containerd", plain, "web_1", "containerd:web_1", "runc:web_1", "web_", "default/web_1", "containerd:default/web_1", pidOf(plain))
	leads(t, runtimes, "containerd", named, "shop-1", "web.2", "runc:web.2", "k8s.io/web.2", pidOf(named))

	target, err := resolveBy(t, &Table{Runtimes: runtimes}, "runc:web_1")
	if err != nil || target.Labels["team"] != "web" || target.Namespaces.Mnt == 0 || target.Started == 0 {
		t.Errorf("got %+v, %v", target, err)
	}
	if want := c.State + "/io.containerd.runtime.v2.task/default/web_1/config.json"; target.Source != want {
		t.Errorf("from %s, want %s", target.Source, want)
	}
}

func TestOneIDInTwoNamespacesIsTwoContainers(t *testing.T) {
	c := rig.NewContainerd(t)
	runtimes := []Runtime{NewContainerd(c.State), NewRunc(c.Runc + "/*"), PID{}}
	a, b := c.Run(t, "default", "same"), c.Run(t, "k8s.io", "same")
	_, err := resolveBy(t, &Table{Runtimes: runtimes}, "same")
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) {
		t.Fatalf("got %v", err)
	}
	if got := slices.Sorted(slices.Values(ambiguous.Spellings())); !slices.Equal(got, []string{"containerd:default/same", "containerd:k8s.io/same"}) {
		t.Errorf("spelled %s", got)
	}
	leads(t, runtimes, "containerd", a, "containerd:default/same", pidOf(a))
	leads(t, runtimes, "containerd", b, "k8s.io/same", pidOf(b))
}

func TestEverySpellingOfAPodsContainerIsOne(t *testing.T) {
	d, c := rig.Docker(t), rig.NewContainerd(t)
	runtimes := all(d, c)
	one := c.Pod(t, "shop", "web-0", "nginx")
	two := c.Pod(t, "shop", "db-0", "postgres", "backup")

	nginx := one[1]
	leads(t, runtimes, "cri", nginx, "shop/web-0", "shop/web-0/nginx", "cri:shop/web-0", "cri:shop/web-0/nginx",
		nginx.ID, nginx.ID[:8], "cri:"+nginx.ID, "containerd:"+nginx.ID, "containerd:k8s.io/"+nginx.ID, "runc:"+nginx.ID, "runc:"+nginx.ID[:12], pidOf(nginx))
	leads(t, runtimes, "cri", one[0], one[0].ID, "runc:"+one[0].ID, pidOf(one[0]))
	leads(t, runtimes, "cri", two[2], "shop/db-0/backup", pidOf(two[2]))

	_, err := resolveBy(t, &Table{Runtimes: runtimes}, "shop/db-0")
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) || !slices.Equal(slices.Sorted(slices.Values(ambiguous.Spellings())), []string{"cri:shop/db-0/backup", "cri:shop/db-0/postgres"}) {
		t.Errorf("a pod of two: got %v", err)
	}
	target, err := resolveBy(t, &Table{Runtimes: runtimes}, pidOf(nginx))
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{"io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": "web-0", "io.kubernetes.container.name": "nginx"} {
		if target.Labels[label] != want {
			t.Errorf("%s is %q", label, target.Labels[label])
		}
	}
	if target.Namespace != "shop" || target.Pod != "web-0" {
		t.Errorf("of pod %q in %q", target.Pod, target.Namespace)
	}
	if !strings.Contains(target.Image, rig.Busybox) {
		t.Errorf("image %q", target.Image)
	}
}

// A policy judges by docker's names and labels: nobody gets in as runc's.
func TestDockersContainersAreDockersByAnyRuntime(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1", "--label", "team=web")
	exec := strings.TrimSuffix(d.Root, "/data") + "/exec"
	below := []Runtime{NewContainerd(exec + "/containerd/daemon"), NewContainerd("/run/containerd"), NewRunc(exec+"/runtime-runc/*", "/run/docker/runtime-runc/*"), PID{}}
	leads(t, append([]Runtime{NewDocker(d.Socket, d.Root)}, below...), "docker", c, "web-1", "containerd:"+c.ID, "runc:"+c.ID, "runc:"+c.ID[:12], pidOf(c))

	down := append([]Runtime{book{name: "docker", err: errors.New("out of order")}}, below...)
	for _, login := range []string{"containerd:" + c.ID, "runc:" + c.ID, c.ID[:12], pidOf(c)} {
		target, err := resolveBy(t, &Table{Runtimes: down}, login)
		if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "docker") {
			t.Errorf("%s, while docker does not tell: got %+v, %v", login, target, err)
		}
	}
}

func TestRuncsAndCrunsOwnContainers(t *testing.T) {
	for name, rt := range map[string]*rig.OCI{"runc": rig.Runc(t), "crun": rig.Crun(t)} {
		t.Run(name, func(t *testing.T) {
			c := rt.Run(t, "box_1.a+b", map[string]string{"team": "web"})
			runtimes := []Runtime{NewCrun(rt.Root), NewRunc(rt.Root), PID{}}
			leads(t, runtimes, name, c, "box_1.a+b", name+":box_1.a+b", "box_", pidOf(c))
			target, err := resolveBy(t, &Table{Runtimes: runtimes}, pidOf(c))
			if err != nil || target.Labels["team"] != "web" || !strings.HasPrefix(target.Source, rt.Root+"/box_1.a+b/") {
				t.Errorf("got %+v, %v", target, err)
			}
			inner := inside(t, c.PID, "--mount", "--pid", "/bin/busybox", "unshare", "-f", "/bin/busybox", "unshare", "-p", "-f", "/bin/busybox", "cat")
			leads(t, runtimes, name, c, fmt.Sprint("pid:", onlyChild(t, inner)), fmt.Sprint("pid:", onlyChild(t, onlyChild(t, inner))))
		})
	}
}

func TestPausedContainersSayThatTheyAre(t *testing.T) {
	c := rig.NewContainerd(t)
	web := c.Run(t, "default", "web-1")
	runtimes := []Runtime{NewContainerd(c.State), NewRunc(c.Runc + "/*"), PID{}}
	c.CLI(t, "default", "tasks", "pause", "web-1")
	for _, login := range []string{"web-1", "runc:web-1", pidOf(web)} {
		if _, err := resolveBy(t, &Table{Runtimes: runtimes}, login); err == nil || err.Error() != "router: container web-1 is paused" {
			t.Errorf("%s: got %v", login, err)
		}
	}
	c.CLI(t, "default", "tasks", "resume", "web-1")
	leads(t, runtimes, "containerd", web, "web-1")
}

func TestContainersAreFoundWhileContainerdAndDockerHangOrAreDead(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"hang": syscall.SIGSTOP, "are dead": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			d, c := rig.NewDocker(t), rig.NewContainerd(t)
			web := c.Run(t, "default", "web-1")
			pod := c.Pod(t, "shop", "web-0", "nginx")
			own := d.Run(t, "docker-1")
			syscall.Kill(d.PID(), sig)
			syscall.Kill(c.PID(), sig)
			t.Cleanup(func() { syscall.Kill(d.PID(), syscall.SIGCONT); syscall.Kill(c.PID(), syscall.SIGCONT) })
			for runtime, of := range map[string][]any{
				"containerd": {web, "web-1", "containerd:web-1", "runc:web-1", "default/web-1", pidOf(web)},
				"cri":        {pod[1], "shop/web-0", "shop/web-0/nginx", pod[1].ID[:12], "runc:" + pod[1].ID, pidOf(pod[1])},
				"docker":     {own, "docker-1", own.ID[:12], pidOf(own)},
			} {
				for _, login := range of[1:] {
					began := time.Now()
					leads(t, all(d, c), runtime, of[0].(rig.Container), login.(string))
					if took := time.Since(began); took > time.Second {
						t.Errorf("%s took %v", login, took)
					}
				}
			}
		})
	}
}

// After a restart of the host the files of before may still be there.
func TestAStaleFileOfRuncsLetsNobodyIn(t *testing.T) {
	rt := rig.Runc(t)
	c := rt.Run(t, "web-1", nil)
	other := rt.Run(t, "other", nil)
	state := read(t, rt.Root+"/web-1/state.json")
	started := stateOfPID(t, c.PID)
	for what, lie := range map[string]string{
		"another's process":      swap(state, `"init_process_pid":`+strconv.Itoa(c.PID), `"init_process_pid":`+strconv.Itoa(other.PID)),
		"another start":          swap(state, `"init_process_start":`+started, `"init_process_start":1`),
		"both of another":        swap(swap(state, `"init_process_pid":`+strconv.Itoa(c.PID), `"init_process_pid":`+strconv.Itoa(other.PID)), started, stateOfPID(t, other.PID)),
		"the host's own process": swap(state, `"init_process_pid":`+strconv.Itoa(c.PID), `"init_process_pid":`+strconv.Itoa(syscall.Getppid())),
	} {
		if lie == state {
			t.Fatalf("%s: nothing was changed", what)
		}
		replace(t, rt.Root+"/web-1/state.json", lie)
		if target, err := resolve(t, "runc:web-1", NewRunc(rt.Root), PID{}); err == nil {
			t.Errorf("%s: got %+v", what, target)
		}
		if target, err := resolve(t, pidOf(other), NewRunc(rt.Root), PID{}); err != nil || target.Name != "other" {
			t.Errorf("%s, and the other's process: got %+v, %v", what, target, err)
		}
	}
	replace(t, rt.Root+"/web-1/state.json", state)
	leads(t, []Runtime{NewRunc(rt.Root), PID{}}, "runc", c, "web-1", pidOf(c))
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func swap(text, old, new string) string { return strings.Replace(text, old, new, 1) }

func stateOfPID(t *testing.T, pid int) string {
	t.Helper()
	stat, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.FormatUint(stat.started, 10)
}
