package router

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"
)

// engine is a Docker engine that answers as it is told.
func engine(t *testing.T, answer http.HandlerFunc) *Docker {
	t.Helper()
	return NewDocker(engineSocket(t, answer), "")
}

func engineSocket(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", dir+"/docker.sock")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(listener) // until it is closed
	t.Cleanup(func() { server.Close() })
	return dir + "/docker.sock"
}

func says(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, format, args...) }
}

func inspected(id, name string, pid int) string {
	return fmt.Sprintf(`{"Id":%q,"Name":%q,"State":{"Running":true,"Pid":%d},"Config":{"Image":"nginx","Labels":{"team":"web"}}}`, id, name, pid)
}

func TestDockerTellsNamesLabelsAndImage(t *testing.T) {
	docker := engine(t, says("%s", inspected(fullID("aaaa"), "/web-1", 4711)))
	found, err := docker.Find(t.Context(), "web-1")
	if err != nil || len(found) != 1 {
		t.Fatalf("got %+v, %v", found, err)
	}
	f := found[0]
	if f.Name != "web-1" || f.ID != fullID("aaaa") || f.Image != "nginx" || f.PID != 4711 || f.Labels["team"] != "web" || f.Closed != "" {
		t.Errorf("got %+v", f)
	}
}

func TestAHostileEngineIsAFailureAndNoContainer(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"garbage":         says("\x00\xff garbage"),
		"nothing":         says(""),
		"an empty object": says("{}"),
		"another type":    says(`{"Id":7}`),
		"an endless body": func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"endless headers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		},
		"an error":            func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[2J", http.StatusInternalServerError) },
		"a short ID":          says("%s", inspected("aaaa", "/web-1", 4711)),
		"escapes in its name": says("%s", inspected(fullID("aaaa"), "/\x1b[2J", 4711)),
		"a negative PID":      says("%s", inspected(fullID("aaaa"), "/web-1", -1)),
		"a huge PID":          says("%s", inspected(fullID("aaaa"), "/web-1", 1<<32+1)),
		"hangs":               func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs in its body": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"Id":"`)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			target, err := resolve(t, "web-1", engine(t, answer))
			if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrAmbiguous) {
				t.Fatalf("got %+v, %v", target, err)
			}
			if strings.ContainsAny(err.Error(), "\x00\x1b") || !utf8.ValidString(err.Error()) {
				t.Errorf("not fit for a log: %q", err)
			}
		})
	}
}

func endless(w http.ResponseWriter) {
	for range 1 << 20 {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

func TestAProcessThatIsNotTheContainersIsNotEntered(t *testing.T) {
	for name, pid := range map[string]int{"ours": os.Getpid(), "the host's init": 1} {
		t.Run(name, func(t *testing.T) {
			docker := engine(t, says("%s", inspected(fullID("aaaa"), "/web-1", pid)))
			target, err := resolve(t, "web-1", docker)
			if err == nil || !strings.Contains(err.Error(), "is not in the cgroup of "+fullID("aaaa")) {
				t.Errorf("got %+v, %v", target, err)
			}
		})
	}
}

func TestAnEngineThatIsNotThereIsAFailure(t *testing.T) {
	_, err := resolve(t, "web-1", NewDocker("/nonexistent/docker.sock", ""))
	if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "/nonexistent/docker.sock") {
		t.Errorf("got %v", err)
	}
}

func TestWhatDockerMayNotBeAskedIsNotAsked(t *testing.T) {
	var asked atomic.Int32
	docker := engine(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	for _, login := range badNames {
		if found, err := docker.Find(t.Context(), login); found != nil || err != nil {
			t.Errorf("%q: got %+v, %v", login, found, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAnAmbiguousPrefixIsOneOfTheRunningContainers(t *testing.T) {
	for _, running := range []int{1, 2} {
		docker := engine(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/containers/abcd/json":
				http.Error(w, `{"message":"Multiple IDs found with provided prefix: abcd"}`, http.StatusBadRequest)
			case "/containers/json":
				fmt.Fprintf(w, "[%s]", strings.Join([]string{`{"Id":"` + fullID("abcd1") + `"}`, `{"Id":"` + fullID("abcd2") + `"}`}[:running], ","))
			case "/containers/" + fullID("abcd1") + "/json":
				fmt.Fprint(w, inspected(fullID("abcd1"), "/one", 1))
			case "/containers/" + fullID("abcd2") + "/json":
				fmt.Fprint(w, inspected(fullID("abcd2"), "/two", 1))
			}
		})
		found, err := docker.Find(t.Context(), "abcd")
		if err != nil || len(found) != running {
			t.Errorf("%d running: got %+v, %v", running, found, err)
		}
	}
}

func TestAPausedContainerIsClosed(t *testing.T) {
	for state, want := range map[string]string{
		`{"Running":true,"Paused":true,"Pid":4711}`: "router: container web-1 is paused",
		`{"Running":true,"Restarting":true}`:        "router: container web-1 is restarting",
		`{"Running":false}`:                         "router: container web-1 is not running",
		`{"Running":true,"Pid":0}`:                  "router: container web-1 is not running",
	} {
		_, err := resolve(t, "web-1", engine(t, says(`{"Id":%q,"Name":"/web-1","State":%s}`, fullID("aaaa"), state)))
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v", state, err)
		}
	}
}

func TestManySessionsAskAtOnce(t *testing.T) {
	docker := engine(t, says("%s", inspected(fullID("aaaa"), "/web-1", 4711)))
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if found, err := docker.Find(t.Context(), "web-1"); err != nil || len(found) != 1 {
				t.Errorf("got %+v, %v", found, err)
			}
		})
	}
	all.Wait()
}
