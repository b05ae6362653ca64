package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

// asker asks by a configuration that knows these runtimes and no others.
type asker struct{ config string }

func asking(t testing.TB, runtimes string) asker {
	t.Helper()
	h := &host{dir: t.TempDir()}
	h.write(t, "config.yaml", "people: {}\nrules: []\nruntimes: {"+runtimes+"}\n")
	return asker{h.path("config.yaml")}
}

func (a asker) run(t testing.TB, verb string, args ...string) result {
	t.Helper()
	return finish(t, command(program(t), append([]string{verb, "--config", a.config}, args...)...))
}

// seen is what a container is shown as, in JSON.
type seen struct {
	Runtime, ID, Name, State, Source string
	PID                              int
	Labels                           map[string]string
	Namespaces                       map[string]uint64
	Facts                            map[string]bool
	Logins                           []string
}

func decode[T any](t testing.TB, r result) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &value); err != nil || r.code != 0 {
		t.Fatalf("%v: %+v", err, r)
	}
	return value
}

func TestTargetsAreListedWithLoginsThatLeadToThem(t *testing.T) {
	c := rig.NewContainerd(t)
	d := rig.Docker(t)
	web := d.Run(t, "web-1", "--label", "team=web")
	box := c.Run(t, "default", "box_1", "--label", "note=\x1b[2Jred\u202e")
	same := c.Run(t, "default", "web-1")
	pod := c.Pod(t, "shop", "web-0", "nginx", "logs")
	c.CLI(t, "default", "tasks", "pause", "box_1")
	ask := asking(t, fmt.Sprintf("docker: {socket: %q, root: %q}, cri: {containerd: %q}, containerd: {root: %[3]q}, runc: {roots: [%q]}, pid: {}", d.Socket, d.Root, c.State, c.Runc+"/*"))

	want := map[int][]string{
		web.PID:    {"docker:web-1", web.ID[:12], "docker:" + web.ID[:12]},
		box.PID:    {"box_1", "default/box_1", "containerd:box_1"},
		same.PID:   {"default/web-1", "containerd:web-1"},
		pod[0].PID: {pod[0].ID[:12], "cri:" + pod[0].ID[:12]},
		pod[1].PID: {"shop/web-0/nginx", "cri:shop/web-0/nginx", pod[1].ID[:12], "cri:" + pod[1].ID[:12]},
		pod[2].PID: {"shop/web-0/logs", "cri:shop/web-0/logs", pod[2].ID[:12], "cri:" + pod[2].ID[:12]},
	}
	list := decode[[]seen](t, ask.run(t, "targets", "-o", "json"))
	if len(list) != len(want) {
		t.Errorf("%d are listed: %+v", len(list), list)
	}
	for _, s := range list {
		if !slices.Equal(s.Logins, want[s.PID]) {
			t.Errorf("%s %s: logins %q, want %q", s.Runtime, s.Name, s.Logins, want[s.PID])
		}
		if paused := s.PID == box.PID; (s.State == "paused") != paused {
			t.Errorf("%s: is %s", s.Name, s.State)
		}
		for _, login := range s.Logins {
			got := ask.run(t, "resolve", "-o", "json", login)
			if s.State == "paused" {
				if r := decode[seen](t, result{stdout: got.stdout}); r.State != "paused" || r.PID != s.PID || got.code != 1 || got.stderr != "cartsshd: router: container box_1 is paused\n" {
					t.Errorf("%s: %+v", login, got)
				}
				continue
			}
			if r := decode[seen](t, got); r.ID != s.ID || r.Runtime != s.Runtime || r.PID != s.PID || r.Source != s.Source {
				t.Errorf("%s: got %+v, want %+v", login, r, s)
			}
		}
	}
	for _, output := range []string{"json", "table"} {
		if r := ask.run(t, "targets", "-o", output); r.code != 0 || strings.ContainsAny(r.stdout, "\x1b\u202e") || !strings.Contains(r.stdout, "shop/web-0/nginx") {
			t.Errorf("%s: %+v", output, r)
		}
	}
}

func TestResolveShowsOneContainerAndWhereItIsFrom(t *testing.T) {
	c := rig.NewContainerd(t)
	web := c.Run(t, "default", "web-1", "--label", "note=\x1b[2Jred")
	ask := asking(t, fmt.Sprintf("docker: {socket: /nonexistent/docker.sock, root: /nonexistent}, containerd: {root: %q}, pid: {}", c.State))
	syscall.Kill(c.PID(), syscall.SIGKILL)

	got := ask.run(t, "resolve", "web-1")
	for _, line := range []string{
		"runtime     containerd", "name        web-1", fmt.Sprint("pid         ", web.PID), "state       running",
		"source      " + c.State + "/io.containerd.runtime.v2.task/default/web-1/config.json",
		fmt.Sprint("namespaces  mnt ", namespaceOf(t, web.PID, "mnt"), ", "), `label       note=\x1b[2Jred`,
	} {
		if !strings.Contains(got.stdout, line) {
			t.Errorf("no %q in\n%s", line, got.stdout)
		}
	}
	if got.code != 0 || !strings.HasPrefix(got.stderr, "cartsshd: warning: docker: ") || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("got %d, %q", got.code, got.stderr)
	}
	r := decode[seen](t, ask.run(t, "resolve", "-o", "json", fmt.Sprint("pid:", web.PID)))
	if r.ID != "web-1" || r.Labels["note"] != "\x1b[2Jred" || r.Namespaces["mnt"] != namespaceOf(t, web.PID, "mnt") {
		t.Errorf("got %+v", r)
	}
}

func TestAHostWithoutRuntimesHasNoTargets(t *testing.T) {
	ask := asking(t, "cri: {containerd: /nonexistent, crio: /nonexistent}, containerd: {root: /nonexistent}, crun: {roots: [/nonexistent]}, runc: {roots: [/nonexistent, /nonexistent/*]}, pid: {}")
	ask.run(t, "targets", "-o", "json").is(t, result{stdout: "[]\n"})
	ask.run(t, "targets").is(t, result{stdout: "RUNTIME  NAME  ID  IMAGE  PID  STATE  FACTS  LOGINS\n"})
	for name, want := range map[string]string{
		"web-1":           "router: web-1: no such container",
		"shop/web-0":      "router: shop/web-0: no such container",
		"":                `router: "": not the name of a container`,
		"../..":           `router: "../..": not the name of a container`,
		"a//b":            `router: "a//b": not the name of a container`,
		"%n":              `router: "%n": not the name of a container`,
		"web-1\n\x1b[2J":  `router: "web-1\n\x1b[2J": not the name of a container`,
		"web-\xff":        `router: "web-\ufffd": not the name of a container`,
		"pid:0":           `router: "pid:0": not the number of a process`,
		"pid:4294967297":  `router: "pid:4294967297": not the number of a process`,
		"pid:-1":          `router: "pid:-1": not the name of a container`,
		"pid:2":           "router: process 2 is the kernel's",
		"nothing:web-1":   "router: nothing:web-1: no such container: no runtime is called so",
		"docker:web-1":    "router: docker:web-1: no such container: no runtime is called so",
		"0":               "router: 0: no such container",
		"4294967297":      "router: 4294967297: no such container",
		"containerd:a/bc": "router: containerd:a/bc: no such container",
	} {
		ask.run(t, "resolve", "--", name).is(t, result{code: 1, stderr: "cartsshd: " + want + "\n"})
	}
	own := fmt.Sprint("pid:", os.Getpid())
	if got := ask.run(t, "resolve", own); got.code != 0 || !strings.Contains(got.stdout, "host        sees the host's own files") {
		t.Errorf("a process of the host's: %+v", got)
	}
	if got := ask.run(t, "resolve"); got.code != 2 {
		t.Errorf("no name: %+v", got)
	}
}

func TestTargetsAndResolveShowWhatTheKernelSaysOfAContainer(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1", "--privileged", "--network", "host")
	d.Run(t, "web-2")
	ask := asking(t, fmt.Sprintf("docker: {socket: %q, root: %q}, pid: {}", d.Socket, d.Root))
	listed := ask.run(t, "targets")
	for _, line := range []string{"running  privileged host_net  web-1 ", "running  -                    web-2 "} {
		if !strings.Contains(listed.stdout, line) {
			t.Errorf("no %q in\n%s", line, listed.stdout)
		}
	}
	if got := ask.run(t, "resolve", "web-1"); !strings.Contains(got.stdout, "facts       privileged host_net\n") {
		t.Errorf("got %+v", got)
	}
	for _, verb := range [][]string{{"resolve", "-o", "json", "web-2"}, {"resolve", "-o", "json", "web-1"}} {
		facts := decode[seen](t, ask.run(t, verb[0], verb[1:]...)).Facts
		if web1 := verb[3] == "web-1"; facts["privileged"] != web1 || facts["host_net"] != web1 || facts["host_pid"] || len(facts) != 3 {
			t.Errorf("%v: %v", verb, facts)
		}
	}
}
