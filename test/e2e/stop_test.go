package e2e_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

func TestAContainerStopsInSpiteOfItsSessionsWhichEndWithTheWords(t *testing.T) {
	d := rig.Docker(t)
	for _, how := range []string{"stop", "kill", "rm -f"} {
		t.Run("docker "+how, func(t *testing.T) {
			c := d.Run(t, "web-1")
			h := serving(t, d)
			before := rig.Residue(t, c.PID, toolsImage(t))
			command := h.begin(t, "alice", "web-1", "echo in; exec sleep 1000")
			command.sees(t, "in\n")
			shell := h.shell(t, "alice", "web-1")

			d.CLI(t, append(strings.Fields(how), "web-1")...)

			const words = "cartsshd: container web-1 stopped\n"
			command.ends(t).is(t, result{stdout: "in\n", stderr: words, code: 137})
			if got := shell.ends(t); got.code != 137 || !strings.Contains(got.stdout, "\n"+words) && !strings.Contains(got.stdout, prompt+words) {
				t.Errorf("%+v", got)
			}
			for _, r := range h.recorded(t, audit.SessionClose) {
				if r.Exit.Reason != "container web-1 stopped" || r.Exit.Code != 137 {
					t.Errorf("recorded %+v", *r.Exit)
				}
			}
			before.Same(t)
		})
	}
}

// What kills the session only, in a container that lives, is told otherwise.
func TestAKilledSessionIsNotAStoppedContainer(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	h.run(t, "alice", "web-1", "kill -KILL $$").is(t, result{code: 255})
	if exit := h.last(t, audit.SessionClose).Exit; exit.Code != 137 || exit.Signal != "KILL" || exit.Reason != "exited" {
		t.Errorf("recorded %+v", exit)
	}
}

func TestAServerThatStopsEndsItsSessionsWithWords(t *testing.T) {
	d := rig.Docker(t)
	c := d.Run(t, "web-1")
	before := rig.Residue(t, c.PID, toolsImage(t))
	h := serving(t, d)
	command := h.begin(t, "alice", "web-1", "echo in; exec sleep 1000")
	command.sees(t, "in\n")
	shell := h.shell(t, "carol", "web-1")

	if code := h.end(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d:\n%s", code, h.log)
	}
	const words = "cartsshd: the server is stopping; this session was ended\n"
	if got := command.ends(t); got.code != 255 || !strings.HasPrefix(got.stderr, words) {
		t.Errorf("%+v", got)
	}
	if got := shell.ends(t); got.code != 255 || !strings.Contains(got.stdout, words) {
		t.Errorf("%+v", got)
	}
	closed := h.recorded(t, audit.SessionClose)
	if len(closed) != 2 || closed[0].Exit.Reason != "server stopped" || closed[1].Exit.Reason != "server stopped" {
		t.Errorf("recorded %+v", closed)
	}
	h.last(t, audit.DaemonStop)
	before.Same(t)
}
