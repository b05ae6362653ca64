package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"

	"github.com/creack/pty"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

type enterCmd struct {
	Config string   `short:"c" placeholder:"FILE" default:"/etc/cartsshd/config.yaml" help:"Configuration (${default}, if it is there)."`
	Image  string   `short:"i" placeholder:"FILE" help:"Tools image, instead of the configuration's."`
	Name   string   `arg:"" help:"The container, as in ssh NAME@host."`
	Cmd    []string `arg:"" optional:"" passthrough:"partial" help:"Command; the shell if none."`
}

// Run enters a container and exits as the command did: with its status, or 128
// and the number of the signal that ended it. 125 is ours, 126 and 127 are for
// a command that could not be run, or is not there.
func (c enterCmd) Run() error {
	if len(c.Cmd) > 0 && c.Cmd[0] == "--" {
		c.Cmd = c.Cmd[1:] // kong leaves it in front of what it passes through
	}
	cmd, done, err := c.prepare()
	if err != nil {
		return failed(125, err)
	}
	defer done()
	status, err := c.run(cmd)
	if join, ok := errors.AsType[*nsexec.JoinError](err); ok && join.Step == "execve" {
		if errors.Is(err, unix.ENOENT) {
			return failed(127, fmt.Errorf("%s: command not found", cmd.Path))
		}
		return failed(126, fmt.Errorf("%s: %w", cmd.Path, join.Err))
	}
	if err != nil {
		return failed(125, err)
	}
	if status.Code != 0 {
		return exitCode(status.Code)
	}
	return nil
}

func failed(code int, err error) error {
	fmt.Fprintln(os.Stderr, message(err))
	return exitCode(code)
}

// prepare finds the container and the tools.
func (c enterCmd) prepare() (_ *nsexec.Cmd, done func(), err error) {
	cfg, err := c.config()
	if err != nil {
		return nil, nil, err
	}
	ref, err := router.ParseRef(c.Name)
	if err != nil {
		return nil, nil, err
	}
	table := router.Table{Runtimes: runtimes(cfg.Runtimes)}
	target, err := table.Resolve(context.Background(), ref)
	if err != nil {
		return nil, nil, err
	}
	userns, err := nsexec.Userns(target.Process)
	if err != nil {
		return nil, nil, err
	}
	image, err := firstTools(cfg.Image)
	if err != nil {
		return nil, nil, err
	}
	defer image.Close() // the mount keeps what it needs
	tools, err := image.Mount(userns)
	if err != nil {
		return nil, nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, nil, err
	}
	cmd := &nsexec.Cmd{ID: id.String(), Target: target.Process, Tools: tools, Path: "bash", Args: c.Cmd, Env: environ(target)}
	if len(c.Cmd) > 0 {
		cmd.Path = c.Cmd[0]
	}
	if len(c.Cmd) == 0 {
		cmd.Args = []string{"bash", "--rcfile", nsexec.Tools + "/.crashcartrc"}
	}
	return cmd, func() {
		tools.Close()
		target.Close()
	}, nil
}

// environ is the tools' own, and what they need to know of our terminal.
func environ(target *router.Target) []string {
	env := append(nsexec.Environ(), "CARTSSHD_TARGET="+cmp.Or(target.Name, target.ID))
	var ours []string
	for _, name := range []string{"TERM", "COLORTERM", "LANG", "LC_ALL", "LC_CTYPE"} {
		if value, ok := os.LookupEnv(name); ok {
			ours = append(ours, name+"="+value)
		}
	}
	return append(env, nsexec.Locale(ours)...)
}

// config is the file's, or the defaults where there is none and none was named.
func (c enterCmd) config() (*config.Config, error) {
	cfg, err := config.Load(c.Config)
	if errors.Is(err, fs.ErrNotExist) && c.Config == "/etc/cartsshd/config.yaml" {
		cfg, err = config.Default(), nil
	}
	if err != nil {
		return nil, err
	}
	if c.Image != "" {
		cfg.Image = config.Images{{Path: c.Image}}
	}
	return cfg, nil
}

// run runs the command on our own streams, or on a terminal of its own if ours
// are one.
func (c enterCmd) run(cmd *nsexec.Cmd) (nsexec.Status, error) {
	defer cmd.Close()
	// From here on they are the command's, also those that come too early.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		return runOnTerminal(cmd, signals)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return nsexec.Status{}, err
	}
	go passOn(signals, cmd)
	return cmd.Wait()
}

// runOnTerminal gives the session a terminal of its own and ties ours to it.
func runOnTerminal(cmd *nsexec.Cmd, signals <-chan os.Signal) (nsexec.Status, error) {
	tty, err := nsexec.OpenTTY()
	if err != nil {
		return nsexec.Status{}, err
	}
	defer tty.Close()
	cmd.TTY = tty
	resize(tty)
	if err := cmd.Start(); err != nil {
		return nsexec.Status{}, err
	}
	state, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return nsexec.Status{}, err
	}
	defer term.Restore(int(os.Stdin.Fd()), state)
	defer on(unix.SIGWINCH, func() { resize(tty) })()

	// Nobody waits for these two: they read until we exit.
	go passOn(signals, cmd)
	go io.Copy(tty.Master, os.Stdin)
	shown := make(chan struct{})
	go func() {
		io.Copy(os.Stdout, tty.Master) // until EIO: nobody has the terminal open
		close(shown)
	}()
	status, err := cmd.Wait()
	cmd.Close()
	<-shown
	return status, err
}

func resize(tty *nsexec.TTY) {
	if size, err := pty.GetsizeFull(os.Stdin); err == nil {
		_ = tty.Resize(uint32(size.Cols), uint32(size.Rows), uint32(size.X), uint32(size.Y))
	}
}

// passOn sends the signals that we get to the command.
func passOn(signals <-chan os.Signal, cmd *nsexec.Cmd) {
	for sig := range signals {
		_ = cmd.Signal(sig.(unix.Signal))
	}
}
