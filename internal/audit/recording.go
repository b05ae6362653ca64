package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"os"
	"path"
	"reflect"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

const shelfName = "recordings"

// The recorder's measures. What is on the screen is in memory at once, and in
// the file a tick later; a session that is still costs no memory for it and
// wakes nobody up.
const (
	tick   = 8 * time.Millisecond
	urgent = 256 << 10 // pending bytes that do not wait for the tick
	full   = 1 << 20   // pending bytes at which output waits for the disk
	piece  = 64 << 10  // most bytes in one event
	chunk  = 256 << 10 // bytes worth a write(2)
)

var errEnded = errors.New("session has ended")

// header is the first line of asciicast v2. See
// https://docs.asciinema.org/manual/asciicast/v2/.
type header struct {
	Version   int    `json:"version"`
	Width     uint32 `json:"width"`
	Height    uint32 `json:"height"`
	Timestamp int64  `json:"timestamp"`
	Title     string `json:"title"`
	Env       env    `json:"env"`
}

type env struct {
	Term   string `json:"TERM"`
	Reason string `json:"REASON,omitempty"` // that the person gave
}

// recording is the asciicast of one session.
type recording struct {
	log   *Log
	file  *os.File
	name  string
	start time.Time

	// Of whoever drains, or of finish.
	sum   hash.Hash // of the file so far
	size  int64
	carry []byte // the begin of a character that output has not finished

	mu       sync.Mutex
	moved    sync.Cond // pending was taken, draining ended, or err is set
	pending  pending
	spare    pending
	timer    *time.Timer
	armed    bool // a tick is coming
	hurried  bool // and it was told to come at once
	draining bool
	ended    bool
	err      error
	failed   chan struct{} // closed with err
}

// pending are events that are not in the file yet, their data end to end.
type pending struct {
	data   []byte
	events []event
}

type event struct {
	at   time.Duration
	code byte // o, r, m
	end  int  // of its data
}

// record makes the recording of a session, its header written.
func (l *Log) record(open Record, failed chan struct{}) (*recording, error) {
	r := &recording{
		log:    l,
		name:   path.Join(shelfName, open.Session+".cast"),
		start:  time.Now(),
		sum:    sha256.New(),
		failed: failed,
	}
	r.moved.L = &r.mu
	err := l.disk.use("create recording", func() (err error) {
		r.file, err = l.recordings.OpenFile(path.Base(r.name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := r.write(append(appendValue(nil, reflect.ValueOf(heading(open, r.start)), maxText), '\n')); err != nil {
		r.discard()
		return nil, err
	}
	return r, nil
}

func heading(open Record, start time.Time) header {
	h := header{
		Version:   2,
		Width:     open.PTY.Cols,
		Height:    open.PTY.Rows,
		Timestamp: start.Unix(),
		Title:     open.Person.Name + " in " + open.Target.Name,
		Env:       env{Term: open.PTY.Term, Reason: open.Reason},
	}
	if open.Target.Name == "" {
		h.Title += open.Target.ID
	}
	// RFC 4254 lets a client say 0; players do not.
	if h.Width == 0 || h.Height == 0 {
		h.Width, h.Height = 80, 24
	}
	return h
}

// add takes an event to be recorded. It waits only while the disk is far
// behind.
func (r *recording) add(code byte, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.pending.data) >= full && r.err == nil && !r.ended {
		r.moved.Wait()
	}
	if r.err != nil {
		return r.err
	}
	if r.ended {
		return errEnded
	}
	r.pending.add(r.start, code, data)
	r.schedule()
	return nil
}

// add appends an event. Output that follows output is the same event, at the
// time of its first byte.
func (p *pending) add(start time.Time, code byte, data []byte) {
	p.data = append(p.data, data...)
	if n := len(p.events); n > 0 && code == 'o' && p.events[n-1].code == 'o' {
		p.events[n-1].end = len(p.data)
		return
	}
	p.events = append(p.events, event{at: time.Since(start), code: code, end: len(p.data)})
}

func (p *pending) reset() { p.data, p.events = p.data[:0], p.events[:0] }

// schedule sees to it that a drain comes. One that is under way looks again.
func (r *recording) schedule() {
	switch {
	case r.draining:
	case len(r.pending.data) >= urgent && !r.hurried:
		r.hurried = true
		r.arm(0)
	case !r.armed:
		r.arm(tick)
	}
}

func (r *recording) arm(after time.Duration) {
	r.armed = true
	if r.timer == nil {
		r.timer = time.AfterFunc(after, r.drain)
		return
	}
	r.timer.Reset(after)
}

// drain writes what is pending. It is the timer's, and nobody waits for it but
// finish and output that has run full.
func (r *recording) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.hurried = false, false
	if r.draining || r.ended {
		return
	}
	r.pass()
	for len(r.pending.data) >= urgent {
		r.pass()
	}
	if len(r.pending.data) > 0 {
		r.schedule()
		return
	}
	r.pending, r.spare = pending{}, pending{}
}

// pass writes what is pending now. It is called with mu held, and gives it up
// while the disk works.
func (r *recording) pass() {
	taken := r.pending
	r.pending, r.spare = r.spare, pending{}
	r.draining = true
	r.moved.Broadcast()
	r.mu.Unlock()

	err := r.store(taken)

	r.mu.Lock()
	taken.reset()
	r.spare = taken
	r.draining = false
	if err != nil {
		r.fail(err)
	}
	r.moved.Broadcast()
}

// fail gives the recording up. What is in the file stays, and stays playable.
func (r *recording) fail(err error) {
	if r.err != nil {
		return
	}
	r.err = err
	r.pending = pending{}
	close(r.failed)
}

// lines are buffers for store: at most as many are in use as the disk has
// slots.
var lines = sync.Pool{New: func() any { return new([]byte) }}

// store writes events as lines.
func (r *recording) store(p pending) error {
	buf := lines.Get().(*[]byte)
	defer lines.Put(buf)
	out, from := (*buf)[:0], 0
	defer func() { *buf = out }()
	for _, e := range p.events {
		data := p.data[from:e.end]
		from = e.end
		for len(data) > 0 {
			n := min(len(data), piece)
			out = r.appendEvent(out, e.at, e.code, data[:n], false)
			data = data[n:]
			if len(out) < chunk {
				continue
			}
			if err := r.write(out); err != nil {
				return err
			}
			out = out[:0]
		}
	}
	return r.write(out)
}

// appendEvent appends one line. Output that ends within a character leaves that
// to the next; last says that there is none.
func (r *recording) appendEvent(dst []byte, at time.Duration, code byte, data []byte, last bool) []byte {
	begin := len(dst)
	dst = append(dst, '[')
	dst = strconv.AppendFloat(dst, at.Seconds(), 'f', 6, 64)
	dst = append(dst, `, "`...)
	dst = append(dst, code)
	dst = append(dst, `", "`...)
	empty := len(dst)
	if code == 'o' {
		dst = r.appendOutput(dst, data, last)
	} else {
		dst, _ = appendText(dst, data, true)
	}
	if len(dst) == empty {
		return dst[:begin]
	}
	return append(dst, "\"]\n"...)
}

func (r *recording) appendOutput(dst, data []byte, last bool) []byte {
	var rest []byte
	for len(r.carry) > 0 && len(data) > 0 {
		r.carry, data = append(r.carry, data[0]), data[1:]
		if utf8.FullRune(r.carry) {
			dst, rest = appendText(dst, r.carry, false)
			r.carry = append(r.carry[:0], rest...)
		}
	}
	if len(r.carry) > 0 { // and data is used up
		if last {
			dst, _ = appendText(dst, r.carry, true)
			r.carry = nil
		}
		return dst
	}
	dst, rest = appendText(dst, data, last)
	r.carry = append(r.carry[:0], rest...)
	return dst
}

// write appends whole lines to the file. What did not get there whole is cut
// off again, so that the recording can be played.
func (r *recording) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	err := r.log.disk.use("write recording", func() error { return write(r.file, p) })
	if err != nil {
		return errors.Join(err, r.file.Truncate(r.size))
	}
	r.sum.Write(p)
	r.size += int64(len(p))
	return nil
}

// finish writes what is pending and a last marker, makes the file durable and
// closes it. No output is recorded from here on.
func (r *recording) finish(marker string) (Recording, error) {
	err := r.stop()
	if err == nil {
		at := time.Since(r.start)
		last := r.appendEvent(nil, at, 'o', nil, true)
		err = r.write(r.appendEvent(last, at, 'm', []byte(marker), true))
	}
	err = errors.Join(err, r.sync(), r.file.Close())
	done := Recording{Name: r.name, Bytes: r.size}
	if err != nil {
		done.Error = err.Error()
		return done, err
	}
	done.SHA256 = hex.EncodeToString(r.sum.Sum(nil))
	return done, nil
}

// stop ends the taking of events and drains those that were taken.
func (r *recording) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.moved.Broadcast()
	if r.timer != nil {
		r.timer.Stop()
	}
	for r.draining {
		r.moved.Wait()
	}
	for len(r.pending.data) > 0 {
		r.pass()
	}
	r.spare = pending{}
	return r.err
}

// sync makes the file durable, and its name. On ext4 the second finds little
// left to do; asking for both at once was no quicker.
func (r *recording) sync() error {
	return errors.Join(
		r.log.disk.use("sync recording", func() error { return fdatasync(r.file) }),
		r.log.disk.use("sync recordings", r.log.shelf.Sync),
	)
}

// discard takes the file away. It matters little if that fails: no record names
// it.
func (r *recording) discard() {
	r.file.Close()
	_ = r.log.recordings.Remove(path.Base(r.name))
}
