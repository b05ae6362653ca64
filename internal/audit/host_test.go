package audit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// hostEnv makes the test binary a process at the host: it says that its session
// runs, and stays, or ends it.
const hostEnv = "AUDIT_TEST_HOST"

func beHost(dir string) {
	l, err := OpenHost(dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	s, err := beginDurably(l, alice(xterm))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Fprint(s.Output(os.Stdout), "running ", s.ID(), "\n")
	if len(os.Args) > 1 && os.Args[1] == "end" {
		if err := errors.Join(s.End(3, "", "exited"), l.Close()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	select {}
}

func openedHost(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := OpenHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func hostProcess(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), hostEnv+"="+dir)
	return cmd
}

func TestWhatIsDoneAtTheHostIsRecordedBesideADaemon(t *testing.T) {
	dir := t.TempDir()
	daemon := opened(t, dir)
	host := openedHost(t, dir)
	uid := 0
	m := alice(nil)
	m.Person = Person{Name: "root", UID: &uid, SudoUser: "alice"}
	s := begin(t, host, m)
	begin(t, daemon, alice(nil))
	if err := s.End(7, "", "exited"); err != nil {
		t.Fatal(err)
	}
	all := records(t, filepath.Join(dir, "host"))
	if len(all) != 2 || all[0].Event != SessionOpen || all[1].Event != SessionClose || all[1].Exit.Code != 7 {
		t.Fatalf("recorded %+v", all)
	}
	if p := all[0].Person; p.Name != "root" || p.UID == nil || *p.UID != 0 || p.SudoUser != "alice" {
		t.Errorf("recorded %+v", p)
	}
}

func TestManyProcessesAtTheHostShareOneJournal(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if out, err := hostProcess(dir, "end").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	stays := openedHost(t, dir)
	for range 10 {
		all.Go(func() {
			s, err := beginDurably(stays, alice(xterm))
			if err == nil {
				err = s.End(0, "", "exited")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	open := map[string]bool{}
	got := records(t, filepath.Join(dir, "host"))
	for i, r := range got {
		if r.Seq != uint64(i+1) {
			t.Errorf("record %d has the number %d", i+1, r.Seq)
		}
		if (r.Event == SessionClose) != open[r.Session] || r.Exit != nil && r.Exit.Reason != "exited" {
			t.Errorf("%+v", r)
		}
		open[r.Session] = true
	}
	if len(got) != 40 {
		t.Errorf("%d records, want 40", len(got))
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "host", "running")); len(left) > 0 {
		t.Errorf("marks are left: %v", left)
	}
}

func TestTheSessionOfAKilledProcessIsClosedByTheNextAndThatOfALivingOneIsNot(t *testing.T) {
	dir := t.TempDir()
	var ids []string
	var living *exec.Cmd
	for _, kill := range []bool{true, false} {
		cmd := hostProcess(dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		var id string
		if _, err := fmt.Fscanf(out, "running %s\n", &id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		if kill {
			cmd.Process.Kill()
			cmd.Wait()
		}
		living = cmd
	}
	openedHost(t, dir)
	openedHost(t, dir)
	var closed []Record
	for _, r := range records(t, filepath.Join(dir, "host")) {
		if r.Event == SessionClose {
			closed = append(closed, r)
		}
	}
	if len(closed) != 1 || closed[0].Session != ids[0] || closed[0].Exit.Code != -1 || closed[0].Exit.Reason != ProcessLost ||
		closed[0].Recording == nil || closed[0].Recording.SHA256 == "" || closed[0].Command != "" {
		t.Errorf("closed %+v", closed)
	}
	if _, err := os.Stat(filepath.Join(dir, "host", "running", ids[1])); err != nil || living.ProcessState != nil {
		t.Errorf("the mark of the other: %v", err)
	}
}

func TestALineThatAKilledProcessLeftTornIsSetAsideByTheNext(t *testing.T) {
	dir := t.TempDir()
	stays := openedHost(t, dir)
	begin(t, stays, alice(nil))
	journal := filepath.Join(dir, "host", "journal.jsonl")
	f, err := os.OpenFile(journal, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	fmt.Fprint(f, `{"seq":2,"event":"sess`)
	must(t, f.Close())
	begin(t, stays, alice(nil))
	all := records(t, filepath.Dir(journal))
	if len(all) != 3 || all[1].Event != JournalTorn || all[2].Event != SessionOpen || all[2].Seq != 3 {
		t.Errorf("recorded %+v", all)
	}
	// Nor does another's line keep anybody out.
	f, err = os.OpenFile(journal, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	fmt.Fprintln(f, strings.Repeat("no record ", 20000))
	must(t, f.Close())
	begin(t, openedHost(t, dir), alice(nil))
	begin(t, stays, alice(nil))
	var seq uint64
	for r, err := range ReadJournal(filepath.Dir(journal)) {
		if err == nil {
			seq = r.Seq
		}
	}
	if seq != 5 {
		t.Errorf("the last number is %d, want 5", seq)
	}
}

func TestWhoCannotWriteAtTheHostDoesNotBegin(t *testing.T) {
	dir := t.TempDir()
	l := openedHost(t, dir)
	l.disk.fault = func(op string) error {
		if op == "sync journal" {
			return errors.New("the disk is broken")
		}
		return nil
	}
	if _, err := beginDurably(l, alice(xterm)); !errors.Is(err, ErrUnrecorded) {
		t.Errorf("got %v", err)
	}
	l.disk.fault = nil
	other := openedHost(t, dir)
	begin(t, other, alice(nil))
	all := records(t, filepath.Join(dir, "host"))
	if len(all) != 1 || all[0].Seq != 1 {
		t.Errorf("recorded %+v", all)
	}
	must(t, os.Chmod(dir, 0o777))
	if _, err := OpenHost(dir); !errors.Is(err, ErrUnrecorded) || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("got %v", err)
	}
}
