// Package need says what a test needs of the machine. It skips on a laptop
// that lacks it, with the way to get it, and fails where CARTSSHD_NEED_ALL=1
// is set, so that CI is never green by skipping. No test skips in another way.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root", "sudo make test")
	}
}

// Tool needs a program of the host, and returns its path. The package is
// Debian's name for what holds it.
func Tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, "apt-get install "+pkg)
	}
	return path
}

// File needs a file, and tells how it is made.
func File(t testing.TB, path, try string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, path, try)
	}
}

func missing(t testing.TB, what, try string) {
	t.Helper()
	if os.Getenv("CARTSSHD_NEED_ALL") == "1" {
		t.Fatalf("needs %s (try: %s)", what, try)
	}
	t.Skipf("needs %s (try: %s)", what, try)
}
