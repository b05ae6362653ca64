package nsexec

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the helper says, in the top byte of a word. The first word of all is
// the bare PID of the session's init. See helper.c.
const (
	saysRunning = 1
	saysFailed  = 2 // step in bits 32 to 55, errno below
	saysExited  = 3 // status as of wait(2)

	notForked = 0xffffff // in place of a step
)

// startTimeout bounds the way in. Most of it takes less than a millisecond, but
// a container may hang a path look-up (FUSE).
const startTimeout = 10 * time.Second

// endTimeout is how long a killed session may take to be gone, before it is
// helped along, and again each time.
const endTimeout = time.Second

// session is the running state of a Cmd.
type session struct {
	cgroup *cgroup
	socket *os.File // to the init; closing it ends the session
	init   *os.File // pidfd
	early  uint64   // that the command has exited, if it has before we knew its init

	ended, closed sync.Once
	result        error // of the close
}

func (c *Cmd) start() error {
	if c.s != nil {
		return errors.New("nsexec: already started")
	}
	files, p, err := c.gather()
	defer c.forget()
	defer files.close()
	if err != nil {
		return err
	}
	if c.Ready != nil {
		if err := c.Ready(); err != nil {
			return err
		}
	}
	s := &session{cgroup: files.cgroup}
	if err := s.launch(p, files.list, c.ID); err != nil {
		return err
	}
	files.cgroup = nil // the session's, from now on
	c.s = s
	s.cgroup.settle(c.Profile)
	if c.TTY != nil {
		return c.TTY.release()
	}
	return nil
}

// Plan describes how the command would enter, a system call a line, without
// running it.
func (c *Cmd) Plan() (string, error) {
	r, _, err := c.survey()
	if err != nil {
		return "", err
	}
	defer c.forget()
	return c.entry(r).String(), nil
}

// inherited is what the helper is given, in the order of its descriptors.
type inherited struct {
	list   []*os.File
	own    []*os.File // made for this start, closed after it
	cgroup *cgroup
}

func (h *inherited) close() {
	for _, f := range h.own {
		f.Close()
	}
	if h.cgroup != nil {
		_ = h.cgroup.close()
	}
}

// survey looks at the container, and makes of it what the session is to have. Who
// has asked before gets the same answer. The root is nil if it is our own.
func (c *Cmd) survey() (room, *os.File, error) {
	if c.seen != nil {
		return c.seen.room, c.seen.root, nil
	}
	if c.Target == nil {
		return room{}, nil, errors.New("nsexec: a Cmd needs a Target")
	}
	r, root, err := look(c.Target)
	if err != nil {
		return room{}, nil, err
	}
	joins := r.namespaces & unix.CLONE_NEWNS
	if err = r.readFilters(c.Target); err == nil {
		r, err = c.Profile.under(r)
	}
	if err == nil && joins != r.namespaces&unix.CLONE_NEWNS {
		root.Close()
		root, err = openPath("/") // its root is in a namespace that is not joined
	}
	if err == nil {
		r.top, err = topInTime(r.pid, root)
	}
	if err != nil {
		root.Close()
		return room{}, nil, err
	}
	r.search = []string{Tools + "/bin", Tools + "/sbin"}
	c.seen = &seen{r, root}
	return r, root, nil
}

type seen struct {
	room room
	root *os.File
}

// forget closes what a survey has opened.
func (c *Cmd) forget() {
	if c.seen != nil {
		c.seen.root.Close()
		c.seen = nil
	}
}

// gather makes what the session is to own, and compiles the plan.
func (c *Cmd) gather() (*inherited, *plan, error) {
	h := &inherited{}
	if c.Tools == nil {
		return h, nil, errors.New("nsexec: a Cmd needs Tools")
	}
	r, root, err := c.survey()
	if err != nil {
		return h, nil, err
	}
	dev, err := h.made(newDev())
	if err != nil {
		return h, nil, err
	}
	pts, err := c.terminal(h, r)
	if err != nil {
		return h, nil, err
	}
	proc, top := root, root // in their place, where there are none
	if r.label != "" {
		if proc, err = h.made(newProc()); err != nil {
			return h, nil, err
		}
	}
	if r.top != nil {
		if top, err = h.made(newTop(r.top)); err != nil {
			return h, nil, err
		}
	}
	streams, err := c.streams(h)
	if err != nil {
		return h, nil, err
	}
	if h.cgroup, r.joins, err = c.cgroup(r); err != nil {
		return h, nil, err
	}
	g := h.cgroup
	h.list = append(streams, nil, c.Target, root, c.Tools, dev, pts, g.dir, g.run, g.kill, proc, top)
	return h, c.entry(r), nil
}

// cgroup makes the session's, and returns what it has to join besides.
func (c *Cmd) cgroup(r room) (g *cgroup, joins []string, err error) {
	pid, err := pidOf(c.Target)
	if err != nil {
		return nil, nil, err
	}
	above, err := c.Profile.below(pid)
	if err != nil {
		return nil, nil, err
	}
	if g, err = newCgroup(c.ID, above); err != nil {
		return nil, nil, err
	}
	if c.Profile.TargetCgroup {
		joins, err = targetCgroups(pid)
	}
	if err == nil {
		var more []string
		more, err = g.limit(c.Profile) // the narrower ones last
		joins = append(joins, more...)
	}
	if err == nil {
		err = errors.Join(g.give(r), alive(c.Target)) // whose number it was that we asked of
	}
	if err != nil {
		return nil, nil, errors.Join(err, g.close())
	}
	return g, joins, nil
}

// made keeps what was made until the session has it.
func (h *inherited) made(f *os.File, err error) (*os.File, error) {
	if err == nil {
		h.own = append(h.own, f)
	}
	return f, err
}

// terminal returns the devpts instance of the session. A session without a
// terminal has one too: programs that make terminals (script, tmux) must not
// make them where the container's root can read them.
func (c *Cmd) terminal(h *inherited, r room) (*os.File, error) {
	if c.TTY == nil {
		return h.made(newPts())
	}
	uid, err := r.uids.out(r.user.UID)
	if err != nil {
		return nil, err
	}
	gid, err := r.gids.out(r.user.GID)
	if err != nil {
		return nil, err
	}
	if err := control(c.TTY.slave, func(fd int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return nil, &JoinError{Step: "chown terminal", Err: err}
	}
	return c.TTY.pts, nil
}

func (c *Cmd) streams(h *inherited) ([]*os.File, error) {
	if c.TTY != nil {
		return []*os.File{c.TTY.slave, c.TTY.slave, c.TTY.slave}, nil
	}
	list := []*os.File{c.Stdin, c.Stdout, c.Stderr}
	for i, f := range list {
		if f != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		h.own = append(h.own, null)
		list[i] = null
	}
	return list, nil
}

// launch has the session's first process forked and sends it the plan.
func (s *session) launch(p *plan, files []*os.File, id string) error {
	blob, err := p.encode()
	if err != nil {
		return &JoinError{Step: "execve", Err: err} // E2BIG, as from execve itself
	}
	if err := s.fork(files, id); err != nil {
		return err
	}
	if err = s.meet(p, blob); err == nil {
		return nil
	}
	if s.init != nil {
		s.end()
		return err
	}
	s.cgroup.killAll() // the first process, should it hang
	s.socket.Close()
	return err
}

// fork starts the first process with these descriptors, of which fdSocket is
// its end of the session's socket.
func (s *session) fork(files []*os.File, id string) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("nsexec: socketpair: %w", err)
	}
	files[fdSocket] = os.NewFile(uintptr(pair[1]), "session's end")
	defer files[fdSocket].Close()
	_ = unix.SetNonblock(pair[0], true)
	s.socket = os.NewFile(uintptr(pair[0]), "session")
	if err := s.cgroup.tree.fork("cartsshd: session "+id, files); err != nil {
		s.socket.Close()
		return &JoinError{Step: "ask the guard", Err: err}
	}
	return nil
}

// meet sends the plan and learns of the init, and that the command runs. The
// words come from three processes, in any order.
func (s *session) meet(p *plan, blob []byte) error {
	_ = s.socket.SetDeadline(time.Now().Add(startTimeout))
	if _, err := s.socket.Write(blob); err != nil {
		return &JoinError{Step: "send plan", Err: err}
	}
	var failed error
	for running := false; s.init == nil || !running && failed == nil; {
		word, err := s.word()
		if err != nil {
			return cmp.Or[error](failed, &JoinError{Step: "start", Err: err})
		}
		switch word >> 56 {
		case saysRunning:
			running = true
		case saysFailed:
			failed = p.failure(word)
		case saysExited:
			s.early = word
		default:
			if s.init != nil {
				return &JoinError{Step: "adopt init", Err: errors.New("told two PIDs")}
			}
			if err := s.adopt(int(word)); err != nil {
				return err
			}
		}
	}
	_ = s.socket.SetDeadline(time.Time{})
	return failed
}

// adopt opens the init. It must be in this session's cgroup: who says the PID may
// be in the hands of somebody in the container, and the number another's by now.
func (s *session) adopt(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return &JoinError{Step: "pidfd_open init", Err: err}
	}
	if err := s.cgroup.has(pid); err != nil {
		unix.Close(fd)
		return &JoinError{Step: "adopt init", Err: err}
	}
	s.init = os.NewFile(uintptr(fd), "pidfd")
	return s.signal(0) // so that it knows, and may end
}

// word is the next thing that the helper says.
func (s *session) word() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.socket, b[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// failure names the step that a word says has failed.
func (p *plan) failure(word uint64) error {
	k := int(word >> 32 & 0xffffff)
	if k == notForked {
		return &JoinError{Step: "fork", Err: unix.Errno(word & 0xffffffff)}
	}
	if k >= len(p.steps) {
		return &JoinError{Step: "start", Err: errors.New("the helper names a step that is not in the plan")}
	}
	return &JoinError{Step: p.steps[k].label, Err: unix.Errno(word & 0xffffffff)}
}

func (s *session) wait() (Status, error) {
	word := s.early
	for word>>56 != saysExited {
		var err error
		if word, err = s.word(); err != nil {
			return Status{}, ErrLost
		}
	}
	w := syscall.WaitStatus(word & 0xffffffff)
	if w.Signaled() {
		memory := w.Signal() == unix.SIGKILL && s.cgroup.outOfMemory()
		return Status{Code: 128 + int(w.Signal()), Signal: w.Signal(), Core: w.CoreDump(), Memory: memory}, nil
	}
	return Status{Code: w.ExitStatus()}, nil
}

// signal has the init send a signal. It does not wait: an init that somebody has
// stopped does not read.
func (s *session) signal(sig unix.Signal) error {
	conn, err := s.socket.SyscallConn()
	if err != nil {
		return err
	}
	b := binary.NativeEndian.AppendUint64(nil, uint64(sig))
	closed := conn.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	})
	if closed != nil || err == unix.EPIPE {
		return nil // it has ended
	}
	return err
}

// end closes the socket, upon which the init kills the session and reaps it, as
// it does when the command ends or the daemon dies. It is helped along where it
// cannot: where the session has stopped it, or somebody holds it by ptrace(2).
func (s *session) end() {
	s.socket.Close()
	for _, help := range []func(){
		func() { s.signalInit(unix.SIGCONT) },
		func() { s.cgroup.killRun(); s.signalInit(unix.SIGCONT) },
		func() { s.cgroup.killAll(); s.signalInit(unix.SIGKILL) },
	} {
		help()
		_ = s.init.SetReadDeadline(time.Now().Add(endTimeout))
		if waitInit(s.init) == nil {
			break
		}
	}
	s.init.Close()
	s.cgroup.killAll() // nothing, unless the container killed our init
}

func (s *session) signalInit(sig unix.Signal) {
	_ = control(s.init, func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
}

// waitInit waits for the end of a process by its pidfd, without holding a thread.
func waitInit(pidfd *os.File) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// Privileges are what a command is given, for the record.
type Privileges struct {
	User         string   // UID:GID[,GID…], in the numbers of the container
	Capabilities []string // permitted; as in Capabilities
	Namespaces   []string // that are joined
	Seccomp      string   // in words
	LSM          string   // label, if there is one to be taken
	Limits       string   // in words
}

// Privileges says what Start will give, if the container does not change
// meanwhile.
func (c *Cmd) Privileges() (Privileges, error) {
	r, _, err := c.survey()
	if err != nil {
		return Privileges{}, err
	}
	return Privileges{
		User:         r.user.String(),
		Capabilities: capNames(r.caps),
		Namespaces:   strings.Fields(nsFiles(r.namespaces)),
		Seccomp:      r.seccomp(),
		LSM:          strings.TrimPrefix(string(r.label), "exec "),
		Limits:       c.Profile.limits(),
	}, nil
}

func (r room) seccomp() string {
	switch {
	case r.unconfined:
		return "none"
	case r.filtersErr != nil:
		return "ours; the container's not taken over: " + r.filtersErr.Error()
	case len(r.filters) == 0:
		return "ours; the container has none"
	case !r.livable():
		return "ours and the container's, but not for the session's init"
	}
	return "ours and the container's"
}
