package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// cartsshdConfig has two people: one may open a shell, so that what they run is
// run by the image's bash; the other may run one command, and no shell does.
const cartsshdConfig = `
listen: %s
host_key: %s
image: {path: %s}
record: {dir: %s}
state: {dir: state}
runtimes: {docker: {socket: %s}, pid: {}}
limits: {connections: 10000, connections_per_address: 10000}
people:
  shell: {keys: ["%s"]}
  exact: {keys: ["%s"]}
rules:
  - {name: shell, who: [shell], targets: [{name: web-1}], allow: [shell]}
  - {name: exact, who: [exact], targets: [{name: web-1}], allow: [exec: [/bin/true]]}
`

// startOurs starts one cartsshd, which is two servers to the measures: one for
// each person.
func (b *bench) startOurs() error {
	program, err := filepath.Abs(b.cartsshd)
	if err != nil {
		return err
	}
	image, err := filepath.Abs(b.image)
	if err != nil {
		return err
	}
	shell, hostKey, err := b.newServer("cartsshd", b.patient.Name)
	if err != nil {
		return err
	}
	if shell.key, err = newKey(b.dir, "shell.key"); err != nil {
		return err
	}
	exact := *shell
	exact.name = "cartsshd-exact"
	if exact.key, err = newKey(b.dir, "exact.key"); err != nil {
		return err
	}
	text := fmt.Sprintf(cartsshdConfig, shell.addr, hostKey, image, filepath.Join(b.dir, "record"),
		b.docker.Socket, shell.key.line(), exact.key.line())
	if err := os.WriteFile(b.config(), []byte(text), 0o600); err != nil {
		return err
	}
	if err := b.launch(shell, exec.Command(program, "serve", "--config", b.config())); err != nil {
		return err
	}
	exact.proc, exact.cpu, exact.rest = shell.proc, shell.cpu, shell.rest
	b.ours, b.exact = shell, &exact
	return exact.answers()
}

func (b *bench) config() string { return filepath.Join(b.dir, "cartsshd.yaml") }

// enter is our way in on the host itself.
func (b *bench) enter(command ...string) []string {
	return append([]string{b.cartsshd, "enter", "--config", b.config(), b.patient.Name}, command...)
}
