package regular_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/regular"
)

func TestWhatIsNoRegularFileIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, "/dev/null", "/dev/zero"} {
		if _, _, err := regular.Read(path, 8); err == nil || !strings.Contains(err.Error(), path+": is not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestSoMuchIsReadAndNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	for most, want := range map[int64]string{3: "con", 7: "content", 99: "content"} {
		got, info, err := regular.Read(path, most)
		if err != nil || string(got) != want || info.Mode().Perm() != 0o640 {
			t.Errorf("%d: %q, %v, %v", most, got, info, err)
		}
	}
}
