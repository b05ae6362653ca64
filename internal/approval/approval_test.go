package approval

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func person(t *testing.T, name string) Approver {
	t.Helper()
	return Approver{Name: name, Key: newKey(t).PublicKey(), How: SignedIn}
}

// request is of alice, and everybody may approve it.
func request() Request {
	now := time.Now()
	return Request{
		ID: NewID(), Host: "SHA256:host", Person: "alice", Key: "SHA256:alice", Login: "web-1",
		Target: "docker:0123", Name: "web-1", Rule: "web", Profile: "general", Kind: "exec", Command: "id", Reason: "INC-7",
		Asked: now, Expires: now.Add(time.Hour), Count: 1,
		May:    func(Approver) bool { return true },
		Record: func([]Approver) error { return nil },
	}
}

func ask(t *testing.T, table *Table, r Request) *Waiting {
	t.Helper()
	w, err := table.Ask(r)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWhoIsApprovedIsToldByWhom(t *testing.T) {
	var table Table
	w := ask(t, &table, request())
	carol := person(t, "carol")
	if _, err := table.Approve(w.ID, carol); err != nil {
		t.Fatal(err)
	}
	by, err := w.Wait(t.Context())
	if err != nil || len(by) != 1 || by[0].Name != "carol" {
		t.Fatalf("%+v, %v", by, err)
	}
	if _, err := table.Approve(w.ID, person(t, "dave")); err != ErrNothing || len(table.all()) != 0 {
		t.Errorf("it waits still: %v, %v", err, table.all())
	}
}

func TestEachApproverCountsOnce(t *testing.T) {
	var table Table
	r := request()
	r.Count = 2
	w := ask(t, &table, r)
	carol := person(t, "carol")
	sameKey, sameName := person(t, "karol"), person(t, "carol")
	sameKey.Key = carol.Key
	for i, by := range []Approver{carol, carol, sameKey, sameName} {
		if _, err := table.Approve(w.ID, by); (err == nil) != (i == 0) || i > 0 && err != ErrAlready {
			t.Errorf("%d: %v", i, err)
		}
	}
	if w.isOver() {
		t.Fatal("one was enough")
	}
	if _, err := table.Approve(w.ID, person(t, "dave")); err != nil {
		t.Fatal(err)
	}
	if by, err := w.Wait(t.Context()); err != nil || len(by) != 2 {
		t.Errorf("%+v, %v", by, err)
	}
}

func TestNobodyApprovesTheirOwnRequest(t *testing.T) {
	var table Table
	r := request()
	alice := person(t, "alice")
	r.Key = Fingerprint(alice.Key)
	w := ask(t, &table, r)
	otherName := Approver{Name: "ally", Key: alice.Key}
	certificate := Approver{Name: "ally", Key: &ssh.Certificate{Key: alice.Key}}
	for _, by := range []Approver{alice, person(t, "alice"), otherName, certificate} {
		if _, err := table.Approve(w.ID, by); err != ErrOwn {
			t.Errorf("%+v: %v", by, err)
		}
		if list := table.List(by); len(list) != 0 {
			t.Errorf("%+v has a list: %v", by, list)
		}
		if err := table.Deny(w.ID, by); err != ErrNothing {
			t.Errorf("%+v: %v", by, err)
		}
	}
	if _, err := table.See(w.ID, alice); err != nil {
		t.Errorf("and sees it: %v", err)
	}
}

func TestTheJudgeIsAskedEachTime(t *testing.T) {
	var table Table
	r, may := request(), false
	r.May = func(by Approver) bool { return may && by.Name == "carol" }
	w := ask(t, &table, r)
	carol := person(t, "carol")
	if _, err := table.Approve(w.ID, carol); err != ErrNothing {
		t.Error(err)
	}
	if _, err := table.See(w.ID, carol); err != ErrNothing || len(table.List(carol)) != 0 {
		t.Error(err)
	}
	may = true
	if _, err := table.Approve(w.ID, person(t, "dave")); err != ErrNothing {
		t.Error(err)
	}
	if list := table.List(carol); len(list) != 1 || list[0] != w {
		t.Error(list)
	}
	if _, err := table.Approve(w.ID, carol); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotRecordedDoesNotCount(t *testing.T) {
	var table Table
	r, fault := request(), errors.New("disk full")
	r.Record = func(all []Approver) error { return fault }
	w := ask(t, &table, r)
	if _, err := table.Approve(w.ID, person(t, "carol")); err != fault || w.isOver() || len(w.Approvers()) != 0 {
		t.Errorf("%v, %v", err, w.Approvers())
	}
}

func TestWhoIsNotApprovedInTimeIsRefused(t *testing.T) {
	for _, c := range []struct {
		count int
		want  Refused
	}{{1, "nobody approved within 1ms"}, {2, "nobody approved within 1ms"}} {
		var table Table
		r := request()
		r.Count, r.Expires = c.count, r.Asked.Add(time.Millisecond)
		w := ask(t, &table, r)
		if by, err := w.Wait(t.Context()); err != c.want || len(by) != 0 {
			t.Errorf("%v, %v", by, err)
		}
		if _, err := table.Approve(w.ID, person(t, "carol")); err != ErrNothing {
			t.Errorf("too late, and %v", err)
		}
	}
}

func TestTooFewAreToldSo(t *testing.T) {
	r := request()
	r.Asked = r.Expires.Add(-10 * time.Minute)
	w := &Waiting{Request: r, approvers: []Approver{{Name: "carol"}}}
	w.Count = 2
	if got := w.tooLate(); got != "only 1 of 2 approved within 10m" {
		t.Error(got)
	}
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Second: "10s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m", 20 * time.Hour: "20h", 61 * time.Second: "1m1s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestWhoeverMayApproveMayDeny(t *testing.T) {
	var table Table
	w := ask(t, &table, request())
	if err := table.Deny(w.ID, person(t, "carol")); err != nil {
		t.Fatal(err)
	}
	_, err := w.Wait(t.Context())
	if denied, ok := errors.AsType[*DeniedError](err); !ok || denied.By.Name != "carol" || err.Error() != "denied by carol" {
		t.Error(err)
	}
	if err := table.Deny(w.ID, person(t, "carol")); err != ErrNothing {
		t.Error(err)
	}
}

func TestARequestGoesWithWhoeverWaits(t *testing.T) {
	var table Table
	w := ask(t, &table, request())
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("client left")
	cancel(left)
	if _, err := w.Wait(ctx); err != left || len(table.all()) != 0 {
		t.Errorf("%v, %v", err, table.all())
	}
}

func TestOnlySoManyWait(t *testing.T) {
	table := Table{Most: 3, Each: 2}
	first := ask(t, &table, request())
	ask(t, &table, request())
	var refused Refused
	if _, err := table.Ask(request()); !errors.As(err, &refused) {
		t.Errorf("alice's third: %v", err)
	}
	bob := request()
	bob.Person = "bob"
	ask(t, &table, bob)
	bob.ID = NewID()
	if _, err := table.Ask(bob); !errors.As(err, &refused) {
		t.Errorf("the fourth of all: %v", err)
	}
	first.end(nil)
	if _, err := table.Ask(bob); err != nil {
		t.Errorf("when one is over: %v", err)
	}
}

func TestNoTwoRequestsShareAName(t *testing.T) {
	var table Table
	r := request()
	ask(t, &table, r)
	if _, err := table.Ask(r); err == nil {
		t.Error("a second one of that name waits")
	}
	if a, b := NewID(), NewID(); len(a) != 8 || a == b {
		t.Error(a, b)
	}
}

func TestNothingChosenByOthersLooksLikeALine(t *testing.T) {
	r := request()
	lines := strings.Count(r.Text(), "\n")
	r.Command = "true\nperson   carol\x1b[2J\u202e"
	r.Name, r.Reason = "a b", `"`
	text := r.Text()
	if strings.Count(text, "\n") != lines || strings.ContainsAny(text, "\x1b\u202e") {
		t.Errorf("%s", text)
	}
	quoted := request()
	quoted.Command = `"true\nperson   carol\x1b[2J\u202e"`
	quoted.Name, quoted.Reason = r.Name, r.Reason
	if quoted.Text() == r.Text() {
		t.Error("what is quoted reads as what only looks so")
	}
}

// mutations change what must not be changed, each by itself.
var mutations = map[string]func(*Request){
	"id":      func(r *Request) { r.ID = NewID() },
	"host":    func(r *Request) { r.Host += "x" },
	"person":  func(r *Request) { r.Person += "x" },
	"key":     func(r *Request) { r.Key += "x" },
	"login":   func(r *Request) { r.Login += "x" },
	"target":  func(r *Request) { r.Target += "x" },
	"name":    func(r *Request) { r.Name += "x" },
	"rule":    func(r *Request) { r.Rule += "x" },
	"profile": func(r *Request) { r.Profile += "x" },
	"kind":    func(r *Request) { r.Kind += "x" },
	"command": func(r *Request) { r.Command += "x" },
	"reason":  func(r *Request) { r.Reason += "x" },
	"asked":   func(r *Request) { r.Asked = r.Asked.Add(time.Second) },
	"expires": func(r *Request) { r.Expires = r.Expires.Add(time.Second) },
}

func TestEveryLineOfARequestCanBeTold(t *testing.T) {
	r := request()
	for name, mutate := range mutations {
		other := r
		mutate(&other)
		var differ []string
		mine, theirs := strings.Split(r.Text(), "\n"), strings.Split(other.Text(), "\n")
		for i := range mine {
			if mine[i] != theirs[i] {
				differ = append(differ, strings.Fields(mine[i])[0])
			}
		}
		if fmt.Sprint(differ) != "["+name+"]" {
			t.Errorf("%s: differs in %v", name, differ)
		}
	}
}

// Certificates of one person may have their principals in any order, and only some of them.
func TestWhoHasANameInCommonWithTheRequesterIsTheRequester(t *testing.T) {
	var table Table
	r := request()
	r.Person, r.Also, r.Count = "mallory@corp", []string{"mallory@corp", "mallory@admin", "m2@admin"}, 2
	w := ask(t, &table, r)
	for _, names := range [][]string{{"mallory@admin"}, {"m2@admin", "mallory@admin"}, {"carol@corp", "m2@admin"}} {
		by := person(t, names[0])
		by.Also = names
		if _, err := table.Approve(w.ID, by); !errors.Is(err, ErrOwn) {
			t.Errorf("%q: %v", names, err)
		}
	}
	carol := person(t, "carol@corp")
	carol.Also = []string{"carol@corp", "carol@admin"}
	again := person(t, "carol@admin")
	again.Also = []string{"carol@admin"}
	if _, err := table.Approve(w.ID, carol); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Approve(w.ID, again); !errors.Is(err, ErrAlready) {
		t.Errorf("%v", err)
	}
	table.Each = 1
	other := request()
	other.Person, other.Also = "m2@admin", []string{"m2@admin"}
	if _, err := table.Ask(other); err == nil {
		t.Error("one too many of theirs waits")
	}
}

func TestWhatMayNotBeginAnyMoreDoesNotWait(t *testing.T) {
	var table Table
	locked, free := request(), request()
	locked.Still = func() error { return Refused("locked") }
	free.Still = func() error { return nil }
	w, stays := ask(t, &table, locked), ask(t, &table, free)
	table.Review()
	if _, err := w.Wait(context.Background()); err != Refused("locked") {
		t.Errorf("%v", err)
	}
	if stays.isOver() {
		t.Error("it is over")
	}
}

func TestAnApproverSeesAllThatWillRun(t *testing.T) {
	r := request()
	r.Sent, r.Env = "DROP-DATABASE", []string{"APP_TARGET=production", "APP_X=y\nid z"}
	for _, want := range []string{"\nsent     DROP-DATABASE\n", "APP_TARGET=production", `\nid z`} {
		if !strings.Contains(r.Text(), want) {
			t.Errorf("no %q in\n%s", want, r.Text())
		}
	}
}
