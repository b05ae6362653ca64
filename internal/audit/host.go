package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cartsshd/cartsshd/internal/flock"
)

// What is done at the host has a part of its own in the record: hostName has a
// journal and recordings, and in runningName a file for each session that runs.
const (
	hostName    = "host"
	runningName = "running"
)

// turnPatience is how long a process waits for its turn to write a line. Each
// takes some milliseconds; whoever takes this long is stopped, or its disk is.
const turnPatience = 5 * time.Second

// OpenHost opens that part of the record in dir which is for what root does at
// the host itself, dir/host. Many processes may have it open: each takes turns
// with the others for every line, and none holds it. No daemon is asked, since
// this is for when there is none, or it hangs.
//
// Sessions of processes that are no more are closed as lost first.
func OpenHost(dir string) (*Log, error) {
	l, err := openHost(dir)
	if err != nil {
		return nil, unrecorded(fmt.Errorf("%s: %w", dir, err))
	}
	if err := l.closeLost(); err != nil {
		return nil, errors.Join(unrecorded(fmt.Errorf("%s: %w", dir, err)), l.Close())
	}
	return l, nil
}

func openHost(dir string) (*Log, error) {
	parent, err := openTrusted(dir)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	l := &Log{disk: newDisk()}
	if l.root, err = subdirectory(parent, hostName); err != nil {
		return nil, err
	}
	if l.lock, err = l.root.Open("."); err != nil {
		return nil, errors.Join(err, l.root.Close())
	}
	if err := l.openHostInside(); err != nil {
		return nil, errors.Join(err, l.release())
	}
	return l, nil
}

// openTrusted opens a directory in which others cannot put things in the place
// of what is in it.
func openTrusted(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	defer self.Close()
	if err := trusted(self); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// subdirectory opens one, and makes it if it is not there.
func subdirectory(parent *os.Root, name string) (*os.Root, error) {
	if err := parent.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return parent.OpenRoot(name)
}

func (l *Log) openHostInside() (err error) {
	if err := l.openInside(); err != nil {
		return err
	}
	if l.running, err = subdirectory(l.root, runningName); err != nil {
		return err
	}
	f, err := l.root.OpenFile(journalName, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.turns = &turns{lock: l.lock}
	l.journal = &journal{file: f, disk: l.disk, turn: l.turn}
	return l.lock.Sync() // the names that were just made
}

// turns are how processes, and goroutines in them, take turns.
type turns struct {
	mine sync.Mutex // the lock of a file is all of the process's
	lock *os.File
}

func (t *turns) take() error {
	t.mine.Lock()
	err := flock.Within(t.lock, turnPatience)
	if err != nil {
		t.mine.Unlock()
	}
	return err
}

func (t *turns) pass() {
	_ = flock.Release(t.lock)
	t.mine.Unlock()
}

// turn waits for our turn to write. What others have written meanwhile is known
// then; what one left that was killed while it wrote is to be told of.
func (l *Log) turn() (notes []*Record, done func(), err error) {
	if err := l.turns.take(); err != nil {
		return nil, nil, err
	}
	if notes, err = l.catchUp(); err != nil {
		l.turns.pass()
		return nil, nil, err
	}
	return notes, func() { l.journal.undo(); l.turns.pass() }, nil
}

// catchUp goes to the end of the journal.
func (l *Log) catchUp() ([]*Record, error) {
	j := l.journal
	end, err := j.file.Seek(0, io.SeekEnd)
	if err != nil || end == j.good {
		return nil, err
	}
	whole, seq, err := lastRecord(j.file, end)
	if err != nil {
		return nil, err
	}
	var notes []*Record
	if whole < end {
		note, err := l.cutTorn(whole, end-whole)
		if err != nil {
			return nil, err
		}
		notes = append(notes, note)
	}
	j.good, j.seq = whole, seq
	return notes, nil
}

// lastRecord returns where the last whole line ends, and its number.
func lastRecord(f *os.File, end int64) (after int64, seq uint64, err error) {
	for size := int64(64 << 10); ; size *= 4 {
		from := max(0, end-size)
		buf := make([]byte, end-from)
		if _, err := f.ReadAt(buf, from); err != nil {
			return 0, 0, err
		}
		stop := bytes.LastIndexByte(buf, '\n')
		begin := bytes.LastIndexByte(buf[:max(stop, 0)], '\n')
		if begin < 0 && from > 0 {
			continue // longer than that
		}
		if stop < 0 {
			return 0, 0, nil
		}
		r, err := parseRecord(buf[begin+1 : stop])
		if err != nil { // somebody else's line: the number before it is further up
			left, err := readTail(f)
			return left.end, left.seq, err
		}
		return from + int64(stop) + 1, r.Seq, nil
	}
}

// undo takes away what could not be written whole, before others write on.
func (j *journal) undo() {
	if j.dirty && j.file.Truncate(j.good) == nil {
		j.dirty = false
	}
}

// mark keeps a file, locked as long as this process lives, that says which
// session it has; nil where a daemon keeps the record, which knows its own.
func (l *Log) mark(open *Record) (*os.File, error) {
	if l.running == nil {
		return nil, nil
	}
	if err := l.turns.take(); err != nil {
		return nil, err
	}
	defer l.turns.pass() // until then nobody takes it for a dead one's
	f, err := l.running.OpenFile(open.Session, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(flock.Try(f), write(f, appendLine(nil, open))); err != nil {
		return nil, errors.Join(err, l.unmark(f))
	}
	return f, nil
}

func (l *Log) unmark(f *os.File) error {
	if f == nil {
		return nil
	}
	return errors.Join(l.running.Remove(filepath.Base(f.Name())), f.Close())
}

// closeLost closes the sessions of processes that are no more.
func (l *Log) closeLost() error {
	dir, err := l.running.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.closeIfLost(name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) closeIfLost(name string) error {
	f, err := l.running.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has just ended
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if dead, err := l.dead(f); !dead || err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxLine))
	if err != nil {
		return err
	}
	if open, err := parseRecord(bytes.TrimSpace(text)); err == nil { // else it was killed before it began
		if err := l.journal.append(l.lost(open, ProcessLost)); err != nil {
			return err
		}
	}
	return l.running.Remove(name)
}

// dead tells whether the process that made a mark is no more, and nobody else
// has seen to it. The mark is then locked, by us.
func (l *Log) dead(mark *os.File) (bool, error) {
	if err := l.turns.take(); err != nil {
		return false, err
	}
	defer l.turns.pass()
	if err := flock.Try(mark); errors.Is(err, flock.ErrHeld) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	info, err := mark.Stat()
	return err == nil && info.Sys().(*syscall.Stat_t).Nlink > 0, err
}
