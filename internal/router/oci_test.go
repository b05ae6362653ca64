package router

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cartsshd/cartsshd/internal/need"
)

// write puts a file where there may be no directory yet.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		t.Fatal(err)
	}
	replace(t, path, text)
}

// task lays out a container as containerd does.
func task(t testing.TB, state, namespace, id, annotations, pid string) string {
	t.Helper()
	dir := state + "/io.containerd.runtime.v2.task/" + namespace + "/" + id
	write(t, dir+"/config.json", fmt.Sprintf(`{"ociVersion":"1.0.2","annotations":%s,"linux":{"cgroupsPath":"/%s/%s"}}`, annotations, namespace, id))
	write(t, dir+"/init.pid", pid)
	return dir
}

// names finds, and returns what it has found by runtime ID.
func names(t testing.TB, r Runtime, id string) (ids []string, err error) {
	t.Helper()
	found, err := r.Find(t.Context(), id)
	for _, f := range found {
		ids = append(ids, f.ID)
	}
	slices.Sort(ids)
	return ids, err
}

func TestContainerdsFilesAreUnderstood(t *testing.T) {
	state := t.TempDir()
	r := NewContainerd(state)
	hex := fullID("abcd")
	task(t, state, "default", "web_1", `{"team":"web"}`, "4711\n")
	task(t, state, "default", hex, `{"nerdctl/name":"shop"}`, "4712")
	task(t, state, "default", "odd", `{"nerdctl/name":"../x"}`, "4713")
	task(t, state, "other", "web_1", `null`, "4714")
	made := task(t, state, "default", "made", `{}`, "")
	os.Remove(made + "/init.pid")
	for range 2 {
		for id, want := range map[string][]string{
			"web_1": {"web_1", "web_1"}, "default/web_1": {"web_1"}, "other/web_1": {"web_1"}, "web_": {"web_1", "web_1"}, "web": nil,
			"shop": {hex}, "abcd": {hex}, hex: {hex}, "odd": {"odd"}, "made": {"made"}, "none": nil, "default/none": nil, "default": nil,
		} {
			if got, err := names(t, r, id); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: got %v, %v; want %v", id, got, err, want)
			}
		}
	}
	if found, _ := r.Find(t.Context(), "made"); found[0].PID != 0 || found[0].Closed != "is not running" {
		t.Errorf("one that was never started: got %+v", found)
	}
	write(t, made+"/init.pid", "4715")
	if found, _ := r.Find(t.Context(), "made"); found[0].PID != 4715 || found[0].Closed != "" {
		t.Errorf("when it is: got %+v", found)
	}
	os.RemoveAll(state + "/io.containerd.runtime.v2.task/other")
	if got, err := names(t, r, "web_1"); err != nil || len(got) != 1 {
		t.Errorf("without its namespace: got %v, %v", got, err)
	}
	if list, err := r.List(t.Context()); err != nil || len(list) != 4 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

func TestCRIOsFilesAreUnderstood(t *testing.T) {
	storage := t.TempDir()
	r := NewCRI("/nonexistent", storage)
	put := func(prefix, annotations string) {
		dir := storage + "/overlay-containers/" + fullID(prefix) + "/userdata"
		write(t, dir+"/config.json", `{"annotations":`+annotations+`,"linux":{"cgroupsPath":"kubepods.slice:crio:`+fullID(prefix)+`"}}`)
		write(t, dir+"/pidfile", "4711")
	}
	pod := `"io.kubernetes.pod.name":"web-0","io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"12-34"`
	put("aaaa", `{"io.kubernetes.cri-o.ContainerType":"container",`+pod+`,"io.kubernetes.container.name":"nginx",`+
		`"io.kubernetes.cri-o.ImageName":"docker.io/nginx:1","io.kubernetes.cri-o.Labels":"{\"app\":\"web\"}"}`)
	put("bbbb", `{"io.kubernetes.cri-o.ContainerType":"sandbox",`+pod+`,"io.kubernetes.container.name":"POD"}`)
	put("cccc", `{"io.container.manager":"libpod"}`) // podman's, which is in the same place
	for id, want := range map[string][]string{
		"shop/web-0": {fullID("aaaa")}, "shop/web-0/nginx": {fullID("aaaa")}, "shop/web-0/POD": nil,
		fullID("bbbb"): {fullID("bbbb")}, "bbbb": {fullID("bbbb")}, fullID("cccc"): nil, "cccc": nil,
	} {
		if got, err := names(t, r, id); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", id, got, err, want)
		}
	}
	found, _ := r.Find(t.Context(), "shop/web-0")
	f := found[0]
	if f.Image != "docker.io/nginx:1" || f.Labels["app"] != "web" || f.Labels["io.kubernetes.pod.uid"] != "12-34" || f.PID != 4711 || f.cgroups[0] != "crio-"+fullID("aaaa")+".scope" || f.Namespace != "shop" || f.Pod != "web-0" {
		t.Errorf("got %+v", f)
	}
	if list, err := r.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

func TestWhatIsNotThereHoldsNoContainers(t *testing.T) {
	empty := t.TempDir()
	for _, dir := range []string{"/nonexistent", empty} {
		for _, r := range []Runtime{NewContainerd(dir), NewCRI(dir, dir), NewRunc(dir, dir+"/*"), NewCrun(dir)} {
			if found, err := r.Find(t.Context(), "web-1"); found != nil || err != nil {
				t.Errorf("%s of %s: got %+v, %v", r.Name(), dir, found, err)
			}
			if found, err := r.List(t.Context()); found != nil || err != nil {
				t.Errorf("%s of %s lists %+v, %v", r.Name(), dir, found, err)
			}
		}
	}
}

// Nothing of it stops the good one beside it from being found.
func TestHostileStateIsAFailureAndHidesNothing(t *testing.T) {
	need.Root(t)
	good := `{"annotations":{},"linux":{}}`
	for name, harm := range map[string]func(dir string){
		"garbage":              func(dir string) { replace(t, dir+"/config.json", "\x00\x1b[2J\xff") },
		"a bomb":               func(dir string) { replace(t, dir+"/config.json", strings.Repeat(`{"annotations":`, 100_000)) },
		"too large":            func(dir string) { replace(t, dir+"/config.json", strings.Repeat(" ", maxStateFile)+good) },
		"a PID of letters":     func(dir string) { replace(t, dir+"/init.pid", "\x1b[2J") },
		"a huge PID":           func(dir string) { replace(t, dir+"/init.pid", "4294967297") },
		"a negative PID":       func(dir string) { replace(t, dir+"/init.pid", "-1") },
		"an endless PID":       func(dir string) { replace(t, dir+"/init.pid", strings.Repeat("1", maxStateFile+1)) },
		"a FIFO":               func(dir string) { os.Remove(dir + "/init.pid"); syscall.Mkfifo(dir+"/init.pid", 0o600) },
		"a link":               func(dir string) { os.Rename(dir+"/config.json", dir+"/x"); os.Symlink("x", dir+"/config.json") },
		"a device":             func(dir string) { os.Remove(dir + "/config.json"); os.Symlink("/dev/zero", dir+"/config.json") },
		"a file of somebody's": func(dir string) { os.Chown(dir+"/config.json", 1000, 0) },
		"a file for everybody": func(dir string) { os.Chmod(dir+"/config.json", 0o666) },
		"a directory that is":  func(dir string) { os.Chmod(dir, 0o777) },
		"somebody's directory": func(dir string) { os.Chown(dir, 1000, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			task(t, state, "default", "good", `{}`, "4711")
			harm(task(t, state, "default", "evil", `{"nerdctl/name":"web-1"}`, "4712"))
			r := NewContainerd(state)
			for range 2 {
				if got, err := names(t, r, "good"); err != nil || len(got) != 1 {
					t.Errorf("good: got %v, %v", got, err)
				}
				for _, id := range []string{"evil", "web-1"} {
					got, err := names(t, r, id)
					if got != nil || err == nil {
						t.Fatalf("%s: got %v, %v", id, got, err)
					}
					if text := err.Error(); strings.ContainsAny(text, "\x00\x1b\n") || !utf8.ValidString(text) || len(text) > 1000 {
						t.Errorf("not fit for a log: %q", text)
					}
				}
				if list, err := r.List(t.Context()); len(list) != 1 || err == nil {
					t.Errorf("listed: %+v, %v", list, err)
				}
			}
		})
	}
}

func TestADirectoryThatOthersMayWriteToIsNotRead(t *testing.T) {
	need.Root(t)
	const tasks = "/io.containerd.runtime.v2.task"
	for name, harm := range map[string]func(state string){
		"of all":         func(state string) { os.Chmod(state+tasks, 0o777) },
		"of a namespace": func(state string) { os.Chmod(state+tasks+"/default", 0o773) },
		"a user's":       func(state string) { os.Chown(state+tasks+"/default", 1000, 0) },
		"a namespace that links": func(state string) {
			os.Rename(state+tasks+"/default", state+"/x")
			os.Symlink("../x", state+tasks+"/default")
		},
	} {
		state := t.TempDir()
		task(t, state, "default", "web-1", `{}`, "4711")
		harm(state)
		if got, _ := names(t, NewContainerd(state), "web-1"); got != nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestADiskOfAnyRuntimeThatHangsIsAFailureInTime(t *testing.T) {
	state := t.TempDir()
	task(t, state, "default", "web-1", `{}`, "4711")
	r := NewContainerd(state).(*onDisk)
	hangs := make(chan struct{})
	began := time.Now()
	found, err := r.each(t.Context(), func(*stateDir) ([]Found, error) { <-hangs; return nil, nil })
	if took := time.Since(began); found != nil || err == nil || !strings.Contains(err.Error(), "the disk does not answer") || took > 2*statePatience {
		t.Errorf("got %+v, %v after %v", found, err, took)
	}
	if got, err := names(t, r, "web-1"); err != nil || len(got) != 1 {
		t.Errorf("meanwhile, for another: got %v, %v", got, err)
	}
	close(hangs)
}

func TestPIDsOfFilesAreAnswerableToTheKernel(t *testing.T) {
	need.Root(t)
	own := os.Getpid()
	for name, f := range map[string]Found{
		"nothing to tell by": {ID: "x", PID: own},
		"another cgroup":     {ID: "x", PID: own, cgroups: []string{"/default/x"}},
		"the root":           {ID: "x", PID: own, cgroups: []string{"/"}},
		"no cgroup":          {ID: "x", PID: own, cgroups: []string{""}},
	} {
		if err := NewRunc("/nonexistent").Verify(f); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

// Whatever its runtime takes it for.
func TestWhatSeesTheHostsFilesIsNoContainer(t *testing.T) {
	need.Root(t)
	believed := book{name: "lxc", found: []Found{container("web-1", "1111")}} // our own process
	_, err := resolveBy(t, &Table{Runtimes: []Runtime{believed}}, "web-1")
	if err == nil || !strings.Contains(err.Error(), "sees the host's files, and is no container") {
		t.Errorf("got %v", err)
	}
}

func TestCgroupsAsRuntimesClaimThem(t *testing.T) {
	for _, test := range []struct {
		path, claim string
		want        bool
	}{
		{"/default/web-1", "/default/web-1", true},
		{"/default/web-1/init.scope", "/default/web-1", true},
		{"/default/web-10", "/default/web-1", false},
		{"/evil/default/web-1", "/default/web-1", false},
		{"/", "/", false},
		{"/", "", false},
		{"/x", "/", false},
		{"/kubepods.slice/crio-aa.scope", "crio-aa.scope", true},
		{"/kubepods.slice/crio-aa.scope/x", "crio-aa.scope", true},
		{"/kubepods.slice/crio-aab.scope", "crio-aa.scope", false},
	} {
		if got := inCgroup(test.path, test.claim); got != test.want {
			t.Errorf("%s in %s: %v", test.path, test.claim, got)
		}
	}
	for path, want := range map[string]string{"": "web-1", "/a/b": "/a/b", "user.slice:libpod:x": "libpod-x.scope", "a::x": "x.scope", "a/b": "b"} {
		if got := cgroupOf(path, "web-1"); got != want {
			t.Errorf("%q: got %s", path, got)
		}
	}
}

func FuzzOCIStateFiles(f *testing.F) {
	f.Add([]byte(`{"id":"web-1","init_process_pid":4711,"cgroup_paths":{"":"/sys/fs/cgroup/x"},"config":{"labels":["a=b"]}}`), []byte("4711"))
	f.Add([]byte(`{"pid":4711,"process-start-time":1,"annotations":{"io.kubernetes.cri.container-type":"container"}}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, l := range []layout{containerdLayout, criLayout, crioLayout, runcLayout, crunLayout} {
			found, err := l.parse("/run/x/default", "web-1", [][]byte{first, second})
			if err != nil {
				continue
			}
			if found.ID != "web-1" || found.PID < 0 || found.PID == 1 || found.PID > maxPID || found.Name != "" && !named(found.Name) {
				t.Errorf("%q, %q became %+v", first, second, found)
			}
		}
	})
}
