package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"

	"github.com/cartsshd/cartsshd/internal/need"
)

// checkRecording holds a recording against what the journal says of it, and
// reads it through.
func checkRecording(t *testing.T, dir string, r *Recording) {
	t.Helper()
	if r == nil || r.Error != "" {
		t.Errorf("recording: %+v", r)
		return
	}
	raw, err := os.ReadFile(filepath.Join(dir, r.Name))
	must(t, err)
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != r.SHA256 || int64(len(raw)) != r.Bytes {
		t.Errorf("%s: %d bytes are not those of the journal: %+v", r.Name, len(raw), r)
	}
	for _, err := range readFrames(bytes.NewReader(raw)) {
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
	}
}

func frames(t *testing.T, dir string, s *Session) (all []Frame) {
	t.Helper()
	for f, err := range ReadRecording(dir, s.ID()) {
		must(t, err)
		all = append(all, f)
	}
	return all
}

// shown is the output that a recording holds, byte by byte.
func shown(t *testing.T, dir string, s *Session) string {
	t.Helper()
	var b []byte
	for _, f := range frames(t, dir, s) {
		if f.Code == "o" {
			b = append(b, Raw(f.Data)...)
		}
	}
	return string(b)
}

func TestARecordingSaysWhatItWasFor(t *testing.T) {
	dir := t.TempDir()
	m := alice(xterm)
	m.Reason = `INC-7: "quoted" \u202e`
	s := begin(t, opened(t, dir), m)
	must(t, s.End(0, "", "exited"))
	raw, err := os.ReadFile(filepath.Join(dir, s.recording.name))
	must(t, err)
	first, _, _ := strings.Cut(string(raw), "\n")
	if want := `"env":{"TERM":"xterm-256color","REASON":"INC-7: \"quoted\" \\u202e"}}`; !strings.HasSuffix(first, want) {
		t.Errorf("header: %s", first)
	}
}

func TestARecordingTellsTheSession(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, opened(t, dir), alice(xterm))
	out := s.Output(io.Discard)
	fmt.Fprint(out, "one ")
	fmt.Fprint(out, "two\r\n")
	s.Resize(80, 24)
	fmt.Fprint(out, "\x1b[1mthree\x1b[0m")
	must(t, s.End(0, "TERM", "client left"))

	raw, err := os.ReadFile(filepath.Join(dir, s.recording.name))
	must(t, err)
	first, _, _ := strings.Cut(string(raw), "\n")
	want := fmt.Sprintf(`{"version":2,"width":120,"height":40,"timestamp":%d,"title":"alice in web-1","env":{"TERM":"xterm-256color"}}`,
		s.recording.start.Unix())
	if first != want {
		t.Errorf("header: %s", first)
	}
	var told []string
	for _, f := range frames(t, dir, s) {
		if len(told) > 0 && f.Code == "o" && strings.HasPrefix(told[len(told)-1], "o ") {
			told[len(told)-1] += f.Data // a tick came between
			continue
		}
		told = append(told, f.Code+" "+f.Data)
	}
	if want := []string{"o one two\r\n", "r 80x24", "o \x1b[1mthree\x1b[0m", "m signal TERM: client left"}; !reflect.DeepEqual(told, want) {
		t.Errorf("%q", told)
	}
	checkRecording(t, dir, last(t, dir).Recording)
}

func TestTheHeaderIsThereWhenTheSessionBegins(t *testing.T) {
	dir := t.TempDir()
	m := alice(&PTY{Term: "\x1b]0;evil\a"})
	s := begin(t, opened(t, dir), m)
	raw, err := os.ReadFile(filepath.Join(dir, s.recording.name))
	must(t, err)
	var h header
	must(t, json.Unmarshal(raw, &h))
	if h.Width != 80 || h.Height != 24 || h.Env.Term != m.PTY.Term || bytes.IndexByte(raw, 0x1b) >= 0 {
		t.Errorf("%s", raw)
	}
}

func TestEveryByteIsRecordedHoweverItIsSplit(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	for range 30 {
		var sent []byte
		s := begin(t, l, alice(xterm))
		out := s.Output(io.Discard)
		for range rand.IntN(200) {
			p := garble()
			sent = append(sent, p...)
			_, err := out.Write(p)
			must(t, err)
			if rand.IntN(4) == 0 {
				s.recording.drain()
			}
			if rand.IntN(8) == 0 {
				s.Resize(uint32(rand.IntN(200)), 24)
			}
		}
		must(t, s.End(0, "", "exited"))
		if shown(t, dir, s) != string(sent) {
			t.Fatalf("of %q was recorded %q", sent, shown(t, dir, s))
		}
		checkRecording(t, dir, last(t, dir).Recording)
	}
}

// garble is text with whole, halved and broken characters in it.
func garble() []byte {
	var b []byte
	for range rand.IntN(20) {
		switch rand.IntN(4) {
		case 0:
			b = append(b, byte(rand.IntN(256)))
		case 1:
			b = utf8.AppendRune(b, rand.Int32N(utf8.MaxRune))
		case 2:
			b = utf8.AppendRune(b, 0x10FE00+rand.Int32N(0x100))
		default:
			b = append(b, hostile[rand.IntN(len(hostile)):]...)
		}
	}
	if len(b) > 0 {
		b = b[:rand.IntN(len(b))]
	}
	return b
}

func TestACharacterSplitBetweenWritesIsOneCharacter(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, opened(t, dir), alice(xterm))
	out := s.Output(io.Discard)
	for _, b := range []byte("€🙂") {
		_, err := out.Write([]byte{b})
		must(t, err)
		s.recording.drain()
	}
	must(t, s.End(0, "", "exited"))
	var got []string
	for _, f := range frames(t, dir, s) {
		if f.Code == "o" {
			got = append(got, f.Data)
		}
	}
	if !reflect.DeepEqual(got, []string{"€", "🙂"}) {
		t.Errorf("%q", got)
	}
}

func TestStockPlayersPlayIt(t *testing.T) {
	asciinema := need.Tool(t, "asciinema", "asciinema")
	dir := t.TempDir()
	s := begin(t, opened(t, dir), alice(xterm))
	cast := filepath.Join(dir, s.recording.name)
	play := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(asciinema, append(args, cast)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "ASCIINEMA_CONFIG_HOME="+t.TempDir())
		// It wants a terminal to take keys from.
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
		must(t, err)
		defer tty.Close()
		out, _ := io.ReadAll(tty) // EIO when it is done
		if err := cmd.Wait(); err != nil {
			t.Fatalf("asciinema %v: %v\n%s", args, err, out)
		}
		return string(out)
	}

	play("cat") // nothing but a header
	fmt.Fprint(s.Output(io.Discard), "hello é\u2028\u0085 \x1b[1mbold\x1b[0m ", hostile)
	s.Resize(100, 30)
	s.recording.drain()
	for _, when := range []string{"while it runs", "when it is over"} {
		for _, args := range [][]string{{"cat"}, {"play", "-s", "1000"}} {
			if got := play(args...); !strings.Contains(got, "hello é\u2028\u0085 \x1b[1mbold\x1b[0m ") {
				t.Errorf("%v %s: %q", args, when, got)
			}
		}
		must(t, s.End(0, "", "exited"))
	}
}

func TestATornRecordingIsMended(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	s := begin(t, l, alice(xterm))
	text := "hello \x1b[31m\u202e é€🙂\x9b \\ \" end"
	fmt.Fprint(s.Output(io.Discard), text)
	s.recording.drain()
	must(t, l.Close())
	whole, err := os.ReadFile(filepath.Join(dir, s.recording.name))
	must(t, err)
	journal, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)

	for n := range whole {
		copied := t.TempDir()
		must(t, os.Mkdir(filepath.Join(copied, shelfName), 0o700))
		must(t, os.WriteFile(filepath.Join(copied, journalName), journal, 0o600))
		must(t, os.WriteFile(filepath.Join(copied, s.recording.name), whole[:n], 0o600))
		must(t, opened(t, copied).Close())
		all := records(t, copied)
		checkRecording(t, copied, all[len(all)-2].Recording)
		if got := shown(t, copied, s); !strings.HasPrefix(text, got) {
			t.Fatalf("cut at %d: %q", n, got)
		}
	}
	if cut := ended([]byte(`[0.1, "o", "hello \u00`)); string(cut) != `[0.1, "o", "hello "]`+"\n" {
		t.Errorf("%s", cut)
	}
}

func TestOutputThatCannotBeRecordedIsNotShown(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT} {
		t.Run(errno.Error(), func(t *testing.T) {
			dir := t.TempDir()
			l := opened(t, dir)
			s, other := begin(t, l, alice(xterm)), begin(t, l, alice(nil))
			var screen strings.Builder
			out := s.Output(&screen)
			fmt.Fprint(out, "before ")
			s.recording.drain()
			ops := watch(l)
			ops.set("write recording", errno)
			fmt.Fprint(out, "during ")
			<-s.Failed()
			n, err := fmt.Fprint(out, "after ")
			if n != 0 || !errors.Is(err, ErrUnrecorded) || !errors.Is(err, errno) {
				t.Errorf("Output: %d, %v", n, err)
			}
			if screen.String() != "before during " {
				t.Errorf("shown: %q", screen.String())
			}
			if err := s.End(0, "", "not recorded"); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, errno) {
				t.Errorf("End: %v", err)
			}
			r := last(t, dir)
			if r.Session != s.ID() || !strings.Contains(r.Recording.Error, errno.Error()) || r.Recording.SHA256 != "" {
				t.Errorf("record: %+v", r.Recording)
			}
			if got := shown(t, dir, s); got != "before " {
				t.Errorf("recorded: %q", got)
			}

			fmt.Fprint(other.Output(io.Discard), "goes on")
			must(t, other.End(0, "", "exited"))
			ops.set("write recording", nil)
			must(t, begin(t, l, alice(xterm)).End(0, "", "exited"))
		})
	}
}

func TestARecordingThatCannotBeSyncedIsNotVouchedFor(t *testing.T) {
	for _, op := range []string{"sync recording", "sync recordings"} {
		dir := t.TempDir()
		l := opened(t, dir)
		s := begin(t, l, alice(xterm))
		watch(l).set(op, syscall.EIO)
		if err := s.End(0, "", "exited"); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.EIO) {
			t.Errorf("End: %v", err)
		}
		if r := last(t, dir).Recording; r.SHA256 != "" || r.Error == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestAFullDiskEndsWhatItCannotHoldAndNothingElse(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"))
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	l := opened(t, dir)
	t.Cleanup(func() { l.Close() }) // before the unmount
	s := begin(t, l, alice(xterm))

	out := s.Output(io.Discard)
	var err error
	for err == nil {
		_, err = fmt.Fprintln(out, strings.Repeat("full ", 1000))
	}
	if !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Output: %v", err)
	}
	<-s.Failed()
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	must(t, err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	ballast.Close()

	// The journal's last page still has room, which is not promised.
	for err = nil; err == nil; {
		err = l.Event(Event{Event: SigninFailed, Detail: strings.Repeat("x", 3000)})
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Event: %v", err)
	}
	if _, err := beginDurably(l, alice(xterm)); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Begin: %v", err)
	}
	must(t, os.Remove(ballast.Name()))

	must(t, begin(t, l, alice(xterm)).End(0, "", "exited"))
	if err := s.End(0, "", "not recorded"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("End: %v", err)
	}
	checkSequence(t, dir)
	checkClosed(t, dir)
	frames(t, dir, s) // as far as it goes, whole
}

func TestOutputWaitsForASlowDisk(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	s := begin(t, l, alice(xterm))
	ops := watch(l)
	hold := make(chan struct{})
	ops.hold["write recording"] = hold

	sent := strings.Repeat("0123456789abcde\n", 1<<14) // 256 KiB
	done := make(chan error)
	go func() {
		var err error
		for range 16 {
			if _, werr := io.WriteString(s.Output(io.Discard), sent); werr != nil {
				err = werr
			}
		}
		done <- err
	}()
	r := s.recording
	until(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.draining && len(r.pending.data) >= full
	})
	select {
	case <-done:
		t.Error("4 MiB went into 1 MiB")
	default:
	}
	r.mu.Lock()
	if n := len(r.pending.data); n > full+len(sent) {
		t.Errorf("%d bytes pending", n)
	}
	r.mu.Unlock()
	close(hold)
	must(t, <-done)
	must(t, s.End(0, "", "exited"))
	if got := shown(t, dir, s); got != strings.Repeat(sent, 16) {
		t.Errorf("%d bytes recorded", len(got))
	}
}

func TestManyWritesAreFewOnDisk(t *testing.T) {
	l := opened(t, t.TempDir())
	s := begin(t, l, alice(xterm))
	ops := watch(l)
	hold := make(chan struct{})
	ops.hold["write recording"] = hold
	out := s.Output(io.Discard)
	fmt.Fprint(out, "first")
	until(func() bool { return ops.count("write recording") == 1 })
	for range 10000 {
		fmt.Fprint(out, "keystroke")
	}
	close(hold)
	must(t, s.End(0, "", "exited"))
	if n := ops.count("write recording"); n > 4 {
		t.Errorf("%d writes", n)
	}
}

func TestWithoutATerminalBytesAreOnlyCounted(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	s := begin(t, l, alice(nil))
	var wg sync.WaitGroup
	for range 4 {
		out := s.Output(io.Discard)
		wg.Go(func() {
			for range 1000 {
				fmt.Fprint(out, "x")
			}
		})
	}
	wg.Wait()
	s.Resize(1, 1)
	must(t, s.End(0, "", "exited"))
	if left, _ := os.ReadDir(filepath.Join(dir, shelfName)); len(left) > 0 {
		t.Errorf("recorded: %v", left)
	}
	if r := last(t, dir); r.Recording != nil || r.Exit.BytesOut != 4000 {
		t.Errorf("%+v", r.Exit)
	}
	select {
	case <-s.Failed():
		t.Error("failed")
	default:
	}
}

func TestOutputAfterTheEndIsNotShown(t *testing.T) {
	s := begin(t, opened(t, t.TempDir()), alice(xterm))
	must(t, s.End(0, "", "exited"))
	var screen strings.Builder
	if _, err := fmt.Fprint(s.Output(&screen), "late"); !errors.Is(err, ErrUnrecorded) || screen.Len() > 0 {
		t.Errorf("%v, %q", err, screen.String())
	}
	s.Resize(1, 1)
}

func TestIdleSessionsCostLittleAndWakeNobody(t *testing.T) {
	l := opened(t, t.TempDir())
	before, running := heap(), runtime.NumGoroutine()
	const n = 200
	sessions := make([]*Session, n)
	for i := range sessions {
		sessions[i] = begin(t, l, alice(xterm))
		fmt.Fprint(sessions[i].Output(io.Discard), strings.Repeat("prompt $ ", 1000))
	}
	for _, s := range sessions {
		r := s.recording
		until(func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return !r.armed && !r.draining && r.pending.data == nil && r.spare.data == nil
		})
	}
	until(func() bool { return runtime.NumGoroutine() <= running })
	if each := (heap() - before) / n; each > 8<<10 {
		t.Errorf("%d bytes a session", each)
	} else {
		t.Logf("%d bytes a session", each)
	}
	runtime.KeepAlive(sessions)
}

func heap() int64 {
	var m runtime.MemStats
	for range 3 { // pools keep theirs for two
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestATranscriptIsTextThatIsSafeToRead(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, opened(t, dir), alice(xterm))
	fmt.Fprint(s.Output(io.Discard), "$ ls\r\na\tb\r\n\x1b]0;title\a\x9b31m progress\rdone\u202e\r\n")
	must(t, s.End(0, "", "exited"))
	got, err := Transcript(dir, s.ID())
	must(t, err)
	want := "$ ls\na\tb\n" + `\x1b]0;title\x07\x9b31m progress\rdone\u202e` + "\n"
	if got != want {
		t.Errorf("%q", got)
	}
}

func TestATranscriptOfATornRecordingIsWhatThereIs(t *testing.T) {
	dir := t.TempDir()
	s := begin(t, opened(t, dir), alice(xterm))
	fmt.Fprint(s.Output(io.Discard), "hello")
	must(t, s.End(0, "", "exited"))
	path := filepath.Join(dir, s.recording.name)
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()-3))
	if got, err := Transcript(dir, s.ID()); got != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOnlyASessionNamesARecording(t *testing.T) {
	for _, id := range []string{"", "../journal", "0197", "../../etc/passwd"} {
		if _, err := Transcript(t.TempDir(), id); err == nil {
			t.Errorf("%q is no session", id)
		}
	}
}

func FuzzReadJournal(f *testing.F) {
	var full Record
	fill(reflect.ValueOf(&full).Elem())
	f.Add(appendLine(appendLine(nil, &full), &Record{Event: DaemonStart}))
	f.Add([]byte("null\n{}\n[]\n{\"event\":3}\n\n{\"event\":\"x\""))
	f.Fuzz(func(t *testing.T, in []byte) {
		var n int
		for r, err := range readRecords(bytes.NewReader(in)) {
			n++
			if (r.Event == "") != (err != nil) {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if lines := bytes.Count(in, []byte("\n")); n < lines || n > lines+1 {
			t.Errorf("%d of %d lines", n, lines)
		}
	})
}

func FuzzReadRecording(f *testing.F) {
	f.Add([]byte("{\"version\":2}\n[0.1, \"o\", \"x\\u001b\"]\n[1, \"r\", \"80x24\"]\n[2,\"o\",\"y"))
	f.Add([]byte("\n[]\n[1]\n[1,2,3]\n[1,\"o\",\"x\",4]\n[1e999,\"o\",\"\"]\nnull\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for frame, err := range readFrames(bytes.NewReader(in)) {
			if (frame.Code == "") != (err != nil) {
				t.Errorf("%+v, %v", frame, err)
			}
			checkHarmless(t, strings.NewReplacer("\n", "", "\t", "").Replace(legible(string(Raw(frame.Data)))))
		}
	})
}

func TestAScreenThatIsNotToBeRecordedIsInTheJournalAlone(t *testing.T) {
	dir := t.TempDir()
	m := alice(xterm)
	m.Output, m.Asked = Unkept, "what it asked for"
	s := begin(t, opened(t, dir), m)
	fmt.Fprint(s.Output(io.Discard), "secret")
	s.Resize(80, 24)
	must(t, s.End(0, "", "exited"))

	all := records(t, dir)
	open, closed := all[1], all[2]
	if open.PTY == nil || open.Output != Unkept || open.Asked != m.Asked || open.Recording != nil {
		t.Errorf("open: %+v", open)
	}
	if closed.Output != Unkept || closed.Asked != "" || closed.Recording != nil || closed.Exit.BytesOut != 6 {
		t.Errorf("close: %+v", closed)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "recordings")); err != nil || len(files) != 0 {
		t.Errorf("%v, %v", files, err)
	}
}
