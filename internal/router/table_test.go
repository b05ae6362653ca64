package router

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// A book is a runtime that knows what it was told, and gives its containers
// the process of this test.
type book struct {
	name  string
	found []Found
	err   error
	lies  error // of the kernel, about what is found
}

func (b book) Name() string                                  { return b.name }
func (b book) Find(context.Context, string) ([]Found, error) { return b.found, b.err }
func (b book) List(context.Context) ([]Found, error)         { return b.found, b.err }
func (b book) Verify(Found) error                            { return b.lies }

// hung is a runtime that never answers.
type hung struct{ book }

func (hung) Find(ctx context.Context, _ string) ([]Found, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func fullID(prefix string) string { return prefix + strings.Repeat("0", 64-len(prefix)) }

func container(name, prefix string) Found {
	return Found{ID: fullID(prefix), Name: name, PID: os.Getpid()}
}

func resolve(t *testing.T, login string, runtimes ...Runtime) (*Target, error) {
	t.Helper()
	return resolveBy(t, &Table{Runtimes: runtimes, Timeout: 100 * time.Millisecond, hostToo: true}, login)
}

func resolveBy(t *testing.T, table *Table, login string) (*Target, error) {
	t.Helper()
	ref, err := ParseRef(login)
	if err != nil {
		t.Fatal(err)
	}
	target, err := table.Resolve(t.Context(), ref)
	if err == nil {
		t.Cleanup(func() { target.Close() })
	}
	return target, err
}

func TestExactBeatsPrefix(t *testing.T) {
	named := container("abcd", "1111")
	prefixed := container("other", "abcd")
	for _, found := range [][]Found{{named, prefixed}, {prefixed, named}} {
		target, err := resolve(t, "abcd", book{name: "docker", found: found})
		if err != nil {
			t.Fatal(err)
		}
		if target.Name != "abcd" {
			t.Errorf("got %s", target.Name)
		}
	}
}

func TestAPrefixHasFourCharacters(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "abcd")}}
	if _, err := resolve(t, "abc", docker); !errors.Is(err, ErrNotFound) {
		t.Errorf("abc: got %v", err)
	}
	if _, err := resolve(t, "abcd", docker); err != nil {
		t.Errorf("abcd: got %v", err)
	}
}

func TestTwoMatchesAreAnErrorWithTheirSpellings(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}}
	podman := book{name: "podman", found: []Found{container("web-1", "bbbb")}}
	_, err := resolve(t, "web-1", docker, podman)
	var ambiguous *AmbiguousError
	if !errors.Is(err, ErrAmbiguous) || !errors.As(err, &ambiguous) {
		t.Fatalf("got %v", err)
	}
	if got := ambiguous.Spellings(); !slices.Equal(got, []string{"docker:web-1", "podman:web-1"}) {
		t.Errorf("got %q", got)
	}
	if target, err := resolve(t, "podman:web-1", docker, podman); err != nil || target.ID != fullID("bbbb") {
		t.Errorf("podman:web-1: got %+v, %v", target, err)
	}
}

func TestSpellingsOfNamesakesAreTheirIDs(t *testing.T) {
	_, err := resolve(t, "web-1", book{name: "pods", found: []Found{container("web-1", "aaaa"), container("web-1", "bbbb")}})
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) {
		t.Fatalf("got %v", err)
	}
	if got := ambiguous.Spellings(); !slices.Equal(got, []string{"pods:" + fullID("aaaa"), "pods:" + fullID("bbbb")}) {
		t.Errorf("got %q", got)
	}
}

func TestAContainerNamedWithTheIDOfAnotherIsAmbiguous(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}}
	podman := book{name: "podman", found: []Found{container(fullID("aaaa"), "bbbb")}}
	if _, err := resolve(t, fullID("aaaa"), docker, podman); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
}

func TestOneContainerOfTwoRuntimesIsTheFirstOnes(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}}
	containerd := book{name: "containerd", found: []Found{container("", "aaaa")}}
	for _, login := range []string{"aaaa", fullID("aaaa")} {
		target, err := resolve(t, login, docker, containerd)
		if err != nil || target.Runtime != "docker" {
			t.Errorf("%s: got %+v, %v", login, target, err)
		}
	}
}

func TestARunningContainerIsMeantBeforeAStoppedOne(t *testing.T) {
	stopped := Found{ID: fullID("aaaa"), Name: "web-1", Closed: "is not running"}
	docker := book{name: "docker", found: []Found{stopped}}
	podman := book{name: "podman", found: []Found{container("web-1", "bbbb")}}
	if target, err := resolve(t, "web-1", docker, podman); err != nil || target.Runtime != "podman" {
		t.Errorf("got %+v, %v", target, err)
	}
	_, err := resolve(t, "web-1", docker)
	var closed *ClosedError
	if !errors.As(err, &closed) || err.Error() != "router: container web-1 is not running" {
		t.Errorf("got %v", err)
	}
}

func TestAFailingRuntimeCostsAWarningOnly(t *testing.T) {
	broken := book{name: "podman", err: errors.New("out of order")}
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}}
	for _, bad := range []Runtime{broken, hung{broken}} {
		target, err := resolve(t, "web-1", bad, docker)
		if err != nil {
			t.Fatal(err)
		}
		if len(target.Warnings) != 1 || !strings.HasPrefix(target.Warnings[0].Error(), "podman: ") {
			t.Errorf("warnings: %v", target.Warnings)
		}
	}
}

// One that hangs is asked once, and not waited for when another knows the name.
func TestAHungRuntimeHoldsUpNoOthersContainers(t *testing.T) {
	docker := hung{book{name: "docker"}}
	lxc := book{name: "lxc", found: []Found{{ID: "web-1", Name: "web-1", PID: os.Getpid()}}}
	began := time.Now()
	target, err := resolveBy(t, &Table{Runtimes: []Runtime{docker, lxc}, hostToo: true}, "web-1")
	if took := time.Since(began); err != nil || took > time.Second || len(target.Warnings) != 1 {
		t.Errorf("got %+v, %v after %v", target, err, took)
	}
	// A process is not meant for sure while somebody may have called a container so.
	began = time.Now()
	table := &Table{Runtimes: []Runtime{docker, digits("4711")}, Timeout: 2 * grace, hostToo: true}
	if _, err := resolveBy(t, table, "4711"); err == nil || time.Since(began) < 2*grace {
		t.Errorf("digits: got %v after %v", err, time.Since(began))
	}
}

func TestAContainerIsNotEnteredAsALowerRuntimesWhileItsOwnDoesNotTell(t *testing.T) {
	docker := book{name: "docker", err: errors.New("down")}
	seen := Found{ID: "web-1", Name: "web-1", PID: os.Getpid(), of: "docker"}
	for _, login := range []string{"web-1", "runc:web-1"} {
		target, err := resolve(t, login, docker, book{name: "runc", found: []Found{seen}})
		if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "is docker's, which could not be asked for it: down") {
			t.Errorf("%s: got %+v, %v", login, target, err)
		}
	}
	seen.of = "containerd"
	if target, err := resolve(t, "web-1", docker, book{name: "runc", found: []Found{seen}}); err != nil || target.Runtime != "runc" {
		t.Errorf("what is nobody's who is down: got %+v, %v", target, err)
	}
}

func TestSpellingsOfWhatHasNoNameOfItsOwnAreProcesses(t *testing.T) {
	a, b := Match{"runc", Found{ID: "box", PID: 4711}}, Match{"runc", Found{ID: "box", PID: 4712}}
	err := &AmbiguousError{Ref{"", "box"}, []Match{a, b}}
	if got := err.Spellings(); !slices.Equal(got, []string{"pid:4711", "pid:4712"}) {
		t.Errorf("got %q", got)
	}
}

func TestWhatARuntimeFoundBeforeItFailedIsFound(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}, err: errors.New("half of it is missing")}
	target, err := resolve(t, "web-1", docker)
	if err != nil || len(target.Warnings) != 1 {
		t.Errorf("got %+v, %v", target, err)
	}
}

func TestNotFoundIsNotSaidWhileARuntimeDidNotAnswer(t *testing.T) {
	_, err := resolve(t, "web-1", hung{book{name: "docker"}}, book{name: "podman"})
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(err.Error(), "docker: no answer within 10") {
		t.Errorf("got %v", err)
	}
}

func TestNothingIsNotFound(t *testing.T) {
	for _, login := range []string{"web-1", "docker:web-1", "nothing:web-1"} {
		if _, err := resolve(t, login, book{name: "docker"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v", login, err)
		}
	}
}

type panicking struct{ book }

func (panicking) Find(context.Context, string) ([]Found, error) { panic("oh") }

func TestAPanicOfARuntimeIsItsFailure(t *testing.T) {
	docker := book{name: "docker", found: []Found{container("web-1", "aaaa")}}
	if _, err := resolve(t, "web-1", panicking{}, docker); err != nil {
		t.Error(err)
	}
}

func TestWhatTheKernelContradictsIsNotEntered(t *testing.T) {
	liar := book{name: "docker", found: []Found{container("web-1", "aaaa")}, lies: errors.New("is somebody else's")}
	if target, err := resolve(t, "web-1", liar); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("got %+v, %v", target, err)
	}
}

// digits knows of one process, like PID, without looking at it.
func digits(pid string) Runtime {
	return book{name: pidRuntime, found: []Found{{ID: pid, PID: os.Getpid(), Closed: "was meant"}}}
}

func TestBareDigitsAreANameFirst(t *testing.T) {
	named := book{name: "docker", found: []Found{container("4711", "aaaa")}}
	if target, err := resolve(t, "4711", digits("4711"), named); err != nil || target.Runtime != "docker" {
		t.Errorf("a name: got %+v, %v", target, err)
	}
	prefixed := book{name: "docker", found: []Found{container("web-1", "4711")}}
	if target, err := resolve(t, "4711", digits("4711"), prefixed); err != nil || target.Runtime != "docker" {
		t.Errorf("a prefix: got %+v, %v", target, err)
	}
	if _, err := resolve(t, "4711", digits("4711"), book{name: "docker"}); err == nil || err.Error() != "router: process 4711 was meant" {
		t.Errorf("no container: got %v", err)
	}
}

func TestBareDigitsAreNoProcessWhileSomeContainerMayBeCalledSo(t *testing.T) {
	pid := digits("4711").(book)
	pid.found[0].Closed = ""
	down := book{name: "docker", err: errors.New("down")}
	if target, err := resolve(t, "4711", pid, down); err == nil || !strings.Contains(err.Error(), "pid:4711 is the process") {
		t.Errorf("got %+v, %v", target, err)
	}
}
