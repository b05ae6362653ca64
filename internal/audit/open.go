package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/cartsshd/cartsshd/internal/flock"
)

// Open opens the record in dir, and makes dir (0700) if it is not there. One
// process at a time may have it open.
//
// What the last daemon left is put in order first, and told in the journal: a
// torn last line is moved to a file of its own, recordings are made playable,
// and sessions that were open are closed as lost. That Open returns without an
// error is proof that the journal can be written.
func Open(dir string) (*Log, error) {
	l, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", dir, err)
	}
	if err := l.openJournal(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit: %s: %w", dir, err), l.release())
	}
	return l, nil
}

// openDir opens the directories, and holds on to them: what is renamed or put
// in their place later is not written to.
func openDir(dir string) (_ *Log, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Log{disk: newDisk()}
	if l.root, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	if l.lock, err = l.root.Open("."); err != nil {
		return nil, errors.Join(err, l.root.Close())
	}
	if err := flock.Try(l.lock); err != nil {
		if errors.Is(err, flock.ErrHeld) {
			err = errors.New("in use by another cartsshd: each needs a record of its own")
		}
		return nil, errors.Join(err, l.release())
	}
	if err := l.openInside(); err != nil {
		return nil, errors.Join(err, l.release())
	}
	return l, nil
}

func (l *Log) openInside() (err error) {
	if err := trusted(l.lock); err != nil {
		return err
	}
	if l.recordings, err = subdirectory(l.root, shelfName); err != nil {
		return err
	}
	if l.shelf, err = l.recordings.Open("."); err != nil {
		return err
	}
	return trusted(l.shelf)
}

// trusted refuses a directory in which others could put things in our place.
func trusted(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("mode %04o: others may write to the record (try: chmod go-w)", info.Mode().Perm())
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, not to %d who keeps the record", owner, os.Geteuid())
	}
	return nil
}

func (l *Log) openJournal() error {
	f, err := l.root.OpenFile(journalName, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.journal = &journal{file: f, disk: l.disk}
	if err := l.recover(); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// recover puts the journal in order and says so in it, ending with JournalOpen.
// All of that is one write: either the next daemon finds all of it, or nothing.
func (l *Log) recover() error {
	if err := l.lock.Sync(); err != nil { // the names that were just made
		return err
	}
	left, err := readTail(l.journal.file)
	if err != nil {
		return err
	}
	var notes []*Record
	if left.torn > 0 {
		note, err := l.cutTorn(left.end, left.torn)
		if err != nil {
			return err
		}
		notes = append(notes, note)
	}
	for _, bad := range left.bad {
		notes = append(notes, &Record{Event: JournalTorn, Detail: bad.Error()})
	}
	for _, open := range left.open {
		notes = append(notes, l.lost(open, DaemonLost))
	}
	l.journal.seq, l.journal.good = left.seq, left.end
	return l.journal.append(append(notes, &Record{Event: JournalOpen, Detail: fmt.Sprintf("pid %d", os.Getpid())})...)
}

// cutTorn takes a torn last line away, and returns what is to be told of it.
func (l *Log) cutTorn(at, size int64) (*Record, error) {
	aside, err := l.setAside(io.NewSectionReader(l.journal.file, at, size))
	if err != nil {
		return nil, err
	}
	note := &Record{Event: JournalTorn, Detail: fmt.Sprintf("line at byte %d ended after %d bytes; they are in %s", at, size, aside)}
	return note, l.journal.file.Truncate(at)
}

// tail is what the last daemon left in the journal.
type tail struct {
	seq  uint64   // of its last record
	end  int64    // of its last whole line
	torn int64    // bytes after that
	open []Record // sessions, in the order in which they began
	bad  []error  // lines that are no records
}

// readTail reads the journal from the last JournalOpen on: sessions from before
// it were closed with it, and a journal can be long.
func readTail(f *os.File) (tail, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return tail{}, err
	}
	from, err := lastOpen(f, end)
	if err != nil {
		return tail{}, err
	}
	t := tail{end: from}
	open := map[string]Record{}
	for l, err := range readLines(io.NewSectionReader(f, from, end-from)) {
		if errors.Is(err, ErrTorn) {
			break
		}
		if err != nil {
			return t, err
		}
		t.end = from + l.at + int64(len(l.text)) + 1
		r, err := parseRecord(l.text)
		if err != nil {
			t.bad = append(t.bad, fmt.Errorf("line at byte %d: %w", from+l.at, err))
			continue
		}
		t.seq = r.Seq
		switch r.Event {
		case SessionOpen:
			open[r.Session] = r
		case SessionClose:
			delete(open, r.Session)
		}
	}
	t.open = slices.SortedFunc(maps.Values(open), func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	t.torn = end - t.end
	return t, nil
}

// lastOpen finds the last line that is a JournalOpen, looking from the end, or
// the begin of the file. Quotes within strings are escaped, so that no text can
// be taken for it.
func lastOpen(f io.ReaderAt, end int64) (int64, error) {
	const step, overlap = 1 << 20, 1 << 10
	needle := []byte(`"event":"` + JournalOpen + `"`)
	buf := make([]byte, step+overlap)
	for to := end; to > 0; to -= step {
		from := max(0, to-step)
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-from)], from)
		if err != nil && err != io.EOF {
			return 0, err
		}
		at := bytes.LastIndex(buf[:n], needle)
		if at < 0 {
			continue
		}
		if begin := bytes.LastIndexByte(buf[:at], '\n'); begin >= 0 {
			return from + int64(begin) + 1, nil
		}
	}
	return 0, nil
}

// setAside keeps what a torn line has left: it may be all there is of the last
// moment. The file is on the disk before the journal is cut.
func (l *Log) setAside(torn io.Reader) (name string, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	name = "journal.torn." + id.String()
	f, err := l.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, torn)
	return name, errors.Join(err, f.Sync(), f.Close(), l.lock.Sync())
}

// lost is the close of a session that whoever ran it did not see the end of.
func (l *Log) lost(open Record, why Reason) *Record {
	closed := open
	closed.Event = SessionClose
	closed.Command, closed.CommandBytes, closed.CommandSHA256, closed.Argv = "", 0, "", nil
	closed.Exit = &Exit{Code: -1, Reason: why}
	if open.Recording != nil {
		r := l.salvage(open.Recording.Name)
		closed.Recording = &r
	}
	return &closed
}

// salvage makes the recording of a lost session playable, and takes its hash.
func (l *Log) salvage(name string) Recording {
	size, sum, err := l.mend(name)
	if err != nil {
		return Recording{Name: name, Bytes: size, Error: err.Error()}
	}
	return Recording{Name: name, Bytes: size, SHA256: sum}
}

func (l *Log) mend(name string) (size int64, sum string, err error) {
	f, err := l.recordings.OpenFile(path.Base(name), os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	whole := sha256.New()
	var torn []byte
	for line, err := range readLines(io.TeeReader(f, whole)) {
		if errors.Is(err, ErrTorn) {
			size, torn = line.at, slices.Clone(line.text)
			break
		}
		if err != nil {
			return size, "", err
		}
		size = line.at + int64(len(line.text)) + 1
	}
	if torn == nil {
		return size, hex.EncodeToString(whole.Sum(nil)), fdatasync(f)
	}
	if err := f.Truncate(size); err != nil {
		return size, "", err
	}
	if err := write(f, ended(torn)); err != nil {
		return size, "", err
	}
	if err := fdatasync(f); err != nil {
		return size, "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return size, "", err
	}
	whole.Reset()
	size, err = io.Copy(whole, f)
	return size, hex.EncodeToString(whole.Sum(nil)), err
}

// ended ends an event that was cut off, dropping no more than the half of an
// escape or of a character. Of a line too short for that nothing is left.
func ended(torn []byte) []byte {
	if !strings.HasPrefix(string(torn), "[") {
		return nil
	}
	for cut := range min(len(torn), len(`\u0000`)+1) {
		line := append(bytes.Clone(torn[:len(torn)-cut]), `"]`...)
		if _, err := parseFrame(line); err == nil && json.Valid(line) && utf8.Valid(line) {
			return append(line, '\n')
		}
	}
	return nil
}
