package standing_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/standing"
)

func key(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

var made = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func grant(id string) standing.Grant {
	return standing.Grant{ID: id, Person: "alice", Target: "web-1", Exec: []string{"ps *"}, Profile: "general", Until: made.Add(time.Hour), Reason: "INC-7", By: "root", Made: made}
}

func lock(id string) standing.Lock {
	return standing.Lock{ID: id, Person: "alice", Reason: "laptop stolen", By: "root", Made: made}
}

func shelf(t *testing.T) standing.Shelf {
	t.Helper()
	s := standing.Shelf{Dir: filepath.Join(t.TempDir(), "state"), Key: key(t)}
	for _, err := range []error{s.Grant(grant("g-1")), s.Lock(lock("l-1"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func state(t *testing.T, s standing.Shelf) standing.State {
	t.Helper()
	state, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func TestWhatWasPutThereIsReadAgainUntilItIsTakenAway(t *testing.T) {
	if got := state(t, standing.Shelf{Dir: filepath.Join(t.TempDir(), "none"), Key: key(t)}); !reflect.DeepEqual(got, standing.State{}) {
		t.Errorf("of nothing: %+v", got)
	}
	s := shelf(t)
	want := standing.State{Grants: []standing.Grant{grant("g-1")}, Locks: []standing.Lock{lock("l-1")}}
	if got := state(t, s); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v", got)
	}
	for _, id := range []string{"g-1", "l-1"} {
		if err := s.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if got := state(t, s); got.Grants != nil || got.Locks != nil || got.Bad != nil {
		t.Fatalf("got %+v", got)
	}
	for _, id := range []string{"g-1", "l-1", "g-", "", "x", "../g-1", "l-/../../x"} {
		if err := s.Remove(id); !errors.Is(err, standing.ErrNone) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestADamagedGrantGrantsNothingAndADamagedLockLocksEverybody(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, path string){
		"empty":   func(t *testing.T, path string) { rewrite(t, path, func([]byte) []byte { return nil }) },
		"cut off": func(t *testing.T, path string) { rewrite(t, path, func(b []byte) []byte { return b[:len(b)-20] }) },
		"altered": func(t *testing.T, path string) {
			rewrite(t, path, func(b []byte) []byte { return bytes.Replace(b, []byte("alice"), []byte("mallo"), 1) })
		},
		"unsigned": func(t *testing.T, path string) {
			rewrite(t, path, func(b []byte) []byte { return b[:bytes.Index(b, []byte("-----"))] })
		},
		"a FIFO": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, path string) {
			if err := errors.Join(os.Rename(path, path+"-x"), os.Symlink(path+"-x", path)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(path + "-x") })
		},
		"anybody's": func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
		},
		"huge": func(t *testing.T, path string) {
			rewrite(t, path, func(b []byte) []byte { return append(bytes.Repeat([]byte(" "), 1<<20), b...) })
		},
		"of another name": func(t *testing.T, path string) {
			if err := os.Rename(path, path+"2"); err != nil {
				t.Fatal(err)
			}
		},
		"of another host": func(t *testing.T, path string) {
			other := standing.Shelf{Dir: filepath.Dir(filepath.Dir(path)), Key: key(t)}
			if err := errors.Join(other.Grant(grant("g-1")), other.Lock(lock("l-1"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := shelf(t)
			spoil(t, filepath.Join(s.Dir, "grants/g-1"))
			spoil(t, filepath.Join(s.Dir, "locks/l-1"))
			got := state(t, s)
			if len(got.Grants) != 0 && what != "a link" {
				t.Errorf("granted: %+v", got.Grants)
			}
			everybody := 0
			for _, l := range got.Locks {
				if l.Person == "" && l.Target == "" && l.Until.IsZero() {
					everybody++
				}
			}
			if everybody == 0 || len(got.Bad) < 2 {
				t.Errorf("locks %+v, bad %v", got.Locks, got.Bad)
			}
			for _, b := range got.Bad {
				if !strings.Contains(b.Error(), b.Path) || !strings.Contains(b.Error(), "rm ") {
					t.Errorf("%v", b)
				}
			}
		})
	}
}

func rewrite(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, f(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestALockIsNoGrant(t *testing.T) {
	s := shelf(t)
	data, err := os.ReadFile(filepath.Join(s.Dir, "locks/l-1"))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.Dir, "grants/l-1"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := state(t, s); len(got.Grants) != 1 || len(got.Bad) != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestAWriteThatDidNotEndIsNothing(t *testing.T) {
	s := shelf(t)
	if err := os.WriteFile(filepath.Join(s.Dir, "locks/.new-123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := state(t, s); len(got.Locks) != 1 || got.Bad != nil {
		t.Fatalf("got %+v", got)
	}
}

func TestADirectoryThatOthersMayWriteToIsAnError(t *testing.T) {
	s := shelf(t)
	if err := os.Chmod(filepath.Join(s.Dir, "locks"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(); err == nil || !strings.Contains(err.Error(), "locks: others could change it") {
		t.Fatal(err)
	}
}

func TestTheyAreOverAtTheSecondThatTheySay(t *testing.T) {
	g, l := grant("g-1"), lock("l-1")
	if l.Over(made.AddDate(100, 0, 0)) {
		t.Error("a lock without an end has ended")
	}
	l.Until = g.Until
	for _, test := range []struct {
		at   time.Time
		over bool
	}{{g.Until.Add(-1), false}, {g.Until, true}, {g.Until.Add(1), true}} {
		if g.Over(test.at) != test.over || l.Over(test.at) != test.over {
			t.Errorf("at %v", test.at)
		}
	}
}

func TestIDsAreOfTheirKind(t *testing.T) {
	if g, l := standing.NewGrantID(), standing.NewLockID(); g[:2] != "g-" || l[:2] != "l-" || g == standing.NewGrantID() {
		t.Errorf("%s %s", g, l)
	}
}
