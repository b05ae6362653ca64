package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

type enterCmd struct {
	withImage  `embed:""`
	privileges `embed:""`
	Exec       bool     `help:"By the container's engine (docker exec), as its own user, with the tools mounted for as long."`
	Name       string   `arg:"" help:"The container, as in ssh NAME@host."`
	Cmd        []string `arg:"" optional:"" passthrough:"partial" help:"Command; the shell if none."`
}

// Validate is called by kong.
func (c enterCmd) Validate() error {
	if c.Exec && c.given() {
		return errors.New("--exec is by the engine, as its own user: it takes no --profile, --user, or any of the flags of that kind")
	}
	return nil
}

// outcome is how what was entered for came out. The zero value is a command that
// ended well.
type outcome struct {
	code   int
	signal string
	err    error // of ours; the command never ran, or nobody knows how it ended
}

// Run enters a container and exits as the command did: with its status, or 128
// and the number of the signal that ended it. 125 is ours, 126 and 127 are for
// a command that could not be run, or is not there, 254 is for what could not be
// recorded.
func (c enterCmd) Run(v *verbosity) error {
	c.Cmd = withoutDashes(c.Cmd)
	out := c.enter(v)
	if errors.Is(out.err, audit.ErrUnrecorded) {
		return failed(unrecordedExit, out.err)
	}
	if out.err != nil {
		return failed(out.code, out.err)
	}
	if out.code != 0 {
		return exitCode(out.code)
	}
	return nil
}

// withoutDashes is without what kong leaves in front of what it passes through.
func withoutDashes(words []string) []string {
	if len(words) > 0 && words[0] == "--" {
		return words[1:]
	}
	return words
}

// commandLine is the command that was given, or the shell.
func commandLine(words []string) (path string, argv []string) {
	if len(words) > 0 {
		return words[0], words
	}
	return "bash", shellArgs
}

var shellArgs = []string{"bash", "--rcfile", nsexec.Tools + "/.crashcartrc"}

func failed(code int, err error) error {
	fmt.Fprintln(os.Stderr, message(err))
	return exitCode(code)
}

// ourFailure has the exit code of `env` and `docker run`.
func ourFailure(err error) outcome { return outcome{code: 125, err: err} }

func (c enterCmd) enter(v *verbosity) outcome {
	cfg, err := c.config()
	if err != nil {
		return ourFailure(err)
	}
	record, err := audit.OpenHost(cfg.Record.Dir)
	if err != nil {
		return ourFailure(err)
	}
	defer record.Close()
	target, err := find(cfg, record, c.Name, v)
	if err != nil {
		return ourFailure(err)
	}
	defer target.Close()
	image, err := openFirst(cfg, v)
	if err != nil {
		return ourFailure(err)
	}
	defer image.Close()
	m := c.meta(target, image)
	cmd, err := c.command(target, &m)
	if err != nil {
		return ourFailure(errors.Join(err, record.Event(denied(m, err))))
	}
	defer cmd.Close()
	session, err := beginDurably(record, m)
	if err != nil {
		return ourFailure(err)
	}
	if m.PTY != nil && m.Kind == "shell" {
		tell("recorded as %s", session.ID())
	} else {
		v.say("recorded as %s", session.ID())
	}
	visit := &visit{cfg: cfg, target: target, image: image, session: session, cmd: cmd, name: c.Name, command: c.Cmd, terminal: atTerminal()}
	out := visit.run(c.Exec)
	if err := session.End(out.code, out.signal, out.reason()); err != nil {
		out.err = errors.Join(out.err, err)
	}
	return out
}

// command has the privileges that were asked for, and tells the record. By the
// engine, it is the engine's.
func (c enterCmd) command(target *router.Target, m *audit.Meta) (*nsexec.Cmd, error) {
	profile, err := c.profile()
	cmd := &nsexec.Cmd{Target: target.Process, Profile: profile}
	if c.Exec {
		m.Profile = "engine"
	}
	if err != nil || c.Exec {
		return cmd, err
	}
	given, err := cmd.Privileges()
	m.Profile, m.Privileges = profile.Name, (*audit.Privileges)(&given)
	return cmd, err
}

func (c enterCmd) meta(target *router.Target, image *tools) audit.Meta {
	m := meta("exec", c.Name, target, c.Cmd)
	if len(c.Cmd) == 0 {
		m.Kind = "shell"
	}
	m.Tools = image.ID()
	if atTerminal() {
		m.PTY = &audit.PTY{Term: os.Getenv("TERM")}
		if cols, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
			m.PTY.Cols, m.PTY.Rows = uint32(cols), uint32(rows)
		}
	}
	return m
}

// reason is for the record.
func (o outcome) reason() audit.Reason {
	if o.err != nil {
		return audit.Reason(o.err.Error())
	}
	return "exited"
}

// atTerminal tells whether somebody sits in front of us.
func atTerminal() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
}

// A visit is one command in a container, on the record.
type visit struct {
	cfg      *config.Config
	target   *router.Target
	image    *tools
	session  *audit.Session
	cmd      *nsexec.Cmd
	name     string   // of the container, as typed
	command  []string // none is the shell
	terminal bool
}

func (v *visit) run(byEngine bool) outcome {
	// From here on they are the command's, also those that come too early.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if byEngine {
		return v.exec(signals)
	}
	done, err := v.prepare()
	if err != nil {
		return ourFailure(err)
	}
	defer done()
	end := v.onStreams
	if v.terminal {
		end = v.onTerminal
	}
	return ended(v.cmd, end(v.cmd, signals))
}

// ended tells a command that is not there, or none, from what is our fault.
func ended(cmd *nsexec.Cmd, e entered) outcome {
	if join, ok := errors.AsType[*nsexec.JoinError](e.err); ok && join.Step == "execve" {
		if errors.Is(join, unix.ENOENT) {
			return outcome{code: 127, err: fmt.Errorf("%s: command not found", cmd.Path)}
		}
		return outcome{code: 126, err: fmt.Errorf("%s: %w", cmd.Path, join.Err)}
	}
	if e.err != nil {
		return ourFailure(e.err)
	}
	out := outcome{code: e.status.Code}
	if e.status.Signal != 0 {
		out.signal = strings.TrimPrefix(unix.SignalName(e.status.Signal), "SIG")
	}
	return out
}

// entered is what nsexec says.
type entered struct {
	status nsexec.Status
	err    error
}

// prepare completes the command, with a mount of the tools of its own.
func (v *visit) prepare() (done func(), err error) {
	mount, err := v.image.mountFor(v.target)
	if err != nil {
		return nil, err
	}
	v.cmd.ID, v.cmd.Tools, v.cmd.Env = v.session.ID(), mount, environ(v.target)
	v.cmd.Path, v.cmd.Args = commandLine(v.command)
	return func() { mount.Close() }, nil
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

// onStreams runs the command on our own streams.
func (v *visit) onStreams(cmd *nsexec.Cmd, signals <-chan os.Signal) entered {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return entered{err: err}
	}
	go passOn(signals, cmd.Signal)
	status, err := cmd.Wait()
	return entered{status, err}
}

// onTerminal gives the session a terminal of its own and ties ours to it.
func (v *visit) onTerminal(cmd *nsexec.Cmd, signals <-chan os.Signal) entered {
	tty, err := nsexec.OpenTTY()
	if err != nil {
		return entered{err: err}
	}
	defer tty.Close()
	cmd.TTY = tty
	v.resize(tty)
	if err := cmd.Start(); err != nil {
		return entered{err: err}
	}
	restore, err := raw()
	if err != nil {
		return entered{err: err}
	}
	defer restore()
	defer on(unix.SIGWINCH, func() { v.resize(tty) })()

	// Nobody waits for these two: they read until we exit.
	go passOn(signals, cmd.Signal)
	go io.Copy(v.session.Input(tty.Master), os.Stdin)
	shown := make(chan error, 1)
	go func() {
		_, err := io.Copy(v.session.Output(os.Stdout), tty.Master) // until EIO: nobody has the terminal open
		if errors.Is(err, audit.ErrUnrecorded) {
			cmd.End() // who is not recorded any longer does not go on
			shown <- err
		}
		close(shown)
	}()
	status, err := cmd.Wait()
	cmd.Close()
	if unrecorded := <-shown; unrecorded != nil {
		err = unrecorded
	}
	return entered{status, err}
}

// raw makes our terminal pass everything on.
func raw() (restore func(), err error) {
	state, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(int(os.Stdin.Fd()), state) }, nil
}

func (v *visit) resize(tty *nsexec.TTY) {
	if size, err := pty.GetsizeFull(os.Stdin); err == nil {
		_ = tty.Resize(uint32(size.Cols), uint32(size.Rows), uint32(size.X), uint32(size.Y))
		v.session.Resize(uint32(size.Cols), uint32(size.Rows))
	}
}

// passOn sends the signals that we get to the command.
func passOn(signals <-chan os.Signal, send func(unix.Signal) error) {
	for sig := range signals {
		_ = send(sig.(unix.Signal))
	}
}
