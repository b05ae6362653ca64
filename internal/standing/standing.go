// Package standing keeps grants and locks on disk: what was given or taken
// beside the rules, and must survive a restart.
//
// Each is a file of its own, DIR/grants/ID.json or DIR/locks/ID.json, signed with
// the host's key: who can write to the directory, but has not that key, can add
// nothing. They can take away, and put back what was taken away before its time
// was over; the directory is root's. A file that is gone has ended.
//
// What cannot be believed never lets anybody in. A grant is left out; a lock
// locks everybody.
//
// It does not judge: which of them hold, and at what time, others say.
package standing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Grant lets one person into one container for a time.
type Grant struct {
	ID      string    `json:"id"`
	Person  string    `json:"person"`
	Target  string    `json:"target"`            // NAME, or RUNTIME:NAME
	Exec    []string  `json:"exec,omitempty"`    // patterns of commands; none: a shell
	Profile string    `json:"profile,omitempty"` // none: the default
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	Reason  string    `json:"reason"`
	By      string    `json:"by"`
}

// Lock keeps somebody out, or everybody out of something.
type Lock struct {
	ID     string    `json:"id"`
	Person string    `json:"person,omitempty"` // none: everybody
	Target string    `json:"target,omitempty"` // none: all
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is taken away
	Reason string    `json:"reason"`
	By     string    `json:"by"`
}

// Over tells whether a grant has run out.
func (g Grant) Over(now time.Time) bool { return !now.Before(g.Until) }

// Over tells whether a lock has run out.
func (l Lock) Over(now time.Time) bool { return !l.Until.IsZero() && !now.Before(l.Until) }

// Says is all of a grant in words, but the reason.
func (g Grant) Says() string {
	what := "a shell"
	if len(g.Exec) > 0 {
		what = fmt.Sprintf("%q", g.Exec)
	}
	if g.Profile != "" {
		what += " with profile " + g.Profile
	}
	return fmt.Sprintf("%s may have %s in %s until %s, by %s", g.Person, what, g.Target, moment(g.Until), g.By)
}

// Says is the same of a lock.
func (l Lock) Says() string {
	who, where, until := "everybody", "", ""
	if l.Person != "" {
		who = l.Person
	}
	if l.Target != "" {
		where = " of " + l.Target
	}
	if !l.Until.IsZero() {
		until = " until " + moment(l.Until)
	}
	return fmt.Sprintf("%s is locked out%s%s, by %s", who, where, until, l.By)
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Bounds of what is kept, and of each of it in bytes.
const (
	MaxCount = 4096
	maxSize  = 16 << 10
)

// Store is a directory of them. It need not be there.
type Store struct {
	dir string
	key ssh.Signer
}

// In returns the store in a directory, signed with a key.
func In(dir string, key ssh.Signer) *Store { return &Store{dir, key} }

// Dirs are the directories whose files are read.
func (s *Store) Dirs() []string { return []string{s.path(grants), s.path(locks)} }

// State is all that a store has, also what is over.
type State struct {
	Grants []Grant
	Locks  []Lock // one of everybody in place of each that cannot be believed
	Faults []Fault
}

// Next is when the first of it runs out that has not yet; zero if nothing will.
func (s State) Next(now time.Time) (next time.Time) {
	var ends []time.Time
	for _, g := range s.Grants {
		ends = append(ends, g.Until)
	}
	for _, l := range s.Locks {
		ends = append(ends, l.Until)
	}
	for _, end := range ends {
		if end.After(now) && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}

// Fault is a file that cannot be believed, or a directory that cannot be read.
type Fault struct {
	Path string
	ID   string // of what should be there; empty: it is a directory
	Lock bool   // and so everybody is locked out
	Err  error
}

// Error says what is wrong, what that means, and the way out.
func (f Fault) Error() string {
	switch {
	case f.ID == "" && f.Lock:
		return fmt.Sprintf("standing: %s: %v: everybody is locked out until that is put right", f.Path, f.Err)
	case f.ID == "":
		return fmt.Sprintf("standing: %s: %v: no grant holds until that is put right", f.Path, f.Err)
	case f.Lock:
		return fmt.Sprintf("standing: %s: %v: everybody is locked out (to lift that: cartsshd unlock %s)", f.Path, f.Err, f.ID)
	}
	return fmt.Sprintf("standing: %s: %v: it grants nothing (to be rid of it: cartsshd revoke %s)", f.Path, f.Err, f.ID)
}

// lock is the one that a fault makes.
func (f Fault) lock() Lock {
	id := f.ID
	if id == "" {
		id = "unreadable"
	}
	return Lock{ID: id, By: "cartsshd", Reason: f.Error()}
}

// Read reads all of it. It cannot fail: what it could not read is among the
// faults, and what these mean is in force.
func (s *Store) Read() State {
	state := State{}
	var bad []Fault
	state.Locks, bad = read[Lock](s, locks) // first: they are in a hurry
	for _, f := range bad {
		state.Locks = append(state.Locks, f.lock())
	}
	state.Grants, state.Faults = read[Grant](s, grants)
	state.Faults = append(bad, state.Faults...)
	return state
}

// AddGrant keeps a grant, under an ID of its own. It takes effect after record
// has returned, and not at all if that fails.
func (s *Store) AddGrant(g Grant, record func(Grant) error) (Grant, error) {
	f, err := s.begin(grants)
	if err != nil {
		return g, err
	}
	defer f.discard()
	g.ID = f.id
	if err := errors.Join(g.check(f.id), f.write(g)); err != nil {
		return g, err
	}
	if err := record(g); err != nil {
		return g, err
	}
	return g, f.commit()
}

// AddLock does the same with a lock.
func (s *Store) AddLock(l Lock, record func(Lock) error) (Lock, error) {
	f, err := s.begin(locks)
	if err != nil {
		return l, err
	}
	defer f.discard()
	l.ID = f.id
	if err := errors.Join(l.check(f.id), f.write(l)); err != nil {
		return l, err
	}
	if err := record(l); err != nil {
		return l, err
	}
	return l, f.commit()
}

// EndGrant takes a grant away, damaged or not.
func (s *Store) EndGrant(id string) error { return s.remove(grants, id) }

// EndLock takes a lock away, damaged or not.
func (s *Store) EndLock(id string) error { return s.remove(locks, id) }

// An entry is a Grant or a Lock.
type entry interface {
	check(id string) error
}

// check is for what a signature does not tell: that it says all it must.
func (g Grant) check(id string) error {
	switch {
	case g.ID != id:
		return fmt.Errorf("is of %q: it was renamed", g.ID)
	case g.Person == "" || g.Target == "" || g.Until.IsZero():
		return errors.New("does not say who, where, or until when")
	}
	return nil
}

func (l Lock) check(id string) error {
	if l.ID != id {
		return fmt.Errorf("is of %q: it was renamed", l.ID)
	}
	return nil
}

// newID is short, and can be read out: no 0 and o, no 1, i and l.
func newID(prefix string) string {
	const letters = "23456789abcdefghjkmnpqrstuvwxyz"
	var id strings.Builder
	id.WriteString(prefix)
	random := make([]byte, 6)
	rand.Read(random) // never fails
	for _, b := range random {
		id.WriteByte(letters[int(b)%len(letters)])
	}
	return id.String()
}
