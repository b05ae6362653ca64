package e2e_test

import (
	"fmt"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// foreign are containers of those runtimes that are not Docker's kind: what
// config.yaml says of each, and its names.
var foreign = []struct {
	name string
	run  func(t *testing.T) (c rig.Container, config string, logins []string)
}{
	{"podman", func(t *testing.T) (rig.Container, string, []string) {
		p := rig.Podman(t)
		c := p.Run(t, "web-1")
		p.Serve(t)
		return c, fmt.Sprintf("podman: {socket: %s, root: %s, run: %s, users: %s}", p.Socket, p.Root, p.State, p.Users),
			[]string{"web-1", "podman:web-1", c.ID, c.ID[:8]}
	}},
	{"lxc", lxc()},
	{"unprivileged lxc", lxc(rig.Unprivileged...)},
	{"lxd", func(t *testing.T) (rig.Container, string, []string) {
		d := rig.LXD(t)
		return d.Run(t, "web-1"), fmt.Sprintf("incus: {root: %s}", d.Root), []string{"web-1", "incus:web-1", "default_web-1"}
	}},
	{"nspawn", nspawn()},
	{"nspawn -U", nspawn("-U")},
}

func lxc(lines ...string) func(*testing.T) (rig.Container, string, []string) {
	return func(t *testing.T) (rig.Container, string, []string) {
		l := rig.LXC(t)
		return l.Run(t, "web-1", lines...), fmt.Sprintf("lxc: {root: %s}", l.Path), []string{"web-1", "lxc:web-1"}
	}
}

func nspawn(flags ...string) func(*testing.T) (rig.Container, string, []string) {
	return func(t *testing.T) (rig.Container, string, []string) {
		return rig.Nspawn(t, "web-1", flags...), "nspawn: {}", []string{"web-1", "nspawn:web-1"}
	}
}

func TestAContainerOfEachRuntimeIsEnteredByEachOfItsNames(t *testing.T) {
	for _, kind := range foreign {
		t.Run(kind.name, func(t *testing.T) {
			c, config, logins := kind.run(t)
			h := newHost(t, nil)
			h.edit(t, "runtimes: {pid: {}}", "runtimes: {"+config+", pid: {}}")
			h.start(t)
			before := rig.Residue(t, c.PID, toolsImage(t))
			for _, login := range logins {
				h.run(t, "alice", login, "id -u; exit 7").is(t, result{stdout: "0\n", code: 7})
				if got := h.last(t, audit.SessionOpen).Target; got.PID != c.PID || got.Name != "web-1" || got.Source == "" {
					t.Errorf("%s: recorded as %+v", login, got)
				}
			}
			s := h.shell(t, "alice", logins[0])
			s.types(t, "exit 5\n")
			if got := s.ends(t); got.code != 5 {
				t.Errorf("%+v", got)
			}
			before.Same(t)
		})
	}
}
