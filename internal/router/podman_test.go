package router

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/test/rig"
)

func podmanOf(p *rig.PodmanHost) *Podman {
	if p.User != "" {
		return NewPodman("/nonexistent/sock", "/nonexistent", "/nonexistent", p.Users)
	}
	return NewPodman(p.Socket, p.Root, p.State, p.Users)
}

func TestAPodmanContainerIsFoundByEachOfItsNames(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1", "--label", "team=web", "--label", "cartsshd.rootless=0", "--userns", "host")
	p.Serve(t)
	podman := podmanOf(p)
	for _, login := range []string{"web-1", c.ID, c.ID[:12], c.ID[:4], "podman:web-1"} {
		target := isFound(t, podman, login, c)
		if target.ID != c.ID || target.Image != "localhost/"+rig.Busybox+":latest" || target.Digest != "sha256:"+p.CLI(t, "inspect", "--format", "{{.Image}}", "web-1") {
			t.Errorf("%s: got %+v", login, target)
		}
		if fmt.Sprint(target.Labels) != "map[team:web]" {
			t.Errorf("%s: labels %v", login, target.Labels)
		}
		if want := p.State + "/overlay-containers/" + c.ID + "/userdata/pidfile"; target.Source != want {
			t.Errorf("%s: from %s, want %s", login, target.Source, want)
		}
	}
	isNot(t, podman, c.ID[:3], "no such container")
	isNot(t, podman, "web", "no such container")
	if names := lists(t, podman); names != "web-1" {
		t.Errorf("lists %q", names)
	}
}

func TestPodmansContainersAreFollowed(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1")
	podman := podmanOf(p)
	isFound(t, podman, "web-1", c)
	p.CLI(t, "rename", "web-1", "web-2")
	isNot(t, podman, "web-1", "no such container")
	c.Name = "web-2"
	isFound(t, podman, "web-2", c)
	p.CLI(t, "stop", "web-2")
	isNot(t, podman, "web-2", "container web-2 is not running")
	p.CLI(t, "start", "web-2")
	c.PID = p.PIDOf(t, "web-2")
	isFound(t, podman, c.ID[:8], c)
	p.CLI(t, "create", "--name", "new", rig.Busybox, "sleep", "1")
	isNot(t, podman, "new", "container new is not running")
	if names := lists(t, podman); names != "web-2" {
		t.Errorf("lists %q", names)
	}
	p.CLI(t, "rm", "--force", "--time", "0", "web-2")
	isNot(t, podman, "web-2", "no such container")
}

// podman has no daemon; only labels are its service's to tell.
func TestWithoutPodmansServiceLabelsAreUnknownAndSaySo(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1", "--label", "team=web")
	if target := isFound(t, podmanOf(p), "web-1", c); fmt.Sprint(target.Labels) != "map[cartsshd.labels:unknown]" {
		t.Errorf("not on: labels %v", target.Labels)
	}
	service := p.Serve(t)
	known := podmanOf(p)
	isFound(t, known, "web-1", c)
	if err := syscall.Kill(service, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(service, syscall.SIGCONT)
	if target := isFound(t, podmanOf(p), "web-1", c); fmt.Sprint(target.Labels) != "map[cartsshd.labels:unknown]" {
		t.Errorf("hangs: labels %v", target.Labels)
	}
	if target := isFound(t, known, "web-1", c); fmt.Sprint(target.Labels) != "map[team:web]" {
		t.Errorf("hangs, and was asked before: labels %v", target.Labels)
	}
}

// As a systemd service that Quadlet writes has it.
func TestAPodmanContainerInAnothersCgroupIsItsConmonsChild(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1")
	trees, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, procs := range append(trees, "/sys/fs/cgroup/cgroup.procs") {
		os.WriteFile(procs, []byte(strconv.Itoa(c.PID)), 0) // where there is such a hierarchy
	}
	if err := inCgroupOf(c.PID, c.ID); err == nil {
		t.Fatal("it has a cgroup of its own")
	}
	podman := podmanOf(p)
	isFound(t, podman, "web-1", c)
	if err := podman.Verify(Found{ID: fullID("aaaa"), Name: "web-1", PID: c.PID}); err == nil {
		t.Error("it is another, too")
	}
}

func TestAStalePidfileLetsNobodyIntoAnotherProcess(t *testing.T) {
	p := rig.Podman(t)
	c, other, bare := p.Run(t, "web-1"), p.Run(t, "other"), rig.Bare(t)
	podman := podmanOf(p)
	path := p.State + "/overlay-containers/" + c.ID + "/userdata/pidfile"
	for _, text := range []string{strconv.Itoa(other.PID), strconv.Itoa(bare.PID), strconv.Itoa(os.Getpid()), "1", strconv.Itoa(maxPID), "", "-1", "x"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		isNot(t, podman, "web-1", "container web-1 is not running")
	}
	replace(t, path, strconv.Itoa(c.PID))
	isFound(t, podman, "web-1", c)
	os.Remove(path)
	os.Symlink("/proc/self/stat", path)
	isNot(t, podman, "web-1", "container web-1 is not running")
}

func TestWhatPodmanHasOnDiskIsCheckedBeforeItIsBelieved(t *testing.T) {
	p := rig.Podman(t)
	p.Run(t, "web-1")
	list := p.Root + "/overlay-containers/containers.json"
	for text, want := range map[string]string{
		"{":                                 "unexpected end of JSON input",
		`[{"id":"aaaa","names":["web-1"]}]`: `makes no sense: container "aaaa"`,
		`[{"id":"` + fullID("aaaa") + `","names":["\u001b[2J"]}]`: `makes no sense`,
		`[{"id":"` + fullID("aaaa") + `","names":[]}]`:            `makes no sense`,
		`[` + strings.Repeat(" ", maxStateFile) + `]`:             "is larger than",
	} {
		replace(t, list, text)
		isNot(t, podmanOf(p), "web-1", want)
	}
	replace(t, list, "[]")
	os.Chmod(p.Root, 0o777)
	isNot(t, podmanOf(p), "web-1", "others may write to it")
}

func TestWhatTheDiskDoesNotTellPodmansServiceDoes(t *testing.T) {
	p := rig.Podman(t)
	c := p.Run(t, "web-1", "--label", "team=web")
	p.Serve(t)
	unreadable := p.Root
	podman := NewPodman(p.Socket, unreadable, p.State+"/../tmp", p.Users)
	os.Chmod(p.Root, 0o770)
	defer os.Chmod(p.Root, 0o700)
	if target := isFound(t, podman, "web-1", c); target.Source != p.Socket || target.Labels["team"] != "web" {
		t.Errorf("got %+v", target)
	}
}

func TestAUsersContainerIsFoundAsTheUsersOnly(t *testing.T) {
	p := rig.RootlessPodman(t)
	c := p.Run(t, "web-1", "--label", "env=prod")
	podman := podmanOf(p)
	found, err := podman.Find(t.Context(), p.User+"/web-1")
	if err != nil || len(found) != 1 {
		t.Fatalf("got %+v, %v", found, err)
	}
	f := found[0]
	if f.Name != p.User+"/web-1" || f.PID != c.PID || f.Image != "" || f.Digest != "" || f.ID != fmt.Sprintf("/rootless/%d/%s", p.UID, c.ID) {
		t.Errorf("got %+v", f)
	}
	if want := fmt.Sprintf("map[cartsshd.labels:unknown cartsshd.rootless:%d]", p.UID); fmt.Sprint(f.Labels) != want {
		t.Errorf("labels %v", f.Labels)
	}
	if err := podman.Verify(f); err != nil {
		t.Error(err)
	}
	if names := lists(t, podman); names != p.User+"/web-1" {
		t.Errorf("lists %q", names)
	}
	for _, id := range []string{"web-1", c.ID, c.ID[:12], "root/web-1", p.User + "/" + c.ID, p.User + "/web", p.User + "/web-1/x", "/web-1", p.User + "/"} {
		if found, err := podman.Find(t.Context(), id); len(found) != 0 || err != nil {
			t.Errorf("%s: got %+v, %v", id, found, err)
		}
	}
	p.CLI(t, "stop", "web-1")
	if found, err := podman.Find(t.Context(), p.User+"/web-1"); err != nil || len(found) != 1 || found[0].Closed != "is not running" {
		t.Errorf("stopped: got %+v, %v", found, err)
	}
}

// A user may write what they like into the files that are read.
func TestAUserClaimsNobodyElsesProcess(t *testing.T) {
	d := rig.Docker(t)
	p := rig.RootlessPodman(t)
	c := p.Run(t, "web-1")
	podman := podmanOf(p)
	pidfile := p.State + "/overlay-containers/" + c.ID + "/userdata/pidfile"
	// A process in a user namespace which that uid has made, but in a
	// container of root's.
	d.Run(t, "theirs", "--user", strconv.Itoa(p.UID), "--security-opt", "seccomp=unconfined", "--", "unshare", "-U", "sleep", "54329")
	for name, pid := range map[string]int{
		"of docker":       d.Run(t, "web-1").PID,
		"in docker":       processNamed(t, "sleep\x0054329"),
		"bare":            rig.Bare(t).PID,
		"of another user": userNamespaceOf(t, 12345),
		"user namespace":  rig.Userns(t).PID,
		"the host's":      1,
		"ours":            os.Getpid(),
	} {
		if err := os.WriteFile(pidfile, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		found, err := podman.Find(t.Context(), p.User+"/web-1")
		if err != nil || len(found) != 1 || found[0].PID != 0 || found[0].Closed == "" {
			t.Errorf("%s: got %+v, %v", name, found, err)
		}
		if err := podman.Verify(Found{PID: pid, Labels: map[string]string{Rootless: strconv.Itoa(p.UID)}}); err == nil {
			t.Errorf("%s: is taken for the user's", name)
		}
	}
}

func TestAUsersFilesAreReadBySymbolicLinksOfNobody(t *testing.T) {
	p := rig.RootlessPodman(t)
	p.Run(t, "web-1")
	storage := p.Root + "/overlay-containers"
	if err := os.Rename(storage+"/containers.json", storage+"/real.json"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(storage+"/real.json", storage+"/containers.json") // or podman waits at the FIFO
	os.Symlink(storage+"/real.json", storage+"/containers.json")
	if found, err := podmanOf(p).Find(t.Context(), p.User+"/web-1"); len(found) != 0 || err == nil {
		t.Errorf("got %+v, %v", found, err)
	}
	os.Remove(storage + "/containers.json")
	if err := syscall.Mkfifo(storage+"/containers.json", 0o666); err != nil {
		t.Fatal(err)
	}
	if found, err := podmanOf(p).Find(t.Context(), p.User+"/web-1"); len(found) != 0 || err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("got %+v, %v", found, err)
	}
	foreign := filepath.Join(p.Users, "1")
	os.Mkdir(foreign, 0o755) // root's, not that user's
	if found, err := podmanOf(p).List(t.Context()); len(found) != 0 || err == nil || !strings.Contains(err.Error(), "is not of uid 1") {
		t.Errorf("got %+v, %v", found, err)
	}
}

// userNamespaceOf starts a process, PID 1 of its own, in a user namespace that
// is made by that uid. Its parent is root's.
func userNamespaceOf(t *testing.T, uid int) int {
	t.Helper()
	unshare := need.Tool(t, "unshare", "util-linux")
	cmd := exec.Command(unshare, "--user", "--map-root-user", "--pid", "--fork", "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	io.WriteString(stdin, "x")
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return onlyChild(t, cmd.Process.Pid)
}
