// Package approval keeps the sessions that wait for somebody to let them begin.
//
// It lives in memory: a request is gone when its client is, when its time has
// run out, or when the server stops, and none is ever approved by default. Who
// may approve, it does not know: each request brings the judge along, who is
// asked at the moment of the approval. Two things it sees to by itself: nobody
// approves their own request, and nobody counts twice.
package approval

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Table has the requests that wait. The zero Table is empty, and ready.
type Table struct {
	Most int // requests at a time; 256
	Each int // of these, of one person; 8

	mu      sync.Mutex
	waiting map[string]*Waiting // by ID
}

// Approver is somebody who would let a session begin.
type Approver struct {
	Name string
	Also []string      // other names of theirs: a certificate's principals
	Key  ssh.PublicKey // that they proved, or signed with
	From netip.Addr    // not valid of a signature: nobody knows where it was made
	How  string        // SignedIn or BySignature
	Via  string        // the same at length, for the record
}

// How somebody approves.
const (
	SignedIn    = "signed in"
	BySignature = "by a signature"
)

// Fingerprint is that of a key; of a certificate, of the key in it.
func Fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key)
}

// same tells whether two are one: by any of their names, or because they share a
// key. Certificates of one person may have their principals in any order, and some
// of them only.
func (a Approver) same(key string, names ...string) bool {
	return Fingerprint(a.Key) == key || overlap(append([]string{a.Name}, a.Also...), names)
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// Refused is why a session that waited may not begin, in words that are for its
// person as well.
type Refused string

func (r Refused) Error() string { return string(r) }

// DeniedError is that somebody who could have approved said no.
type DeniedError struct{ By Approver }

func (e *DeniedError) Error() string { return "denied by " + e.By.Name }

// What becomes of an approval that does not count.
var (
	ErrNothing = errors.New("approval: nothing waits by that name")
	ErrOwn     = errors.New("approval: nobody approves their own request")
	ErrAlready = errors.New("approval: has approved it already")
)

// Waiting is one request in a Table.
type Waiting struct {
	Request
	table *Table
	late  *time.Timer

	mu        sync.Mutex
	approvers []Approver
	err       error
	over      chan struct{} // closed when it is decided
}

// Ask has a request wait, from now until it is decided or its time has run out.
// The caller must Wait for that.
func (t *Table) Ask(r Request) (*Waiting, error) {
	w := &Waiting{Request: r, table: t, over: make(chan struct{})}
	// Held until the timer is there for whoever is first to stop it.
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := t.add(w); err != nil {
		return nil, err
	}
	w.late = time.AfterFunc(time.Until(r.Expires), func() { w.end(nil) })
	return w, nil
}

func (t *Table) add(w *Waiting) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	theirs := 0
	for _, other := range t.waiting {
		if overlap(other.names(), w.names()) {
			theirs++
		}
	}
	switch {
	case theirs >= or(t.Each, 8):
		return Refused("too many sessions of yours wait for approval already")
	case len(t.waiting) >= or(t.Most, 256):
		return Refused("too many sessions wait for approval already")
	case t.waiting[w.ID] != nil:
		return fmt.Errorf("approval: %s waits already", w.ID)
	}
	if t.waiting == nil {
		t.waiting = make(map[string]*Waiting)
	}
	t.waiting[w.ID] = w
	return nil
}

func or(n, standard int) int {
	if n > 0 {
		return n
	}
	return standard
}

// Wait returns who approved, when enough have. Else the error says why not: it
// is a Refused, a *DeniedError, or the cause of ctx.
func (w *Waiting) Wait(ctx context.Context) ([]Approver, error) {
	select {
	case <-w.over:
	case <-ctx.Done():
		w.end(context.Cause(ctx))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.approvers), w.err
}

// end ends the wait, if nothing else has. A nil error is that it took too long.
func (w *Waiting) end(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isOver() {
		return false
	}
	if err == nil {
		err = w.tooLate()
	}
	w.decide(err)
	return true
}

func (w *Waiting) tooLate() Refused {
	within := short(w.Expires.Sub(w.Asked))
	if n := len(w.approvers); n > 0 {
		return Refused(fmt.Sprintf("only %d of %d approved within %s", n, w.Count, within))
	}
	return Refused("nobody approved within " + within)
}

// decide is called with mu held, and once.
func (w *Waiting) decide(err error) {
	w.err = err
	w.late.Stop()
	close(w.over)
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	delete(w.table.waiting, w.ID)
}

func (w *Waiting) isOver() bool {
	select {
	case <-w.over:
		return true
	default:
		return false
	}
}

// Approve counts somebody's approval of a request, once it is recorded.
func (t *Table) Approve(id string, by Approver) (*Waiting, error) {
	w := t.find(id)
	switch {
	case w == nil:
		return nil, ErrNothing
	case w.Own(by):
		return nil, ErrOwn
	case !w.May(by):
		return nil, ErrNothing
	}
	return w, w.approve(by)
}

func (w *Waiting) approve(by Approver) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isOver() {
		return ErrNothing
	}
	key := Fingerprint(by.Key)
	if slices.ContainsFunc(w.approvers, func(a Approver) bool { return a.same(key, append([]string{by.Name}, by.Also...)...) }) {
		return ErrAlready
	}
	all := append(slices.Clone(w.approvers), by)
	if err := w.Record(all); err != nil {
		return err
	}
	w.approvers = all
	if len(all) >= w.Count {
		w.decide(nil)
	}
	return nil
}

// Deny ends a request. Whoever may approve it may deny it.
func (t *Table) Deny(id string, by Approver) error {
	w := t.find(id)
	if w == nil || w.Own(by) || !w.May(by) || !w.end(&DeniedError{by}) {
		return ErrNothing
	}
	return nil
}

// List returns what somebody may approve, the oldest first.
func (t *Table) List(by Approver) []*Waiting {
	list := slices.DeleteFunc(t.all(), func(w *Waiting) bool { return w.Own(by) || !w.May(by) })
	slices.SortFunc(list, func(a, b *Waiting) int { return a.Asked.Compare(b.Asked) })
	return list
}

// See returns a request to whom it is no secret: to those who may approve it,
// and to the one who waits.
func (t *Table) See(id string, who Approver) (*Waiting, error) {
	w := t.find(id)
	if w == nil || !w.Own(who) && !w.May(who) {
		return nil, ErrNothing
	}
	return w, nil
}

// Signed returns the key that signed a request: nobody has approved it by that
// alone.
func (t *Table) Signed(id string, armored []byte) (ssh.PublicKey, error) {
	w := t.find(id)
	if w == nil {
		return nil, ErrNothing
	}
	return w.Verify(armored)
}

// Approvers are those who have approved so far.
func (w *Waiting) Approvers() []Approver {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.approvers)
}

func (t *Table) find(id string) *Waiting {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting[id]
}

func (t *Table) all() (all []*Waiting) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.waiting {
		all = append(all, w)
	}
	return all
}

// Review ends what waits and may not begin any more, whoever approves it.
func (t *Table) Review() {
	t.mu.Lock()
	waiting := slices.Collect(maps.Values(t.waiting))
	t.mu.Unlock()
	for _, w := range waiting {
		if w.Still == nil {
			continue
		}
		if err := w.Still(); err != nil {
			w.end(err)
		}
	}
}
