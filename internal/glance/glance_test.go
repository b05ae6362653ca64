package glance_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cartsshd/cartsshd/internal/glance"
)

// looks tells how many of so many looks noticed something.
func looks(w *glance.Watcher, n int) (noticed int) {
	for range n {
		if w.Look() {
			noticed++
		}
	}
	return noticed
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEveryWayInWhichAFileCanChangeIsNoticedOnce(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	link, aim := filepath.Join(dir, "link"), filepath.Join(dir, "aim")
	write(t, file, "one")
	write(t, aim, "one")
	for _, err := range []error{os.Symlink(aim, link), os.Mkdir(sub, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w := glance.New(func() []string { return []string{file, link, sub} })
	for _, change := range []struct {
		what string
		do   func() error
	}{
		{"nothing", nil},
		{"written", func() error { return os.WriteFile(file, []byte("two"), 0o600) }},
		{"another in its place", func() error {
			write(t, file+".new", "two")
			return os.Rename(file+".new", file)
		}},
		{"mode", func() error { return os.Chmod(file, 0o640) }},
		{"gone", func() error { return os.Remove(file) }},
		{"back", func() error { return os.WriteFile(file, []byte("two"), 0o600) }},
		{"behind a link", func() error { return os.WriteFile(aim, []byte("three"), 0o600) }},
		{"in a directory", func() error { return os.WriteFile(filepath.Join(sub, "x"), nil, 0o600) }},
	} {
		if change.do != nil {
			if err := change.do(); err != nil {
				t.Fatal(err)
			}
		}
		want := 0
		if change.do != nil {
			want = 1
		}
		if got := looks(w, 3); got != want {
			t.Fatalf("%s: noticed %d changes", change.what, got)
		}
	}
}

func TestAFileThatIsStillBeingWrittenIsWaitedFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	w := glance.New(func() []string { return []string{file} })
	for n := range 5 {
		write(t, file, string(make([]byte, n+1)))
		if w.Look() {
			t.Fatal("it was not")
		}
	}
	if got := looks(w, 3); got != 1 {
		t.Fatalf("%d changes when it had been written", got)
	}
}

func TestAFileThatIsNamedLaterIsWatchedFromThenOn(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "")
	write(t, b, "")
	paths := []string{a}
	w := glance.New(func() []string { return paths })
	paths = []string{a, b}
	if got := looks(w, 3); got != 0 {
		t.Fatalf("to be named was taken for a change")
	}
	write(t, b, "changed")
	if got := looks(w, 3); got != 1 {
		t.Fatalf("%d changes noticed", got)
	}
}
