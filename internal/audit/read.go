package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ErrTorn is the error of a last line that was not written to its end: by a
// daemon that died, or one that is writing just now.
var ErrTorn = errors.New("torn last line")

// maxLine is more than the longest line that is ever written, in bytes.
const maxLine = 4 << 20

// ReadJournal reads the journal of dir from its begin, while it is written or
// afterwards. A line that is not a record yields an error that says where, and
// reading goes on; a torn last line yields ErrTorn.
//
// Strings are as they came, and not fit for a terminal: see Printable.
func ReadJournal(dir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		f, err := os.Open(filepath.Join(dir, journalName))
		if err != nil {
			yield(Record{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer f.Close()
		for r, err := range readRecords(f) {
			if !yield(r, err) {
				return
			}
		}
	}
}

func readRecords(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for l, err := range readLines(r) {
			var rec Record
			if err == nil {
				rec, err = parseRecord(l.text)
			}
			if err != nil {
				rec, err = Record{}, fmt.Errorf("audit: %s: byte %d: %w", journalName, l.at, err)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func parseRecord(line []byte) (r Record, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("not a record: %w", err)
	}
	if r.Event == "" {
		return r, errors.New("not a record: it names no event")
	}
	return r, nil
}

// Frame is one event of a recording.
type Frame struct {
	Time time.Duration // since the session began
	Code string        // "o" output, "r" resize, "m" marker
	Data string        // see Raw for the bytes
}

// ReadRecording reads the recording of a session, with errors as ReadJournal
// has them.
func ReadRecording(dir, session string) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		id, err := uuid.Parse(session)
		if err != nil {
			yield(Frame{}, fmt.Errorf("audit: session %q: %w", session, err))
			return
		}
		f, err := os.Open(filepath.Join(dir, shelfName, id.String()+".cast"))
		if err != nil {
			yield(Frame{}, fmt.Errorf("audit: %w", err))
			return
		}
		defer f.Close()
		for frame, err := range readFrames(f) {
			if err != nil {
				err = fmt.Errorf("audit: %s.cast: %w", id, err)
			}
			if !yield(frame, err) {
				return
			}
		}
	}
}

func readFrames(r io.Reader) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		for l, err := range readLines(r) {
			if l.at == 0 && err == nil {
				continue // the header
			}
			var frame Frame
			if err == nil {
				frame, err = parseFrame(l.text)
			}
			if err != nil {
				frame, err = Frame{}, fmt.Errorf("byte %d: %w", l.at, err)
			}
			if !yield(frame, err) {
				return
			}
		}
	}
}

func parseFrame(line []byte) (Frame, error) {
	var f Frame
	var seconds float64
	parts := []any{&seconds, &f.Code, &f.Data}
	if err := json.Unmarshal(line, &parts); err != nil {
		return Frame{}, fmt.Errorf("not an event: %w", err)
	}
	if len(parts) != 3 || f.Code == "" {
		return Frame{}, errors.New("not an event")
	}
	f.Time = time.Duration(seconds * float64(time.Second))
	return f, nil
}

// Transcript is the text of a session's recording, safe for a terminal: lines
// are lines, and all that moved the cursor is spelled out. A torn end is not an
// error; after any other the text is what could be read.
func Transcript(dir, session string) (string, error) {
	var out []byte
	var failed error
	for f, err := range ReadRecording(dir, session) {
		if err != nil && !errors.Is(err, ErrTorn) {
			failed = errors.Join(failed, err)
		}
		if f.Code == "o" {
			out = append(out, Raw(f.Data)...)
		}
	}
	return legible(string(out)), failed
}

func legible(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, l := range lines {
		words := strings.Split(l, "\t")
		for k, w := range words {
			words[k] = Printable(w)
		}
		lines[i] = strings.Join(words, "\t")
	}
	return strings.Join(lines, "\n")
}

// line is one line, without its end.
type line struct {
	at   int64 // its offset
	text []byte
}

// readLines yields lines; the text is good until the next. The last is ErrTorn
// if nothing ends it. Of a line longer than any of ours only the begin is kept.
func readLines(r io.Reader) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var at int64
		var text []byte
		for {
			var n int64
			var err error
			text, n, err = readLine(in, text[:0])
			if err == nil {
				text = text[:len(text)-1]
			}
			if err == io.EOF {
				err = ErrTorn
				if n == 0 {
					return
				}
			}
			if !yield(line{at, text}, err) || err != nil {
				return
			}
			at += n
		}
	}
}

func readLine(in *bufio.Reader, text []byte) (_ []byte, size int64, err error) {
	for {
		part, err := in.ReadSlice('\n')
		size += int64(len(part))
		if len(text) < maxLine {
			text = append(text, part...)
		}
		if err != bufio.ErrBufferFull {
			return text, size, err
		}
	}
}
