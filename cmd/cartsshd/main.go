// Command cartsshd lets engineers into running containers over SSH, with the
// tools that the containers lack, if the policy says so, and keeps a record of
// all of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

type cli struct {
	Verbose      verbosity        `short:"v" help:"Say on stderr what is done."`
	PrintVersion kong.VersionFlag `name:"version" short:"V" help:"Print the version."`

	Serve   serveCmd   `cmd:"" help:"Let people in."`
	Check   checkCmd   `cmd:"" help:"Say whether serve would work here, and why not."`
	Enter   enterCmd   `cmd:"" help:"Enter a container from this host, as root."`
	Targets targetsCmd `cmd:"" help:"List the containers that can be entered."`
	Resolve resolveCmd `cmd:"" help:"Show what a login leads to."`
	Explain explainCmd `cmd:"" help:"Say what somebody may do, by which rule, and why not."`
	WhoCan  whoCanCmd  `cmd:"" help:"List who may do what in a container."`
	WhatCan whatCanCmd `cmd:"" help:"List what somebody may do, and where."`
	Schema  schemaCmd  `cmd:"" help:"Print the JSON schema of the configuration, for editors."`
	Mount   mountCmd   `cmd:"" help:"Put the tools where a container itself sees them, and docker exec."`
	Unmount unmountCmd `cmd:"" help:"Take them away again."`
	Plan    planCmd    `cmd:"" help:"Print the way into a container, a system call a line."`
	Image   imageCmd   `cmd:"" help:"Make the tools image, or look into one."`
	Demo    demoCmd    `cmd:"" help:"Show it all on a container of its own."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Help    helpCmd    `cmd:"" help:"Say this."`

	DemoContainer demoContainerCmd `cmd:"" hidden:""`
	DemoWeb       demoWebCmd       `cmd:"" hidden:""`
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings named. It returns the exit code: 0, 1 for
// what failed, 2 for a command line that was not understood, or a command's
// own.
func run(args []string, stdout, stderr io.Writer) int {
	exited := -1
	grammar := &cli{}
	parser := kong.Must(grammar,
		kong.Name("cartsshd"),
		kong.Description("SSH into running containers, with tools, under a policy, on the record."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), // --help
		kong.Vars{"version": "cartsshd " + version()},
		privileges{}.words(),
		kong.BindTo(stdout, (*io.Writer)(nil)),
		kong.Bind(&grammar.Verbose),
		kong.BindToProvider(interruptible),
	)
	command, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "cartsshd: %v (try: cartsshd --help)\n", err)
		return 2
	}
	err = command.Run()
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	if err != nil {
		fmt.Fprintln(stderr, message(err))
		return 1
	}
	return 0
}

// interruptible is for commands with something to put away: the first signal
// ends the context, and a second one us. Other commands end at the first.
func interruptible() (context.Context, error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, nil
}

// exitCode is the error of a command that has said all there is to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

type versionCmd struct{}

func (versionCmd) Run(out io.Writer) error {
	_, err := fmt.Fprintln(out, "cartsshd", version())
	return err
}

type helpCmd struct{}

// Run is --help.
func (helpCmd) Run(ctx *kong.Context) error {
	top, err := kong.Trace(ctx.Kong, nil)
	if err != nil {
		return err
	}
	return top.PrintUsage(false)
}

// release is set by the linker.
var release = ""

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
