package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cartsshd/cartsshd/internal/need"
)

// A dataRoot is one that no engine has written.
type dataRoot struct {
	testing.TB
	path string
}

func newDataRoot(t testing.TB) dataRoot {
	t.Helper()
	d := dataRoot{t, t.TempDir()}
	if err := os.Mkdir(d.path+"/containers", 0o710); err != nil {
		t.Fatal(err)
	}
	return d
}

// dir makes the directory of a container, which is named by its full ID.
func (d dataRoot) dir(id string) string {
	d.Helper()
	dir := d.path + "/containers/" + id
	if err := os.MkdirAll(dir, 0o710); err != nil {
		d.Fatal(err)
	}
	return dir
}

func (d dataRoot) file(id string) string { return d.dir(id) + "/config.v2.json" }

// has writes the state of a container as the engine does.
func (d dataRoot) has(id, text string) {
	d.Helper()
	replace(d, d.file(id), text)
}

func (d dataRoot) runs(prefix, name string) {
	d.Helper()
	d.has(fullID(prefix), stateOf(fullID(prefix), name, `"Running":true,"Pid":4711`))
}

func (d dataRoot) stopped(prefix, name string) {
	d.Helper()
	d.has(fullID(prefix), stateOf(fullID(prefix), name, `"Running":false,"Pid":0`))
}

// settle makes it look as if no container had come or gone for an hour.
func (d dataRoot) settle() {
	d.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(d.path+"/containers", old, old); err != nil {
		d.Fatal(err)
	}
}

// alone is the runtime while there is no engine.
func (d dataRoot) alone() *Docker { return NewDocker("/nonexistent/docker.sock", d.path) }

// with is the runtime with an engine, which answers so.
func (d dataRoot) with(t *testing.T, answer http.HandlerFunc) *Docker {
	t.Helper()
	return NewDocker(engineSocket(t, answer), d.path)
}

func replace(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// stateOf is a state file with about as much in it as real ones have.
func stateOf(id, name, state string) string {
	return fmt.Sprintf(`{"StreamConfig":{},"State":{%s,"Paused":false,"Dead":false,"Health":null},"ID":%q,"Name":"/%s","Path":"nginx","Image":"sha256:0","Config":{"Image":"nginx","Labels":{"team":"web"},"Env":[%q]}}`,
		state, id, name, strings.Repeat("x", 2000))
}

// ids finds, and returns the first four characters of each ID.
func ids(t testing.TB, d *Docker, id string) ([]string, error) {
	t.Helper()
	found, err := d.Find(t.Context(), id)
	var got []string
	for _, f := range found {
		got = append(got, f.ID[:4])
	}
	slices.Sort(got)
	return got, err
}

func TestWhatTheDiskKnowsTheEngineIsNotAsked(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	root.stopped("bbbb", "old")
	docker := root.with(t, func(_ http.ResponseWriter, r *http.Request) { t.Error("asked: ", r.URL) })
	for range 2 {
		for _, id := range []string{"web-1", fullID("aaaa"), "aaaa", fullID("aaaa")[:63]} {
			found, err := docker.Find(t.Context(), id)
			if err != nil || len(found) != 1 {
				t.Fatalf("%s: got %+v, %v", id, found, err)
			}
			f := found[0]
			if f.Name != "web-1" || f.ID != fullID("aaaa") || f.Image != "nginx" || f.PID != 4711 || f.Labels["team"] != "web" || f.Closed != "" {
				t.Errorf("%s: got %+v", id, f)
			}
			f.Labels["team"] = "db" // does not get into what is remembered
		}
		for _, id := range []string{"old", fullID("bbbb"), "bbbb"} {
			if found, err := docker.Find(t.Context(), id); err != nil || len(found) != 1 || found[0].Closed != "is not running" {
				t.Errorf("%s: got %+v, %v", id, found, err)
			}
		}
	}
}

func TestWhatTheDiskDoesNotKnowTheEngineIsAsked(t *testing.T) {
	known := newDataRoot(t)
	known.runs("aaaa", "web-1")
	open := newDataRoot(t)
	open.runs("cccc", "web-2")
	if err := os.Chmod(open.path+"/containers", 0o777); err != nil {
		t.Fatal(err)
	}
	crowded := newDataRoot(t)
	crowded.runs("cccc", "web-2")
	for i := range maxStateDirs {
		if err := os.WriteFile(fmt.Sprintf("%s/containers/%d", crowded.path, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	linked := newDataRoot(t)
	if err := os.Remove(linked.path + "/containers"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(linked.path+"/containers", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]dataRoot{
		"another root":            known,
		"no root":                 {t, "/nonexistent"},
		"one others may write to": open,
		"one with too much in it": crowded,
		"one without a directory": linked,
	} {
		docker := root.with(t, says("%s", inspected(fullID("bbbb"), "/web-2", 4712)))
		if got, err := ids(t, docker, "web-2"); err != nil || !slices.Equal(got, []string{"bbbb"}) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		docker = root.with(t, http.NotFound)
		if _, err := resolve(t, "web-2", docker); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s, nor the engine: got %v", name, err)
		}
		docker = root.alone()
		if _, err := resolve(t, "web-2", docker); err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "/nonexistent/docker.sock") {
			t.Errorf("%s, and no engine: got %v", name, err)
		}
		if name != "another root" && docker.Offline(t.Context()) == nil {
			t.Errorf("%s: passes for one that can be read", name)
		}
	}
}

func TestADirectoryOfSomebodyElseIsNotRead(t *testing.T) {
	need.Root(t)
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	if err := os.Chown(root.path+"/containers", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := ids(t, root.alone(), "web-1"); got != nil || err == nil || !strings.Contains(err.Error(), "others may write to it") {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTheDiskIsUnderstoodLikeTheEngine(t *testing.T) {
	root := newDataRoot(t)
	root.runs("abcd1", "one")
	root.runs("abcd2", "two")
	root.stopped("abcd3", "three")
	root.runs("ffff", "abcd")
	root.runs("eeee", fullID("abcd1"))
	docker := root.alone()
	for range 2 {
		for id, want := range map[string][]string{
			"abcd":          {"ffff"}, // a name before a prefix
			fullID("abcd1"): {"abcd"}, // a full ID before a name
			"abcd1":         {"abcd"}, // the one prefix
			"abcd0":         nil,      // none
			"abc":           nil,      // too short
			"ABCD1":         nil,      // IDs are in lower case
			"eeee":          {"eeee"}, // by its prefix, whatever it is called
			"three":         {"abcd"}, // stopped ones, too
			"One":           nil,      // names are not folded
			fullID("a"):     nil,      // an ID of none
			"ffff0000":      {"ffff"}, // a longer prefix
			"two":           {"abcd"}, // a name
			"web-1":         nil,      // no name
			fullID("ffff"):  {"ffff"}, // a full ID
			"config":        nil,      // no name, either
		} {
			if got, err := ids(t, docker, id); !slices.Equal(got, want) || (err == nil) != (want != nil) {
				t.Errorf("%s: got %v, %v; want %v", id, got, err, want)
			}
		}
	}
	os.RemoveAll(root.dir(fullID("ffff")))
	if got, err := ids(t, docker, "abcd"); err != nil || len(got) != 3 {
		t.Errorf("an ambiguous prefix: got %v, %v", got, err)
	}
	if _, err := resolve(t, "abcd", docker); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("an ambiguous prefix: got %v", err)
	}
}

func TestTheNextLookFollowsTheDisk(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	docker := root.alone()
	is := func(id string, want ...string) {
		t.Helper()
		for range 2 {
			if got, _ := ids(t, docker, id); !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", id, got, want)
			}
		}
	}
	is("web-1", "aaaa")
	root.settle()
	is("aaaa", "aaaa")
	if !docker.state.Load().files.Load().settled {
		t.Error("the directory is read again and again")
	}
	root.dir(fullID("cccc"))
	is("cccc")
	root.settle()
	is("cccc")
	root.runs("cccc", "new") // which changes no more than its own directory
	is("cccc", "cccc")
	is("new", "cccc")
	root.settle()
	is("cccc", "cccc")
	os.RemoveAll(root.dir(fullID("cccc")))
	is("cccc")
	root.runs("aaaa", "web-2")
	is("web-1")
	is("web-2", "aaaa")
	root.runs("bbbb", "web-1")
	is("web-1", "bbbb")
	root.runs("aaaa", "web-1")
	root.runs("bbbb", "web-2") // they have changed their names
	is("web-1", "aaaa")
	is("web-2", "bbbb")
	os.RemoveAll(root.dir(fullID("aaaa")))
	is("web-1")
	is("aaaa")
	is("web-2", "bbbb")
	if known := docker.state.Load().files.Load(); len(known.byID) != 1 || len(known.byName) != 1 {
		t.Errorf("%d containers and %d names are remembered", len(known.byID), len(known.byName))
	}
	root.stopped("bbbb", "web-2")
	if found, err := docker.Find(t.Context(), "bbbb"); err != nil || found[0].Closed != "is not running" {
		t.Errorf("stopped: got %+v, %v", found, err)
	}
}

// unreadable are the files of a container bbbb that say nothing.
func unreadable(root dataRoot, whole string) map[string]func() {
	id := fullID("bbbb")
	return map[string]func(){
		"half of it":       func() { root.has(id, whole[:len(whole)/2]) },
		"nothing in it":    func() { root.has(id, "") },
		"garbage":          func() { root.has(id, "\x00\x1b[2J\xff") },
		"null":             func() { root.has(id, "null") },
		"a list":           func() { root.has(id, "[]") },
		"two":              func() { root.has(id, whole+whole) },
		"a bomb":           func() { root.has(id, strings.Repeat(`{"State":`, 100_000)) },
		"too large":        func() { root.has(id, strings.Repeat(" ", maxStateFile)+whole) },
		"another's ID":     func() { root.has(id, stateOf(fullID("cccc"), "web-2", `"Running":true,"Pid":4711`)) },
		"no ID":            func() { root.has(id, stateOf("", "web-2", `"Running":true,"Pid":4711`)) },
		"no name":          func() { root.has(id, stateOf(id, "", `"Running":true,"Pid":4711`)) },
		"escapes":          func() { root.has(id, stateOf(id, `\u001b[2J`, `"Running":true,"Pid":4711`)) },
		"a path":           func() { root.has(id, stateOf(id, `..`, `"Running":true,"Pid":4711`)) },
		"a negative PID":   func() { root.has(id, stateOf(id, "web-2", `"Running":true,"Pid":-1`)) },
		"a huge PID":       func() { root.has(id, stateOf(id, "web-2", `"Running":true,"Pid":4294967297`)) },
		"an enormous PID":  func() { root.has(id, stateOf(id, "web-2", `"Running":true,"Pid":1e400`)) },
		"a PID of letters": func() { root.has(id, stateOf(id, "web-2", `"Running":true,"Pid":"\u001b"`)) },
		"a FIFO":           func() { syscall.Mkfifo(root.file(id), 0o600) },
		"a directory":      func() { os.Mkdir(root.file(id), 0o700) },
		"a device":         func() { os.Symlink("/dev/zero", root.file(id)) },
		"a link": func() {
			os.WriteFile(root.path+"/elsewhere", []byte(whole), 0o600)
			os.Symlink(root.path+"/elsewhere", root.file(id))
		},
		"a link to nowhere": func() { os.Symlink("nowhere", root.path+"/containers/"+id) },
		"a link to a directory": func() {
			os.Mkdir(root.path+"/elsewhere", 0o700)
			os.WriteFile(root.path+"/elsewhere/config.v2.json", []byte(whole), 0o600)
			os.Symlink(root.path+"/elsewhere", root.path+"/containers/"+id)
		},
	}
}

func TestAFileThatCannotBeReadHidesNoOther(t *testing.T) {
	whole := stateOf(fullID("bbbb"), "web-2", `"Running":true,"Pid":4711`)
	for name := range unreadable(dataRoot{}, whole) {
		t.Run(name, func(t *testing.T) {
			root := newDataRoot(t)
			root.runs("aaaa", "web-1")
			unreadable(root, whole)[name]()
			docker := root.alone()
			for range 2 {
				for _, id := range []string{"web-1", fullID("aaaa")} {
					if got, err := ids(t, docker, id); err != nil || len(got) != 1 {
						t.Errorf("%s: got %v, %v", id, got, err)
					}
				}
				// It may be called so.
				if got, err := ids(t, docker, "aaaa"); err == nil || len(got) != 1 {
					t.Errorf("a prefix: got %v, %v", got, err)
				}
				for _, id := range []string{"web-2", "bbbb", fullID("bbbb"), "b"} {
					target, err := resolve(t, id, docker)
					if err == nil || errors.Is(err, ErrNotFound) {
						t.Fatalf("%s: got %+v, %v", id, target, err)
					}
					if strings.ContainsAny(err.Error(), "\x00\x1b\n") || !utf8.ValidString(err.Error()) || len(err.Error()) > 1000 {
						t.Errorf("%s: not fit for a log: %q", id, err)
					}
				}
			}
			told := root.with(t, says("%s", whole))
			for _, id := range []string{"web-2", "bbbb", fullID("bbbb")} {
				if got, err := ids(t, told, id); err != nil || !slices.Equal(got, []string{"bbbb"}) {
					t.Errorf("%s, of an engine: got %v, %v", id, got, err)
				}
			}
			os.RemoveAll(root.path + "/containers/" + fullID("bbbb"))
			root.runs("bbbb", "web-2")
			if got, err := ids(t, docker, "web-2"); err != nil || len(got) != 1 {
				t.Errorf("when it is whole again: got %v, %v", got, err)
			}
		})
	}
}

func TestAFileThatCannotBeReadMayBeTheOtherOfAPrefix(t *testing.T) {
	root := newDataRoot(t)
	root.runs("abcd1", "one")
	root.has(fullID("abcd2"), "{")
	docker := root.alone()
	if got, err := ids(t, docker, "abcd"); got != nil || err == nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, id := range []string{"abcd1", "one"} {
		if got, _ := ids(t, docker, id); len(got) != 1 {
			t.Errorf("%s: got %v", id, got)
		}
	}
}

func TestANameOfTwoContainersIsTheEnginesToTell(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	root.runs("bbbb", "web-1")
	for range 2 {
		told := root.with(t, says("%s", inspected(fullID("bbbb"), "/web-1", 4711)))
		if got, err := ids(t, told, "web-1"); err != nil || !slices.Equal(got, []string{"bbbb"}) {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := resolve(t, "web-1", root.alone()); !errors.Is(err, ErrAmbiguous) {
			t.Errorf("without an engine: got %v", err)
		}
	}
}

func TestJunkIsNoContainer(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	root.dir(fullID("bbbb")) // one that is being made
	root.has("web-2", stateOf("web-2", "web-2", `"Running":true,"Pid":4711`))
	root.has("\x1b[2J", "")
	root.has(fullID("cccc")[:63], "")
	os.WriteFile(root.path+"/containers/"+fullID("dddd"), nil, 0o600)
	docker := root.alone()
	for range 2 {
		if found, err := docker.state.Load().find(t.Context(), "aaaa"); err != nil || len(found) != 1 {
			t.Errorf("got %+v, %v", found, err)
		}
		for _, id := range []string{"web-2", "bbbb", "cccc", "dddd"} {
			if found, err := docker.state.Load().find(t.Context(), id); err != nil || found != nil {
				t.Errorf("%s: got %+v, %v", id, found, err)
			}
		}
	}
}

func TestADiskThatHangsIsAFailureInTime(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	docker := root.alone()
	slots := docker.state.Load().slots
	for range stateSlots { // as if so many hung already
		slots <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if found, err := docker.Find(ctx, "web-1"); found != nil || err == nil || !strings.Contains(err.Error(), "wait for it already") {
		t.Errorf("got %+v, %v", found, err)
	}
	for range stateSlots {
		<-slots
	}
	if got, err := ids(t, docker, "web-1"); err != nil || len(got) != 1 {
		t.Errorf("when it has come back: got %v, %v", got, err)
	}
}

func TestTheEnginesFirstAnswerTellsItsDataRoot(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	root.runs("bbbb", "web-2")
	says := "" // where the container's file is
	var asked atomic.Int32
	docker := engine(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		in := inspected(fullID("aaaa"), "/web-1", 4711)
		path, _ := json.Marshal(says)
		fmt.Fprintf(w, `%s,"ResolvConfPath":%s}`, strings.TrimSuffix(in, "}"), path)
	})
	file := "/containers/" + fullID("aaaa") + "/resolv.conf"
	for _, says = range []string{"", "/etc/resolv.conf", file, "var/lib/docker" + file, "/var/\x1b[2J" + file, "/var/\x00" + file,
		root.path + "/containers/" + fullID("bbbb") + "/resolv.conf"} {
		if got, err := ids(t, docker, "web-1"); len(got) != 1 || err != nil {
			t.Errorf("%q: got %v, %v", says, got, err)
		}
		if state := docker.state.Load(); state != nil {
			t.Errorf("%q passes for a file in the data root %s", says, state.dir)
		}
	}
	says = root.path + file
	asked.Store(0)
	for _, id := range []string{"web-1", "web-2", "web-1"} {
		if got, err := ids(t, docker, id); err != nil || len(got) != 1 {
			t.Errorf("%s: got %v, %v", id, got, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAnEngineThatHangsBeforeItsDataRootIsKnownIsToldOf(t *testing.T) {
	docker := engine(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	patient := Table{Runtimes: []Runtime{docker}} // more so than the one question is given time
	_, err := patient.Resolve(t.Context(), Ref{ID: "web-1"})
	if err == nil || !strings.Contains(err.Error(), "docker: ") || !strings.Contains(err.Error(), "no answer within 1s") || !strings.Contains(err.Error(), "docker: root") {
		t.Errorf("got %v", err)
	}
}

func TestCheckAsksForTheDataRoot(t *testing.T) {
	root := newDataRoot(t)
	says := ""
	docker := engine(t, func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"DockerRootDir": says})
	})
	for _, says = range []string{"", ".", "var/lib/docker", "/var/\x1b[2J", "/var/\x00"} {
		if err := docker.Offline(t.Context()); err == nil || !strings.Contains(err.Error(), "docker: root") {
			t.Errorf("%q: got %v", says, err)
		}
	}
	says = root.path
	if err := docker.Offline(t.Context()); err != nil {
		t.Error(err)
	}
	if state := docker.state.Load(); state == nil || state.dir != root.path+"/containers" {
		t.Errorf("got %+v", state)
	}
}

func TestTheUsualDataRootStandsInUntilTheEngineAnswers(t *testing.T) {
	if d := NewDocker("/run/docker.sock", ""); d.fallback == nil || d.fallback.dir != "/var/lib/docker/containers" {
		t.Errorf("the usual socket: got %+v", d.fallback)
	}
	if d := NewDocker("/run/other.sock", ""); d.fallback != nil {
		t.Errorf("another socket: got %+v", d.fallback)
	}
	usual := newDataRoot(t)
	usual.runs("aaaa", "web-1")
	var up atomic.Bool
	docker := engine(t, func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, inspected(fullID("bbbb"), "/web-1", 4711))
	})
	docker.fallback = newDockerState(usual.path)
	for _, want := range []string{"aaaa", "bbbb"} {
		if got, err := ids(t, docker, "web-1"); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("got %v, %v; want %s", got, err, want)
		}
		up.Store(true)
	}
}

func TestManySessionsLookWhileContainersComeAndGo(t *testing.T) {
	root := newDataRoot(t)
	root.runs("aaaa", "web-1")
	docker := root.alone()
	stop := make(chan struct{})
	var engine sync.WaitGroup
	engine.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			root.runs("bbbb", fmt.Sprint("web-2-", i))
			root.runs("aaaa", "web-1")
			os.RemoveAll(root.dir(fullID("bbbb")))
		}
	})
	var sessions sync.WaitGroup
	for range 8 {
		sessions.Go(func() {
			for range 100 {
				for _, id := range []string{"web-1", "aaaa", fullID("aaaa")} {
					if got, err := ids(t, docker, id); err != nil || len(got) != 1 {
						t.Errorf("%s: got %v, %v", id, got, err)
					}
				}
			}
		})
	}
	sessions.Wait()
	close(stop)
	engine.Wait()
}

func FuzzStateFile(f *testing.F) {
	id := fullID("bbbb")
	f.Add([]byte(stateOf(id, "web-2", `"Running":true,"Pid":4711`)))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := parseState(id, text)
		if err == nil && (found.ID != id || !plain(found.Name) || found.PID < 0 || found.PID > maxPID) {
			t.Errorf("%q became %+v", text, found)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	for _, containers := range []int{1, 100} {
		root := newDataRoot(b)
		for i := range containers {
			root.runs(fmt.Sprintf("%04x", i+1), fmt.Sprint("web-", i+1))
		}
		root.settle()
		docker := root.alone()
		last := fmt.Sprintf("%04x", containers)
		for spelling, id := range map[string]string{"name": fmt.Sprint("web-", containers), "id": fullID(last), "prefix": last} {
			b.Run(fmt.Sprintf("%d/%s", containers, spelling), func(b *testing.B) { benchmarkFind(b, docker, id) })
		}
		b.Run(fmt.Sprintf("%d/cold", containers), func(b *testing.B) {
			for b.Loop() {
				docker.state.Store(newDockerState(root.path))
				if found, err := docker.Find(b.Context(), last); err != nil || len(found) != 1 {
					b.Fatal(found, err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/changed", containers), func(b *testing.B) {
			for b.Loop() {
				os.Chtimes(filepath.Join(root.path, "containers", fullID(last), "config.v2.json"), time.Time{}, time.Now())
				if found, err := docker.Find(b.Context(), last); err != nil || len(found) != 1 {
					b.Fatal(found, err)
				}
			}
		})
	}
}

func benchmarkFind(b *testing.B, docker *Docker, id string) {
	b.ReportAllocs()
	for b.Loop() {
		if found, err := docker.Find(b.Context(), id); err != nil || len(found) != 1 {
			b.Fatal(found, err)
		}
	}
}
