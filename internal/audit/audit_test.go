package audit

import (
	"bufio"
	"bytes"
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
	"time"

	"github.com/google/uuid"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
	}
	if dir := os.Getenv(hostEnv); dir != "" {
		beHost(dir)
	}
	os.Exit(m.Run())
}

func opened(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// records reads the journal, which must hold records only.
func records(t testing.TB, dir string) (all []Record) {
	t.Helper()
	for r, err := range ReadJournal(dir) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func last(t testing.TB, dir string) Record {
	t.Helper()
	all := records(t, dir)
	return all[len(all)-1]
}

func alice(pty *PTY) Meta {
	return Meta{
		Person: Person{Name: "alice", Key: "SHA256:abc", Groups: []string{"sre"}},
		Client: Client{Address: "192.0.2.1:4711", Software: "SSH-2.0-OpenSSH_9.2"},
		Login:  "web-1",
		Target: Target{Runtime: "docker", ID: "68af6b4b", Name: "web-1", Image: "web:1", PID: 4711},
		Rule:   "demo",
		Kind:   "shell",
		PTY:    pty,
	}
}

var xterm = &PTY{Term: "xterm-256color", Cols: 120, Rows: 40}

func begin(t testing.TB, l *Log, m Meta) *Session {
	t.Helper()
	s, err := beginDurably(l, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runtime.KeepAlive(s) }) // or the collector ends it, as if its process had died
	return s
}

// beginDurably has nothing else to do before the session may run.
func beginDurably(l *Log, m Meta) (*Session, error) {
	s, err := l.Begin(m)
	if err != nil {
		return nil, err
	}
	return s, s.Durable()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestASessionIsTwoRecords(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	m := alice(nil)
	m.Kind, m.Command, m.Argv = "exec", "ps aux", []string{"ps", "aux"}
	s := begin(t, l, m)
	fmt.Fprint(s.Output(io.Discard), "hello")
	fmt.Fprint(s.Input(io.Discard), "hi")
	must(t, s.End(3, "", "exited"))

	all := records(t, dir)
	if len(all) != 3 || all[0].Event != JournalOpen {
		t.Fatalf("records: %+v", all)
	}
	open, closed := all[1], all[2]
	want := Record{
		Seq: 2, Time: open.Time, Event: SessionOpen, Session: s.ID(),
		Person: &m.Person, Client: &m.Client, Login: "web-1", Target: &m.Target, Rule: "demo",
		Kind: "exec", Command: "ps aux", Argv: []string{"ps", "aux"},
	}
	if !reflect.DeepEqual(open, want) {
		t.Errorf("open: %+v", open)
	}
	want.Seq, want.Time, want.Event = 3, closed.Time, SessionClose
	want.Command, want.Argv = "", nil
	want.Exit = &Exit{Code: 3, Reason: "exited", BytesIn: 2, BytesOut: 5}
	if !reflect.DeepEqual(closed, want) {
		t.Errorf("close: %+v", closed)
	}
	if id, err := uuid.Parse(s.ID()); err != nil || id.Version() != 7 {
		t.Errorf("session %q is no UUIDv7", s.ID())
	}
	if age := time.Since(open.Time); open.Time.Location() != time.UTC || age < 0 || age > time.Hour {
		t.Errorf("time %v", open.Time)
	}
}

func TestASecondEndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	s := begin(t, l, alice(xterm))
	must(t, s.End(1, "", "exited"))
	must(t, s.End(0, "KILL", "again"))
	if all := records(t, dir); len(all) != 3 || all[2].Exit.Reason != "exited" {
		t.Errorf("records: %+v", all)
	}

	failing := begin(t, l, alice(nil))
	must(t, l.Close())
	err := failing.End(0, "", "exited")
	if !errors.Is(err, ErrUnrecorded) || failing.End(0, "", "exited") != err {
		t.Errorf("End of a closed log: %v", err)
	}
}

func TestAnEventNeedsAName(t *testing.T) {
	if err := opened(t, t.TempDir()).Event(Event{}); !errors.Is(err, ErrUnrecorded) {
		t.Error(err)
	}
}

func TestOnlyTheOwnerMayReadOrWriteTheRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "audit")
	s := begin(t, opened(t, dir), alice(xterm))
	for path, want := range map[string]os.FileMode{
		"": 0o700, journalName: 0o600, shelfName: 0o700, s.recording.name: 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%q: mode %04o", path, info.Mode().Perm())
		}
	}
}

func TestADirectoryOthersMayWriteIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Error(err)
	}
}

func TestTwoDaemonsCannotShareARecord(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "in use by another cartsshd") {
		t.Error(err)
	}
	must(t, l.Close())
	opened(t, dir)
}

func TestEveryRecordOfManySessionsIsThereInOrder(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			var pty *PTY
			if i%4 == 0 {
				pty = xterm
			}
			s, err := beginDurably(l, alice(pty))
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(s.Output(io.Discard), "session %d", i)
			err = errors.Join(
				l.Event(Event{Event: RequestRefused, Session: s.ID(), Detail: fmt.Sprint(i)}),
				s.End(i, "", "exited"))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkSequence(t, dir)
	steps := map[string][]string{}
	for _, r := range records(t, dir) {
		steps[r.Session] = append(steps[r.Session], r.Event)
	}
	delete(steps, "")
	if len(steps) != 200 {
		t.Errorf("%d sessions", len(steps))
	}
	for id, got := range steps {
		if want := []string{SessionOpen, RequestRefused, SessionClose}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", id, got)
		}
	}
}

func checkSequence(t *testing.T, dir string) {
	t.Helper()
	var before Record
	for _, r := range records(t, dir) {
		if r.Seq != before.Seq+1 || r.Time.Before(before.Time) {
			t.Fatalf("%d at %v follows %d at %v", r.Seq, r.Time, before.Seq, before.Time)
		}
		before = r
	}
}

// operations counts what is done to the disk.
type operations struct {
	mu   sync.Mutex
	seen map[string]int
	fail map[string]error
	hold map[string]chan struct{}
}

func watch(l *Log) *operations {
	o := &operations{seen: map[string]int{}, fail: map[string]error{}, hold: map[string]chan struct{}{}}
	l.disk.fault = func(op string) error {
		o.mu.Lock()
		o.seen[op]++
		err, hold := o.fail[op], o.hold[op]
		o.mu.Unlock()
		if hold != nil {
			<-hold
		}
		return err
	}
	return o
}

func (o *operations) count(op string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[op]
}

func (o *operations) set(op string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail[op] = err
}

// until waits for something another goroutine is bound to do.
func until(done func() bool) {
	for !done() {
		runtime.Gosched()
	}
}

func TestOneWriterNeedsOneWriteAndOneSync(t *testing.T) {
	l := opened(t, t.TempDir())
	ops := watch(l)
	must(t, l.Event(Event{Event: SigninOK}))
	s := begin(t, l, alice(nil))
	must(t, s.End(0, "", "exited"))
	if want := map[string]int{"write journal": 3, "sync journal": 3}; !reflect.DeepEqual(ops.seen, want) {
		t.Errorf("%v", ops.seen)
	}
}

func TestWritersWhoWaitShareOneSync(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	ops := watch(l)
	hold := make(chan struct{})
	ops.hold["sync journal"] = hold

	var wg sync.WaitGroup
	write := func() {
		if err := l.Event(Event{Event: SigninOK}); err != nil {
			t.Error(err)
		}
	}
	wg.Go(write)
	until(func() bool { return ops.count("sync journal") == 1 })
	for range 50 {
		wg.Go(write)
	}
	until(func() bool { return waiting(l.journal) == 50 })
	close(hold)
	wg.Wait()
	if n := ops.count("sync journal"); n != 2 {
		t.Errorf("%d syncs", n)
	}
	checkSequence(t, dir)
	if n := len(records(t, dir)); n != 52 {
		t.Errorf("%d records", n)
	}
}

func waiting(j *journal) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.next == nil {
		return 0
	}
	return j.next.count
}

func TestAFailedSyncFailsAllWhoWaitAndIsNotTriedAgain(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	must(t, l.Event(Event{Event: SigninOK, Detail: "before"}))
	ops := watch(l)
	hold := make(chan struct{})
	ops.hold["sync journal"] = hold
	ops.fail["sync journal"] = syscall.EIO

	results := make(chan error)
	write := func() { results <- l.Event(Event{Event: SigninFailed, Detail: "during"}) }
	go write()
	until(func() bool { return ops.count("sync journal") == 1 })
	for range 9 {
		go write()
	}
	until(func() bool { return waiting(l.journal) == 9 })
	close(hold)
	for range 10 {
		if err := <-results; !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.EIO) {
			t.Errorf("acknowledged: %v", err)
		}
	}
	if n := ops.count("sync journal"); n != 1 {
		t.Errorf("%d syncs", n)
	}

	ops.set("sync journal", nil)
	must(t, l.Event(Event{Event: SigninOK, Detail: "after"}))
	must(t, l.Event(Event{Event: SigninOK, Detail: "later"}))
	checkSequence(t, dir)
	var told []string
	for _, r := range records(t, dir)[1:] {
		told = append(told, r.Detail)
	}
	want := []string{"before", "records not written: 10: input/output error", "after", "later"}
	if !reflect.DeepEqual(told, want) {
		t.Errorf("%q", told)
	}
}

func TestASessionThatCannotBeWrittenDoesNotBegin(t *testing.T) {
	for _, op := range []string{"create recording", "write recording", "write journal", "sync journal"} {
		t.Run(op, func(t *testing.T) {
			dir := t.TempDir()
			l := opened(t, dir)
			ops := watch(l)
			ops.set(op, syscall.EROFS)
			if _, err := beginDurably(l, alice(xterm)); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.EROFS) {
				t.Errorf("Begin: %v", err)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, shelfName)); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			ops.set(op, nil)
			must(t, begin(t, l, alice(xterm)).End(0, "", "exited"))
		})
	}
}

func TestATornLastLineIsKeptAsideAndNamed(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	must(t, l.Event(Event{Event: SigninOK}))
	must(t, l.Close())
	whole, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)
	torn := `{"seq":3,"time":"2026`
	must(t, os.WriteFile(filepath.Join(dir, journalName), append(whole, torn...), 0o600))

	opened(t, dir)
	checkSequence(t, dir)
	all := records(t, dir)
	if len(all) != 4 || all[2].Event != JournalTorn || all[3].Event != JournalOpen {
		t.Fatalf("records: %+v", all)
	}
	name := all[2].Detail[strings.LastIndex(all[2].Detail, " ")+1:]
	if kept, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(kept) != torn {
		t.Errorf("kept %q, %v", kept, err)
	}
}

func TestADamagedLineIsNamedAndTheLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	must(t, opened(t, dir).Close())
	path := filepath.Join(dir, journalName)
	whole, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(whole, "{\"seq\":\x00\x1b]\n"...), 0o600))

	opened(t, dir)
	var events []string
	var bad int
	for r, err := range ReadJournal(dir) {
		if err != nil {
			bad++
			continue
		}
		events = append(events, r.Event)
	}
	if want := []string{JournalOpen, JournalTorn, JournalOpen}; bad != 1 || !reflect.DeepEqual(events, want) {
		t.Errorf("%v, %d bad", events, bad)
	}
}

func TestEveryWholeRecordOfACutJournalIsRead(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	begin(t, l, alice(xterm))
	must(t, l.Event(Event{Event: SigninFailed, Login: "\x1b[31mé\x9b\u202e", Detail: "no such key"}))
	must(t, l.Close())
	whole, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)

	for n := range len(whole) + 1 {
		var read int
		var torn error
		for _, err := range readRecords(strings.NewReader(string(whole[:n]))) {
			if err != nil {
				torn = err
				continue
			}
			read++
		}
		if want := strings.Count(string(whole[:n]), "\n"); read != want {
			t.Fatalf("cut at %d: %d records of %d", n, read, want)
		}
		if clean := n == 0 || whole[n-1] == '\n'; clean != (torn == nil) || !clean && !errors.Is(torn, ErrTorn) {
			t.Fatalf("cut at %d: %v", n, torn)
		}
	}
}

func TestAJournalCutAnywhereIsOpenedAgain(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	s := begin(t, l, alice(xterm))
	must(t, s.End(0, "", "exited"))
	must(t, l.Close())
	whole, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)

	for range 60 {
		n := rand.IntN(len(whole) + 1)
		copied := t.TempDir()
		must(t, os.WriteFile(filepath.Join(copied, journalName), whole[:n], 0o600))
		must(t, opened(t, copied).Close())
		checkSequence(t, copied)
		checkClosed(t, copied)
		if got := last(t, copied); got.Event != JournalOpen {
			t.Fatalf("cut at %d: %+v", n, got)
		}
	}
}

// checkClosed finds a close for every session.
func checkClosed(t *testing.T, dir string) {
	t.Helper()
	open := map[string]bool{}
	for _, r := range records(t, dir) {
		switch r.Event {
		case SessionOpen:
			open[r.Session] = true
		case SessionClose:
			if !open[r.Session] {
				t.Errorf("%s closed, but not open", r.Session)
			}
			delete(open, r.Session)
		}
	}
	if len(open) > 0 {
		t.Errorf("still open: %v", open)
	}
}

func TestSessionsOfADeadDaemonAreClosedOnce(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	m := alice(xterm)
	m.Command = "long"
	s := begin(t, l, m)
	must(t, begin(t, l, alice(nil)).End(0, "", "exited"))
	must(t, l.Close())

	for range 2 {
		must(t, opened(t, dir).Close())
	}
	checkSequence(t, dir)
	checkClosed(t, dir)
	var lost []Record
	for _, r := range records(t, dir) {
		if r.Exit != nil && r.Exit.Reason == DaemonLost {
			lost = append(lost, r)
		}
	}
	if len(lost) != 1 || lost[0].Session != s.ID() || lost[0].Exit.Code != -1 || lost[0].Person.Name != "alice" || lost[0].Command != "" {
		t.Fatalf("lost: %+v", lost)
	}
	checkRecording(t, dir, lost[0].Recording)
}

func TestTheLastOpenIsFoundFromTheEnd(t *testing.T) {
	anchor := `{"seq":7,"time":"x","event":"journal.open"}` + "\n"
	filler := strings.Repeat(`{"seq":8,"detail":"\"event\":\"journal.open\""}`+"\n", 5)
	for _, after := range []int{0, 1, 1<<20 - 40, 1<<20 - 20, 1 << 20, 1<<20 + 3, 2<<20 + 5} {
		text := filler + anchor + filler + anchor + strings.Repeat("x", after)
		at, err := lastOpen(strings.NewReader(text), int64(len(text)))
		if want := int64(2*len(filler) + len(anchor)); err != nil || at != want {
			t.Errorf("%d bytes after it: %d, not %d (%v)", after, at, want, err)
		}
	}
	if at, err := lastOpen(strings.NewReader(filler), int64(len(filler))); at != 0 || err != nil {
		t.Errorf("none: %d, %v", at, err)
	}
}

// writeUntilKilled is another process: it keeps a record and says of each step,
// once it is acknowledged, that it was.
func writeUntilKilled(dir string) {
	l, err := Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for range 8 {
		go func() {
			for {
				s, err := beginDurably(l, alice(xterm))
				if err != nil {
					os.Exit(1)
				}
				fmt.Fprintln(os.Stdout, s.ID(), SessionOpen)
				out := s.Output(io.Discard)
				for range rand.IntN(20) {
					fmt.Fprint(out, strings.Repeat("output é \x9b\r\n", 200))
				}
				if err := s.End(0, "", "exited"); err != nil {
					os.Exit(1)
				}
				fmt.Fprintln(os.Stdout, s.ID(), SessionClose)
			}
		}()
	}
	select {}
}

func TestNothingAcknowledgedIsLostByKill9(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for range 50 {
		writeAndKill(t, dir, rand.IntN(40), acknowledged)
	}
	must(t, opened(t, dir).Close())

	checkSequence(t, dir)
	checkClosed(t, dir)
	written := map[string]bool{}
	for _, r := range records(t, dir) {
		if r.Exit == nil || r.Exit.Reason != DaemonLost {
			written[r.Session+" "+r.Event] = true
		}
		if r.Exit != nil {
			checkRecording(t, dir, r.Recording)
		}
	}
	for step := range acknowledged {
		if !written[step] {
			t.Errorf("lost: %s", step)
		}
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d steps were acknowledged", len(acknowledged))
	}
}

// writeAndKill runs a writer, kills it after so many steps, and notes all that
// it had acknowledged by then.
func writeAndKill(t *testing.T, dir string, steps int, acknowledged map[string]bool) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		acknowledged[lines.Text()] = true
		if n == steps {
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("writer: %v", err)
	}
}

func TestNothingIsShownOfASessionBeforeItsOpeningIsDurable(t *testing.T) {
	l := opened(t, t.TempDir())
	ops := watch(l)
	ops.set("sync journal", syscall.EIO)
	for _, pty := range []*PTY{nil, xterm} {
		s, err := l.Begin(alice(pty))
		if err != nil {
			t.Fatalf("Begin waits for the disk: %v", err)
		}
		var screen bytes.Buffer
		if n, err := s.Output(&screen).Write([]byte("secret")); n != 0 || !errors.Is(err, ErrUnrecorded) || screen.Len() > 0 {
			t.Errorf("shown %q, %v", screen.String(), err)
		}
		if err := s.Durable(); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, syscall.EIO) {
			t.Errorf("Durable: %v", err)
		}
		if err := s.End(0, "", "exited"); !errors.Is(err, ErrUnrecorded) {
			t.Errorf("End of what has no opening: %v", err)
		}
	}
	ops.set("sync journal", nil)
	must(t, begin(t, l, alice(nil)).End(0, "", "exited"))
}
