package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/engine"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

// exec has the container's engine run the command. The tools are where it sees
// them meanwhile.
func (v *visit) exec(signals <-chan os.Signal) outcome {
	socket, err := engineSocket(v.cfg, v.target)
	if err != nil {
		return ourFailure(err)
	}
	argv, err := v.argv()
	if err != nil {
		return outcome{code: 127, err: err}
	}
	if _, err := attach(v.target, v.image, func(m *mounted) { m.Users = append(m.Users, ourselves()) }); err != nil {
		return ourFailure(err)
	}
	defer leave(v.target)
	return v.attend(&engine.Exec{
		Socket: socket, Container: v.target.ID, Args: argv, Env: environ(v.target), TTY: v.terminal,
		Stdin: io.TeeReader(os.Stdin, v.session.Input(io.Discard)), Stdout: v.session.Output(os.Stdout), Stderr: v.session.Output(os.Stderr),
	}, signals)
}

// engineSocket is where the engine listens that has the container.
func engineSocket(c *config.Config, t *router.Target) (string, error) {
	r := c.Runtimes
	switch {
	case t.Runtime == "docker" && r.Docker != nil:
		return r.Docker.Socket, nil
	case t.Runtime == "podman" && r.Podman != nil && !strings.Contains(t.Name, "/"): // a user's has its own
		return r.Podman.Socket, nil
	}
	return "", fmt.Errorf("%s: its runtime, %s, has no exec API to ask: leave --exec out", t.ID, t.Runtime)
}

// leave takes the tools away, unless somebody else wants them.
func leave(t *router.Target) {
	l, err := openLedger()
	if err == nil {
		defer l.close()
		if m := l.of(t); m != nil {
			m.Users = slices.DeleteFunc(m.Users, func(u procID) bool { return u == ourselves() })
			err = l.release(m)
		}
		err = errors.Join(err, l.save())
	}
	if err != nil { // the command's status is what we are asked for
		tell("the tools stay in the container, until the next command at the host: %v", err)
	}
}

// argv is the command with its program's path: an engine looks for a bare name
// where the container has it.
func (v *visit) argv() ([]string, error) {
	if len(v.command) == 0 {
		return append([]string{nsexec.Tools + "/bin/bash"}, shellArgs[1:]...), nil
	}
	name := v.command[0]
	if path.Base(name) != name {
		return v.command, nil
	}
	mount, err := v.image.Mount(nil)
	if err != nil {
		return nil, err
	}
	defer mount.Close()
	for _, dir := range []string{"bin/", "sbin/"} {
		program, err := openBeneath(mount, dir+name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		program.Close()
		return append([]string{nsexec.Tools + "/" + dir + name}, v.command[1:]...), nil
	}
	return nil, fmt.Errorf("%s: command not found", name)
}

// attend stays with the command until it ends.
func (v *visit) attend(e *engine.Exec, signals <-chan os.Signal) outcome {
	if v.terminal {
		e.Cols, e.Rows = windowSize()
	}
	if err := e.Start(); err != nil {
		return notStarted(err)
	}
	if v.terminal {
		restore, err := raw()
		if err != nil {
			return ourFailure(errors.Join(err, e.Close()))
		}
		defer restore()
		defer on(unix.SIGWINCH, func() { v.resizeExec(e) })()
		_ = e.Resize(e.Cols, e.Rows) // not every engine takes the size at first
	}
	go passOn(signals, func(sig unix.Signal) error { return v.signal(e.PID(), sig) }) // until we exit
	code, err := e.Wait()
	if err != nil {
		return notStarted(err)
	}
	return outcome{code: code} // which may be 128+n for a signal, and may be the command's own
}

// notStarted tells a command that the engine could not run from an engine that
// is in trouble.
func notStarted(err error) outcome {
	if refused, ok := errors.AsType[*engine.StartError](err); ok {
		return outcome{code: refused.Code, err: err}
	}
	return ourFailure(err)
}

// signal sends one to a process that the engine calls the command's, if it is in
// the container.
func (v *visit) signal(pid int, sig unix.Signal) error {
	if pid <= 1 || mountNamespace(pid) != mountNamespace(v.target.PID) {
		return unix.ESRCH
	}
	return unix.Kill(pid, sig)
}

func (v *visit) resizeExec(e *engine.Exec) {
	cols, rows := windowSize()
	_ = e.Resize(cols, rows)
	v.session.Resize(uint32(cols), uint32(rows))
}

func windowSize() (cols, rows uint16) {
	w, h, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil {
		return 0, 0
	}
	return uint16(w), uint16(h)
}
