// Package rig starts real containers for a test, and takes them away again.
//
// There is a dockerd of the tests' own (Docker), a user-namespaced container
// of runc's (Userns), and one that no runtime knows (Bare); all of them run
// busybox, so no registry is asked. Residue tells what a session has left
// behind.
//
// It needs root. Everything that it starts is ended by its PID, and dies with
// the test binary even where that is killed.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/internal/need"
)

// Container is a running container.
type Container struct {
	ID   string // as its runtime calls it; empty for Bare
	Name string
	PID  int // its init, in the host's PID namespace
}

// forever is the argv of a container that only has to be there. As PID 1 it
// ignores SIGTERM.
var forever = []string{"/bin/busybox", "sleep", "1000000"}

// busybox returns the path of a static busybox.
func busybox(t testing.TB) string {
	t.Helper()
	return need.Tool(t, "busybox", "busybox-static")
}

// process is a child of the test that dies with it.
type process struct {
	pid  int
	done chan struct{} // closed once it has been waited for
}

// start runs cmd from a thread that lives as long as cmd does: Pdeathsig is
// sent when the parent *thread* dies, and Go ends threads as it likes.
func start(cmd *exec.Cmd, atDeath syscall.Signal) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = atDeath
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// stop sends sig, and SIGKILL if that did not end it within the time given.
func (p *process) stop(sig syscall.Signal, patience time.Duration) {
	select {
	case <-p.done: // its PID may be another's by now
		return
	default:
	}
	syscall.Kill(p.pid, sig)
	syscall.Kill(p.pid, syscall.SIGCONT)
	select {
	case <-p.done:
	case <-time.After(patience):
		syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
	}
}

// output runs a program to its end.
func output(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("rig: %s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// await polls until ready, or until the time given is over.
func await(patience time.Duration, ready func() bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ready() {
			return nil
		}
	}
	return errors.New("not within " + patience.String())
}

// patience is how long what ought to happen soon may take.
const patience = 10 * time.Second

// tempDir is short, as the path of a Unix socket must be, and may be
// traversed by everybody, as the root of a user namespace must.
func tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "rig")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
}
