package nsexec

import "time"

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
