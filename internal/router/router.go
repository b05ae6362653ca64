// Package router turns a login name into a running container, pinned.
//
// It looks names up and pins what it finds; whether somebody may enter it is
// not its question. What a runtime says is not believed until the kernel has
// said the same of a process that is already held by a pidfd.
//
// One container has one identity: a process inside a container is that
// container, whatever it was called by.
package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Ref is a login name, parsed and not looked up: "web-1", "docker:web-1",
// "pid:4711". Runtime is empty where the login named none.
type Ref struct{ Runtime, ID string }

func (r Ref) String() string {
	if r.Runtime == "" {
		return r.ID
	}
	return r.Runtime + ":" + r.ID
}

// Found is what one runtime says of one of its containers. Nothing in it has
// been checked against the kernel.
type Found struct {
	ID     string   // full
	Name   string   // exact, as a login has it
	Names  []string // further exact names: of a pod, for each of its containers
	Image  string
	Digest string // of the image, "sha256:…", where the runtime tells
	Labels map[string]string
	PID    int    // the container's init, in the host's PID namespace; 0 if it has none
	Start  uint64 // when that was started, in clock ticks since boot; 0 where the runtime does not tell
	Closed string // why it cannot be entered now: "is paused"; empty if it can
	Host   bool   // it is a process that sees the host's own files
	Source string // where the answer is from: the path of a file, or of a socket

	Namespace, Pod string // of Kubernetes, by the runtime that makes its containers

	cgroups []string // that the runtime says it made for it: see [inClaimed]
	of      string   // the runtime that has had it made, as far as can be seen
}

// Runtime is a source of containers: one file each.
type Runtime interface {
	Name() string

	// Find returns every container that id may mean: by exact name, by full
	// ID, by an ID prefix of at least four characters. None is not an error;
	// an error means that the runtime could not be asked, or not for all: what
	// it did find is matched nevertheless.
	Find(ctx context.Context, id string) ([]Found, error)

	// List returns every container that runs. The error is as Find's.
	List(ctx context.Context) ([]Found, error)

	// Verify asks the kernel, and not the runtime, whether f.PID is a process
	// of the container f. It is called while that process is held, so that
	// its PID cannot become another's on the way.
	Verify(f Found) error
}

// Match is a container that a login may mean.
type Match struct {
	Runtime string
	Found
}

// String is for people: "container web-1", "process 4711".
func (m Match) String() string {
	switch {
	case m.Runtime == pidRuntime:
		return "process " + m.ID
	case m.Name == "":
		return "container " + m.ID
	}
	return "container " + m.Name
}

// The reasons for which Resolve finds nothing to enter. Any other error means
// that nobody knows: a runtime did not answer, or the kernel contradicts it.
var (
	ErrNotFound  = errors.New("no such container")
	ErrAmbiguous = errors.New("more than one container")
)

// AmbiguousError is an ErrAmbiguous with the containers that were meant, for
// those who may enter them.
type AmbiguousError struct {
	Ref     Ref
	Matches []Match
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("router: %s: %v: %s", e.Ref, ErrAmbiguous, strings.Join(e.Spellings(), ", "))
}

func (e *AmbiguousError) Unwrap() error { return ErrAmbiguous }

// Spellings returns one login for each of the matches, that means only it.
func (e *AmbiguousError) Spellings() []string {
	meant := map[Ref]int{}
	for _, m := range e.Matches {
		for _, ref := range m.refs() {
			meant[ref]++
		}
	}
	var logins []string
	for _, m := range e.Matches {
		refs := append(m.refs(), Ref{pidRuntime, strconv.Itoa(m.PID)}) // the number, if nothing else will do
		only := slices.IndexFunc(refs, func(ref Ref) bool { return meant[ref] <= 1 })
		logins = append(logins, refs[max(only, 0)].String())
	}
	return logins
}

// refs are the exact names of a container, with its runtime's: each once.
func (m Match) refs() (refs []Ref) {
	for _, id := range distinct(append([]string{m.Name, m.ID}, m.Names...)) {
		if id != "" {
			refs = append(refs, Ref{m.Runtime, id})
		}
	}
	return refs
}

// ClosedError is about a container that is there, but cannot be entered now:
// it is paused, say.
type ClosedError struct{ Match Match }

func (e *ClosedError) Error() string {
	return fmt.Sprintf("router: %s %s", e.Match, e.Match.Closed)
}
