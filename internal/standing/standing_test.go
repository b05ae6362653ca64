package standing

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/need"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	return signer(t, private)
}

func signer(t testing.TB, private any) ssh.Signer {
	t.Helper()
	key, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return key
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func someGrant() Grant {
	return Grant{Person: "alice", Target: "web-1", Exec: []string{"cat <*>"}, Since: noon, Until: noon.Add(time.Hour), Reason: "INC-7 & more", By: "root"}
}

func someLock() Lock { return Lock{Person: "alice", Since: noon, Reason: "INC-7", By: "root"} }

func unrecorded[T any](T) error { return nil }

func newStore(t testing.TB) *Store {
	t.Helper()
	return In(filepath.Join(t.TempDir(), "state"), newKey(t))
}

func (s *Store) grant(t testing.TB) Grant {
	t.Helper()
	g, err := s.AddGrant(someGrant(), unrecorded)
	must(t, err)
	return g
}

func (s *Store) lock(t testing.TB) Lock {
	t.Helper()
	l, err := s.AddLock(someLock(), unrecorded)
	must(t, err)
	return l
}

func (s *Store) file(k kind, id string) string { return filepath.Join(s.path(k), id+suffix) }

func TestWhatWasAddedIsReadBackByWhoeverHasTheKey(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	r, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	for _, key := range []ssh.Signer{newKey(t), signer(t, ec), signer(t, r)} {
		s := In(filepath.Join(t.TempDir(), "deep", "state"), key)
		g, l := s.grant(t), s.lock(t)
		got := In(s.dir, key).Read()
		if fmt.Sprint(got) != fmt.Sprint(State{Grants: []Grant{g}, Locks: []Lock{l}}) {
			t.Errorf("%s: read %+v", key.PublicKey().Type(), got)
		}
		if !strings.HasPrefix(g.ID, "g-") || !strings.HasPrefix(l.ID, "l-") || len(g.ID) != 8 {
			t.Errorf("IDs %s and %s", g.ID, l.ID)
		}
	}
}

func TestNobodyElseMayReadOrWriteIt(t *testing.T) {
	s := newStore(t)
	g := s.grant(t)
	for path, want := range map[string]os.FileMode{s.dir: 0o700, s.path(grants): 0o700, s.file(grants, g.ID): 0o600} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
	}
}

func TestAStoreThatIsNotThereHasNothing(t *testing.T) {
	if got := newStore(t).Read(); got.Grants != nil || got.Locks != nil || got.Faults != nil {
		t.Errorf("read %+v", got)
	}
}

func TestWhatIsTakenAwayHasEnded(t *testing.T) {
	s := newStore(t)
	g, l := s.grant(t), s.lock(t)
	must(t, errors.Join(s.EndGrant(g.ID), s.EndLock(l.ID)))
	if got := s.Read(); len(got.Grants)+len(got.Locks)+len(got.Faults) > 0 {
		t.Errorf("read %+v", got)
	}
	if err := s.EndGrant(g.ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("taken away twice: %v", err)
	}
	for _, id := range []string{"", "../locks/x", ".hidden", "a/b"} {
		if err := s.EndGrant(id); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q is an ID: %v", id, err)
		}
	}
}

func TestItIsRecordedBeforeItTakesEffectOrIsNotMade(t *testing.T) {
	s := newStore(t)
	full := errors.New("disk full")
	_, err := s.AddGrant(someGrant(), func(g Grant) error {
		if g.ID == "" || len(s.Read().Grants) > 0 {
			t.Errorf("in effect too early: %+v", g)
		}
		return full
	})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(s.path(grants))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// damages are ways in which a file is not what the host's key has signed.
var damages = map[string]func(t *testing.T, path string){
	"is damaged":             func(t *testing.T, path string) { must(t, os.Truncate(path, 100)) },
	"is damaged: EOF":        func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
	"bad signature":          func(t *testing.T, path string) { replace(t, path, "alice", "mallo") },
	"unknown field":          func(t *testing.T, path string) { replace(t, path, `"version"`, `"more":1,"version"`) },
	"more than one value":    func(t *testing.T, path string) { replace(t, path, "\n", "{}") },
	"version 2":              func(t *testing.T, path string) { replace(t, path, `"version":1`, `"version":2`) },
	"no signature":           func(t *testing.T, path string) { replace(t, path, "BEGIN", "BEGUN") },
	"others may write to it": func(t *testing.T, path string) { must(t, os.Chmod(path, 0o622)) },
	"belongs to uid 4711":    func(t *testing.T, path string) { must(t, os.Chown(path, 4711, 0)) },
	"symbolic link": func(t *testing.T, path string) {
		must(t, os.Rename(path, path+".real"))
		must(t, os.Symlink(path+".real", path))
	},
	"not a regular file": func(t *testing.T, path string) {
		must(t, os.Remove(path))
		must(t, syscall.Mkfifo(path, 0o600))
	},
	"more than 16384 bytes": func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte(strings.Repeat(" ", 16385)), 0o600))
	},
}

func replace(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	if !strings.Contains(string(text), from) {
		t.Fatalf("no %q in %s", from, text)
	}
	must(t, os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600))
}

func TestAGrantThatCannotBeBelievedGrantsNothing(t *testing.T) {
	need.Root(t) // files are given away
	for want, damage := range damages {
		s := newStore(t)
		bad, good := s.grant(t), s.grant(t)
		damage(t, s.file(grants, bad.ID))
		got := s.Read()
		if len(got.Grants) != 1 || got.Grants[0].ID != good.ID || len(got.Locks) > 0 || len(got.Faults) != 1 {
			t.Fatalf("%s: read %+v", want, got)
		}
		if text := got.Faults[0].Error(); !strings.Contains(text, want) || !strings.Contains(text, "cartsshd revoke "+bad.ID) {
			t.Errorf("%s: told as %s", want, text)
		}
		must(t, s.EndGrant(bad.ID))
	}
}

func TestALockThatCannotBeBelievedLocksEverybodyUntilItIsTakenAway(t *testing.T) {
	need.Root(t) // files are given away
	for want, damage := range damages {
		s := newStore(t)
		l := s.lock(t)
		damage(t, s.file(locks, l.ID))
		got := s.Read()
		if len(got.Locks) != 1 || got.Locks[0].ID != l.ID || got.Locks[0].Person != "" || !got.Locks[0].Until.IsZero() || len(got.Faults) != 1 {
			t.Fatalf("%s: read %+v", want, got)
		}
		if text := got.Locks[0].Reason; !strings.Contains(text, want) || !strings.Contains(text, "cartsshd unlock "+l.ID) {
			t.Errorf("%s: told as %s", want, text)
		}
		must(t, s.EndLock(l.ID))
		if got := s.Read(); got.Locks != nil || got.Faults != nil {
			t.Errorf("%s: after all still %+v", want, got)
		}
	}
}

func TestWhoHasAnotherKeyCanAddNothing(t *testing.T) {
	s := newStore(t)
	other := In(s.dir, newKey(t))
	other.grant(t)
	got := s.Read()
	if len(got.Grants) > 0 || len(got.Faults) != 1 || !strings.Contains(got.Faults[0].Error(), "is not the host key") {
		t.Errorf("read %+v", got)
	}
}

func TestASignatureIsForOneKindAndOneName(t *testing.T) {
	s := newStore(t)
	g, l := s.grant(t), s.lock(t)
	text, err := os.ReadFile(s.file(locks, l.ID))
	must(t, err)
	must(t, os.WriteFile(s.file(grants, "g-forged"), text, 0o600))
	must(t, os.Rename(s.file(grants, g.ID), s.file(grants, "g-again2")))
	got := s.Read()
	if len(got.Grants) > 0 || len(got.Faults) != 2 {
		t.Errorf("read %+v", got)
	}
}

func TestALocksDirectoryThatCannotBeReadLocksEverybody(t *testing.T) {
	need.Root(t) // files are given away
	for want, spoil := range map[string]func(s *Store) error{
		"others may write":    func(s *Store) error { return os.Chmod(s.path(locks), 0o777) },
		"belongs to uid":      func(s *Store) error { return os.Chown(s.dir, 4711, 0) },
		"not a directory":     func(s *Store) error { return os.WriteFile(s.path(locks), nil, 0o600) },
		"locks: not a dir":    func(s *Store) error { return os.Symlink("/", s.path(locks)) },
		"more than 4096 file": func(s *Store) error { return fill(s.path(locks)) },
	} {
		s := newStore(t)
		must(t, os.Mkdir(s.dir, 0o700))
		if strings.Contains(want, "others") || strings.Contains(want, "4096") {
			must(t, os.Mkdir(s.path(locks), 0o700))
		}
		must(t, spoil(s))
		got := s.Read()
		if len(got.Locks) != 1 || got.Locks[0].Person != "" || !strings.Contains(got.Locks[0].Reason, want) {
			t.Errorf("%s: read %+v", want, got)
		}
	}
}

func fill(dir string) error {
	for i := range MaxCount + 1 {
		if err := os.WriteFile(fmt.Sprintf("%s/%d.json", dir, i), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func TestWhatIsNoFileOfOursIsNoLock(t *testing.T) {
	s := newStore(t)
	must(t, os.MkdirAll(s.path(locks), 0o700))
	for _, name := range []string{"README", ".l-half", "l-old.json.bak"} {
		must(t, os.WriteFile(filepath.Join(s.path(locks), name), nil, 0o600))
	}
	if got := s.Read(); got.Locks != nil || got.Faults != nil {
		t.Errorf("read %+v", got)
	}
}

func TestThereAreOnlySoManyAndOnlySoLong(t *testing.T) {
	s := newStore(t)
	must(t, os.MkdirAll(s.path(locks), 0o700))
	must(t, fill(s.path(locks)))
	if _, err := s.AddLock(someLock(), unrecorded); err == nil {
		t.Error("one more lock than there may be")
	}
	g := someGrant()
	g.Reason = strings.Repeat("why ", 5000)
	if _, err := s.AddGrant(g, unrecorded); err == nil || len(s.Read().Grants) > 0 {
		t.Errorf("a long reason: %v", err)
	}
}

func TestTheyAreOverAtTheSecondThatTheySay(t *testing.T) {
	g, l := someGrant(), someLock()
	if l.Over(noon.AddDate(100, 0, 0)) {
		t.Error("a lock without an end has ended")
	}
	l.Until = g.Until.Add(time.Hour)
	state := State{Grants: []Grant{g}, Locks: []Lock{l, someLock()}}
	for _, test := range []struct {
		at                  time.Time
		grantOver, lockOver bool
		next                time.Time
	}{
		{noon, false, false, g.Until},
		{g.Until.Add(-1), false, false, g.Until},
		{g.Until, true, false, l.Until},
		{l.Until.Add(-1), true, false, l.Until},
		{l.Until, true, true, time.Time{}},
	} {
		if g.Over(test.at) != test.grantOver || l.Over(test.at) != test.lockOver || state.Next(test.at) != test.next {
			t.Errorf("at %v", test.at)
		}
	}
}

func FuzzNoFileIsBelievedThatTheKeyHasNotSigned(f *testing.F) {
	s := newStore(f)
	g := s.grant(f)
	text, err := os.ReadFile(s.file(grants, g.ID))
	must(f, err)
	f.Add(text)
	f.Add([]byte(`{"version":1,"body":{},"signature":"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		must(t, os.WriteFile(s.file(grants, g.ID), text, 0o600))
		got := s.Read()
		if len(got.Grants)+len(got.Faults) != 1 || len(got.Grants) == 1 && fmt.Sprint(got.Grants[0]) != fmt.Sprint(g) {
			t.Errorf("read %+v", got)
		}
	})
}
