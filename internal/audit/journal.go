package audit

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const journalName = "journal.jsonl"

// journal is the file of records. Writers that come while the disk is busy
// gather in a batch and share its one write and one fdatasync; a writer alone
// does just those two, on its own goroutine.
//
// The file is not preallocated: on ext4 that changed nothing (0.31 ms an
// fdatasync either way). Overwriting zeroes written in advance saves 0.1 ms,
// and gives up that the file is JSON lines at every moment.
type journal struct {
	file *os.File
	disk *disk

	writing sync.Mutex // held for one batch on its way to the disk; guards the next two
	good    int64      // all before this offset is durable
	dirty   bool       // what lies after it was never acknowledged

	mu     sync.Mutex // never held while the disk works
	next   *batch     // still to be joined
	seq    uint64     // the last one given out
	missed missed
	closed bool

	// turn is how a line gets in among those of other processes; nil is for
	// who has the journal to himself.
	turn func() (notes []*Record, done func(), err error)
}

// batch is some lines that are written at once, or not at all.
type batch struct {
	lines  []byte
	before uint64 // seq of the line before it
	count  int    // of the callers' records
	missed missed // told by its first line
	done   chan struct{}
	err    error // valid when done
}

// missed are the records that could not be written, told as soon as one can.
type missed struct {
	count int
	why   error
}

// append writes records, one after the other, and returns when they are
// durable. After an error nothing of them is in the journal, or it is the end
// of it and will be taken away.
func (j *journal) append(records ...*Record) error {
	if j.turn != nil {
		notes, done, err := j.turn()
		if err != nil {
			return err
		}
		defer done()
		records = append(notes, records...)
	}
	b, leads, err := j.join(records)
	if err != nil {
		return err
	}
	if leads {
		j.commit(b)
	}
	return b.wait()
}

// start is append for who has something else to do before they wait.
func (j *journal) start(records ...*Record) (*batch, error) {
	if j.turn != nil {
		b := &batch{done: make(chan struct{}), err: j.append(records...)}
		close(b.done)
		return b, nil
	}
	b, leads, err := j.join(records)
	if leads {
		go j.commit(b) // whoever waits for b waits for it
	}
	return b, err
}

// wait returns when the batch is durable, or has failed.
func (b *batch) wait() error {
	<-b.done
	return b.err
}

// join adds records to the batch that is to go next. Who opens it leads: it is
// the one to commit it.
func (j *journal) join(records []*Record) (b *batch, leads bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, false, fmt.Errorf("%s: %w", journalName, os.ErrClosed)
	}
	if leads = j.next == nil; leads {
		j.next = j.open()
	}
	for _, r := range records {
		j.number(r)
		j.next.lines = appendLine(j.next.lines, r)
		j.next.count++
	}
	return j.next, leads, nil
}

// open makes a batch. The first after a fault begins by telling of it.
func (j *journal) open() *batch {
	b := &batch{before: j.seq, missed: j.missed, done: make(chan struct{})}
	j.missed = missed{}
	if b.missed.count > 0 {
		told := &Record{Event: JournalFault, Detail: fmt.Sprintf("records not written: %d: %v", b.missed.count, b.missed.why)}
		j.number(told)
		b.lines = appendLine(b.lines, told)
	}
	return b
}

// number gives a record its place. It happens under the lock, so that the order
// of the lines, of their numbers and of their times is one.
func (j *journal) number(r *Record) {
	j.seq++
	r.Seq, r.Time = j.seq, time.Now().UTC()
}

func (j *journal) commit(b *batch) {
	j.writing.Lock()
	defer j.writing.Unlock()
	defer close(b.done)
	if !j.seal(b) {
		return
	}
	if err := j.write(b.lines); err != nil {
		j.fail(b, err)
	}
}

// seal lets nobody join any more. It is false if b has failed already, with the
// batch before it.
func (j *journal) seal(b *batch) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if b.err != nil {
		return false
	}
	j.next = nil
	return true
}

// fail fails b, and those who wait behind it with numbers that now have no
// predecessor. The numbers are given out again.
func (j *journal) fail(b *batch, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq = b.before
	for _, b := range []*batch{b, j.next} {
		if b != nil {
			b.err = err
			j.missed.count += b.count + b.missed.count
		}
	}
	j.missed.why = err
	j.next = nil
}

// write makes lines durable. After an error the end of the file is unknown, and
// a failed sync has told its only time: the lines are cut off before the next
// ones are written, never synced again as if they were good.
func (j *journal) write(lines []byte) error {
	if j.dirty {
		if err := j.file.Truncate(j.good); err != nil {
			return err
		}
	}
	j.dirty = true
	if err := j.disk.try("write journal", func() error { return write(j.file, lines) }); err != nil {
		return err
	}
	if err := j.disk.try("sync journal", func() error { return fdatasync(j.file) }); err != nil {
		return err
	}
	j.dirty = false
	j.good += int64(len(lines))
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.mu.Unlock()
	if closed {
		return nil
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	return j.file.Close()
}

func write(f *os.File, p []byte) error {
	_, err := f.Write(p)
	return err
}

func fdatasync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = unix.EINTR; failed == unix.EINTR; {
			failed = unix.Fdatasync(int(fd))
		}
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: failed}
	}
	return nil
}
