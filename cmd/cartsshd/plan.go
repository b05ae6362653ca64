package main

import (
	"io"

	"github.com/cartsshd/cartsshd/internal/nsexec"
)

type planCmd struct {
	atHost     `embed:""`
	privileges `embed:""`
	Name       string   `arg:"" help:"The container, as in ssh NAME@host."`
	Cmd        []string `arg:"" optional:"" passthrough:"partial" help:"Command; the shell if none."`
}

// Run prints the way in, a system call a line, and goes no step of it.
func (c planCmd) Run(out io.Writer) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	profile, err := c.profile()
	if err != nil {
		return err
	}
	target, err := lookFor(cfg, c.Name)
	if err != nil {
		return err
	}
	defer target.Close()
	cmd := &nsexec.Cmd{ID: "SESSION", Target: target.Process, Profile: profile, Env: nsexec.Environ()}
	cmd.Path, cmd.Args = commandLine(withoutDashes(c.Cmd))
	plan, err := cmd.Plan()
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, plan)
	return err
}
