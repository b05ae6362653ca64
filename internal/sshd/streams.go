package sshd

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// process is a command that runs: a *nsexec.Cmd that has started.
type process interface {
	Wait() (nsexec.Status, error)
	Signal(unix.Signal) error
	End()
	Close() error
}

// streams are what a command reads from and writes to: a terminal, or three
// pipes.
type streams struct {
	session *session
	tty     *nsexec.TTY // or nil
	theirs  [3]*os.File // the command's ends of the pipes
	input   *os.File    // our end of what it reads
	outputs []output
	voice   *voice

	greeting string
	process  process
	over     chan struct{}  // closed when the command has ended
	flowing  sync.WaitGroup // outputs that have not ended, and asides

	mu     sync.Mutex
	asides int  // that are being told
	silent bool // there are no more of them
}

// output is one of the things that a command writes to.
type output struct {
	from *os.File
	to   io.Writer
	pool *buffers
}

// open makes the streams that the session asked for.
func (s *session) open() (*streams, error) {
	if s.pty != nil {
		return s.openTerminal()
	}
	return s.openPipes()
}

func (s *session) openTerminal() (*streams, error) {
	open := s.server.openTTY
	if open == nil {
		open = nsexec.OpenTTY
	}
	tty, err := open()
	if err != nil {
		return nil, err
	}
	st := &streams{
		session: s,
		tty:     tty,
		input:   tty.Master,
		voice:   &voice{to: s.screen()},
	}
	st.outputs = []output{{tty.Master, st.voice, screen}}
	err = tty.SetModes(s.pty.modes)
	if err == nil {
		z := s.pty.size
		err = tty.Resize(z.Cols, z.Rows, z.Width, z.Height)
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

func (s *session) openPipes() (*streams, error) {
	st := &streams{session: s}
	stdout, err := st.pipe(1)
	if err != nil {
		return nil, err
	}
	st.outputs = []output{{stdout, s.record.Output(s.ch), bulk}}
	stderr, err := st.pipe(2)
	if err == nil {
		st.voice = &voice{to: s.record.Output(s.ch.Stderr())}
		st.outputs = append(st.outputs, output{stderr, st.voice, bulk})
		st.input, err = st.pipe(0)
	}
	if err != nil {
		st.handedOver()
		st.Close()
		return nil, err
	}
	return st, nil
}

// pipeSize is what a command's pipe holds, and more than a terminal does.
const pipeSize = 1 << 20

// pipe makes the pipe for one of the command's descriptors, and returns our
// end. Ours is in Go's poller; a command expects its own to block.
func (st *streams) pipe(fd int) (*os.File, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// For bulk. Its pages are there only while they hold something, and a
	// smaller pipe will do too.
	unix.FcntlInt(uintptr(ends[0]), unix.F_SETPIPE_SZ, pipeSize)
	ours, theirs := ends[0], ends[1]
	if fd == 0 {
		ours, theirs = theirs, ours
	}
	st.theirs[fd] = os.NewFile(uintptr(theirs), "pipe")
	unix.SetNonblock(ours, true) // before NewFile, which looks
	return os.NewFile(uintptr(ours), "pipe"), nil
}

// handedOver closes the command's ends: it has its own by now, or never will.
func (st *streams) handedOver() {
	for _, f := range st.theirs {
		if f != nil {
			f.Close()
		}
	}
}

// flow lets everything flow, until finish.
func (st *streams) flow(p process) {
	st.process, st.over = p, make(chan struct{})
	for _, out := range st.outputs {
		st.flowing.Go(func() {
			defer st.session.server.guard("output")
			if st.greeting != "" {
				io.WriteString(out.to, st.greeting)
			}
			pump(out.to, out.from, out.pool)
		})
	}
	// Nobody waits for this one: it ends when the client has hung up, and the
	// client hangs up when we have closed (RFC 4254, section 5.3).
	go st.feed()
}

func (st *streams) feed() {
	defer st.session.server.guard("input")
	err := feed(heard{st.session.clock, st.session.record.Input(st.input)}, st.session.input())
	switch {
	case err != nil: // the command does not read any more
	case st.tty != nil:
		st.endTerminalInput()
	default:
		st.input.Close()
	}
}

// endTerminalInput types ^D, so that `echo ls | ssh -tt` comes to an end. It
// types it again, less and less often: a shell that turns its line editor on
// just then makes another character of a ^D that came before.
func (st *streams) endTerminalInput() {
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		if _, err := st.input.Write([]byte{st.endOfFile()}); err != nil {
			return
		}
		select {
		case <-st.over:
			return
		case <-time.After(wait):
		}
	}
}

// endOfFile is the character that the terminal takes for the end of its input.
func (st *streams) endOfFile() byte {
	const ctrlD = 4
	raw, err := st.tty.Master.SyscallConn()
	if err != nil {
		return ctrlD
	}
	eof := byte(ctrlD)
	raw.Control(func(fd uintptr) {
		if t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil && t.Cc[unix.VEOF] != 0 {
			eof = t.Cc[unix.VEOF]
		}
	})
	return eof
}

func (st *streams) resize(z size) {
	if st.tty == nil {
		return
	}
	st.tty.Resize(z.Cols, z.Rows, z.Width, z.Height)
	st.session.record.Resize(z.Cols, z.Rows)
}

// finish ends what the command has left behind, which has its ends of the pipes
// open, and waits until all of the output is with the client: all that there is
// when nothing of the command is left.
func (st *streams) finish() {
	if st == nil || st.process == nil {
		return
	}
	close(st.over)
	st.beSilent()
	go func() { // gone waits for it: meanwhile, the record is ended
		defer st.session.server.guard("end of a command")
		st.process.End()
		for _, out := range st.outputs {
			hangUp(out.from)
		}
	}()
	st.flowing.Wait()
}

// gone returns when nothing of the command is left.
func (st *streams) gone() {
	if st != nil && st.process != nil {
		st.process.End()
	}
}

// Close closes our ends.
func (st *streams) Close() error {
	if st.tty != nil {
		return st.tty.Close()
	}
	for _, out := range st.outputs {
		out.from.Close()
	}
	if st.input != nil {
		st.input.Close()
	}
	return nil
}
