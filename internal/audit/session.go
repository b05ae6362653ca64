package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// Session is the record of one session.
type Session struct {
	log       *Log
	opened    Record // as written, less the command
	opening   *batch // that line, on its way to the disk
	recording *recording
	mark      *os.File // of a session at the host
	failed    chan struct{}
	in, out   atomic.Int64
	end       first
}

// ID is a UUIDv7.
func (s *Session) ID() string { return s.opened.Session }

// Durable returns when the session's opening is on the disk. With an error it is
// not, and the session must not run. It may be called more than once.
func (s *Session) Durable() error {
	err := s.opening.wait()
	if err != nil {
		s.discard()
	}
	return unrecorded(err)
}

// Output returns a writer that records, then writes to w: failing to record is
// failing to write, with an error that is ErrUnrecorded. Without a pty it
// counts bytes only.
func (s *Session) Output(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if err := s.Durable(); err != nil {
			return 0, err
		}
		if s.recording != nil {
			if err := s.recording.add('o', p); err != nil {
				return 0, unrecorded(err)
			}
		}
		n, err := w.Write(p)
		s.out.Add(int64(n))
		return n, err
	})
}

// Input counts what the person sent; it is not kept.
func (s *Session) Input(w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		n, err := w.Write(p)
		s.in.Add(int64(n))
		return n, err
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Resize records a new terminal size.
func (s *Session) Resize(cols, rows uint32) {
	if s.recording == nil {
		return
	}
	// An error here is the next Output's, and Failed tells of it.
	_ = s.recording.add('r', fmt.Appendf(nil, "%dx%d", cols, rows))
}

// Failed is closed as soon as the recording cannot be written any more.
func (s *Session) Failed() <-chan struct{} { return s.failed }

// End closes the recording and writes that the session closed: durable on
// return. Signal is empty unless one ended the command. A second End changes
// nothing and returns what the first did.
func (s *Session) End(code int, signal string, reason Reason) error {
	return s.end.do(func() error {
		if err := s.Durable(); err != nil {
			return err // no close without an opening
		}
		if err := s.close(Exit{Code: code, Signal: signal, Reason: reason}); err != nil {
			return unrecorded(err) // a mark stays, and the next process tries again
		}
		return s.log.unmark(s.mark)
	})
}

// close makes the recording durable before the line that vouches for it: what
// the journal says of a recording is true whenever it says it.
func (s *Session) close(exit Exit) error {
	closed := s.opened
	closed.Event = SessionClose
	var failed error
	if s.recording != nil {
		var whole Recording
		whole, failed = s.recording.finish(exit.String())
		closed.Recording = &whole
	}
	exit.BytesIn, exit.BytesOut = s.in.Load(), s.out.Load()
	closed.Exit = &exit
	return errors.Join(failed, s.log.journal.append(&closed))
}

// String is the last marker of a recording.
func (e Exit) String() string {
	if e.Signal != "" {
		return fmt.Sprintf("signal %s: %s", e.Signal, e.Reason)
	}
	return fmt.Sprintf("exit %d: %s", e.Code, e.Reason)
}

// discard takes the recording of a session away that never was.
func (s *Session) discard() {
	if s.recording != nil {
		s.recording.discard()
	}
	_ = s.log.unmark(s.mark) // or the next process closes it as lost
	s.mark = nil
}
