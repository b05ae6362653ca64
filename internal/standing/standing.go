// Package standing keeps what stands beside the rules of a policy: grants, which
// give somebody access for a while, and locks, which take it from somebody. Each
// is a file in a directory, signed with the key of the host: who can write there,
// and does not hold that key, can give nobody access.
//
// What cannot be read, or is not signed, is no grant. As a lock it is one for
// everybody: whoever damages a lock must not open a door by it. What it cannot
// notice is that a file was taken away, or put back before it had run out.
//
// It does not judge. What grants and locks mean, the policy says.
package standing

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// Grant is access to one container for a while.
type Grant struct {
	ID      string    `json:"id"`
	Person  string    `json:"person"`
	Target  string    `json:"target"`         // its name, or RUNTIME:NAME
	Exec    []string  `json:"exec,omitempty"` // patterns of commands; none: a shell
	Profile string    `json:"profile,omitempty"`
	Until   time.Time `json:"until"`
	Reason  string    `json:"reason"`
	By      string    `json:"by"`
	Made    time.Time `json:"made"`
}

// Lock is what denies everything to somebody, or about a container.
type Lock struct {
	ID     string    `json:"id"`
	Person string    `json:"person,omitempty"` // empty: everybody
	Target string    `json:"target,omitempty"` // empty: all
	Until  time.Time `json:"until,omitzero"`   // zero: until it is taken away
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	Made   time.Time `json:"made"`
}

// Over tells whether a grant has run out.
func (g Grant) Over(now time.Time) bool { return !now.Before(g.Until) }

// Over tells whether a lock has run out.
func (l Lock) Over(now time.Time) bool { return !l.Until.IsZero() && !now.Before(l.Until) }

// Shelf is the directory in which they are, and the key by which they are known.
// Any number of processes may use it at a time.
type Shelf struct {
	Dir string
	Key ssh.Signer
}

// State is what stands.
type State struct {
	Grants []Grant
	Locks  []Lock // of damaged files, too
	Bad    []Bad
}

// Bad is a file that is not what it should be.
type Bad struct {
	Path string
	Err  error
	Lock bool // and so locks everybody
}

func (b Bad) Error() string {
	if b.Lock {
		return fmt.Sprintf("standing: %v: locks everybody, until you take it away: rm %s", b.Err, b.Path)
	}
	return fmt.Sprintf("standing: %v: grants nothing: rm %s", b.Err, b.Path)
}

// ErrNone is in the error about an ID that nothing has.
var ErrNone = errors.New("nothing of that name stands")

// The kinds of files, and of signatures: one can never pass for the other.
const (
	grants kind = "grants"
	locks  kind = "locks"
)

type kind string

func (k kind) namespace() string { return "cartsshd-" + string(k) }

// prefix begins the IDs of a kind.
func (k kind) prefix() string { return string(k)[:1] + "-" }
