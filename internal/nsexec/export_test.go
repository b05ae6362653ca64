package nsexec

import (
	"testing"
	"time"
)

// StartSlowly is Start where the daemon is late to hear of the init.
func (c *Cmd) StartSlowly(pause time.Duration) error {
	files, p, err := c.gather()
	defer files.close()
	if err != nil {
		return err
	}
	blob, err := p.encode()
	if err != nil {
		return err
	}
	s := &session{cgroup: files.cgroup}
	if err := s.fork(files.list, c.ID); err != nil {
		return err
	}
	if _, err := s.socket.Write(blob); err != nil {
		return err
	}
	time.Sleep(pause)
	if err := s.meet(p, nil); err != nil {
		return err
	}
	files.cgroup = nil
	c.s = s
	return nil
}

// InitPID is that of the session's init.
func (c *Cmd) InitPID(t testing.TB) int {
	pid, err := pidOf(c.s.init)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// NestAnyway has sessions under the container's limits nested in its cgroup, as
// if the controllers were there.
func NestAnyway() (undo func()) {
	nestAnyway = true
	return func() { nestAnyway = false }
}
