package glance

import (
	"os"
	"path/filepath"
	"testing"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

// seen is whether a change is told, once, when it is over.
func seen(w *Watch) bool {
	early := w.Changed()
	told := w.Changed()
	return !early && told && !w.Changed() && !w.Changed()
}

// inTwoLooks looks as often as a change takes.
func inTwoLooks(w *Watch) bool {
	early := w.Changed()
	return w.Changed() || early
}

func TestEveryKindOfChangeIsSeenOnce(t *testing.T) {
	dir := t.TempDir()
	file, link, absent := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "absent")
	for i, name := range []string{"one", "two"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		write(t, filepath.Join(dir, name, "config"), "same"[i:])
	}
	write(t, file, "a")
	must(t, os.Symlink("one", link))
	var w Watch
	w.Look(file, filepath.Join(link, "config"), absent)
	if inTwoLooks(&w) {
		t.Error("a change before any")
	}
	changes := []struct {
		name string
		do   func() error
	}{
		{"written longer", func() error { return os.WriteFile(file, []byte("ab"), 0o600) }},
		{"renamed over", func() error { write(t, file+".new", "xy"); return os.Rename(file+".new", file) }},
		{"made another's to write", func() error { return os.Chmod(file, 0o622) }},
		{"gone", func() error { return os.Remove(file) }},
		{"back", func() error { return os.WriteFile(file, []byte("xy"), 0o600) }},
		{"there at last", func() error { return os.WriteFile(absent, nil, 0o600) }},
		{"another way there", func() error {
			must(t, os.Symlink("two", link+".new"))
			return os.Rename(link+".new", link)
		}},
	}
	for _, c := range changes {
		must(t, c.do())
		if !seen(&w) {
			t.Errorf("%s: not seen once", c.name)
		}
	}
}

func TestWhatIsStillBeingWrittenIsNotToldYet(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	var w Watch
	w.Look(file)
	for _, text := range []string{"a", "ab", "abc"} {
		write(t, file, text)
		if w.Changed() {
			t.Errorf("told at %q", text)
		}
	}
	if !w.Changed() {
		t.Error("not told at the end")
	}
}

func TestWhatIsAsItWasBeforeIsNoChange(t *testing.T) {
	dir := t.TempDir()
	var w Watch
	w.Look(filepath.Join(dir, "file"))
	write(t, filepath.Join(dir, "file"), "a")
	if w.Changed() {
		t.Error("told at once")
	}
	must(t, os.Remove(filepath.Join(dir, "file")))
	if inTwoLooks(&w) {
		t.Error("told of nothing")
	}
}

func TestOfADirectoryAllThatIsInItIsSeen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locks")
	var w Watch
	w.Look(dir)
	file := filepath.Join(dir, "file")
	for _, do := range []func() error{
		func() error { return os.Mkdir(dir, 0o700) },
		func() error { return os.WriteFile(file, []byte("a"), 0o600) },
		func() error { return os.WriteFile(file, []byte("ab"), 0o600) }, // the directory itself stays as it was
		func() error { return os.Remove(file) },
		func() error { return os.Remove(dir) },
	} {
		must(t, do())
		if !seen(&w) {
			t.Error("not seen once")
		}
	}
}

func TestLookingAnewForgetsWhatHasChangedBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	var w Watch
	w.Look(file)
	write(t, file, "a")
	w.Look(file)
	if inTwoLooks(&w) {
		t.Error("told of what was known")
	}
}

func TestWhatIsLookedAtLaterDoesNotHideWhatHasChangedBefore(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	var w Watch
	w.Look(first)
	write(t, first, "a")
	write(t, second, "a")
	w.Also(first, second)
	if !seen(&w) {
		t.Error("the first is not seen once")
	}
	write(t, second, "ab")
	if !seen(&w) {
		t.Error("the second is not seen once")
	}
}

func BenchmarkLooking(b *testing.B) {
	dir := b.TempDir()
	must(b, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	var w Watch
	w.Look(filepath.Join(dir, "file"), dir)
	for b.Loop() {
		w.Changed()
	}
}

func TestWhatAppearsWholeIsSeenAtTheFirstLook(t *testing.T) {
	dir := t.TempDir()
	var w Watch
	w.Look(dir)
	for _, name := range []string{"a", "b", "c"} { // also if it never stops
		write(t, filepath.Join(dir, name), "")
		if !w.Differs() {
			t.Errorf("%s is not seen", name)
		}
	}
	if w.Differs() {
		t.Error("told twice")
	}
}
