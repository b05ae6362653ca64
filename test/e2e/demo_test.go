package e2e_test

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

func TestTheDemoShowsItselfAndLeavesNothing(t *testing.T) {
	need.Root(t)
	need.Tool(t, "ssh", "openssh-client")
	cmd := command(shipped(t), "demo", "--image", toolsImage(t), "--port", strconv.Itoa(freePort(t)))
	got := finish(t, cmd)
	if got.code != 0 || got.stderr != "" || !strings.HasSuffix(got.stdout, "nothing is left in the container. All of it went as it should.\n") {
		t.Errorf("exit code %d:\n%s%s", got.code, got.stdout, got.stderr)
	}
}

// freePort was free just now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func TestACommandLineThatIsNotUnderstoodSaysHowItIsMeant(t *testing.T) {
	for _, args := range [][]string{{"sevre"}, {"serve", "--confg", "x"}, {"enter"}} {
		got := finish(t, command(program(t), args...))
		if got.code != 2 || !strings.HasSuffix(got.stderr, "(try: cartsshd --help)\n") && !strings.Contains(got.stderr, "Usage:") {
			t.Errorf("%q: %+v", args, got)
		}
	}
}
