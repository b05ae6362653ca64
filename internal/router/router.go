// Package router turns a login name into a running container, pinned.
//
// It looks names up and pins what it finds; whether somebody may enter it is
// not its question.
package router

import (
	"context"
	"errors"
	"os"
)

// Ref is a login name, parsed and not looked up: "web-1", "docker:web-1",
// "pid:4711". Runtime is empty where the login named none.
type Ref struct{ Runtime, ID string }

// Found is what one runtime says of one of its running containers. Nothing in
// it has been checked against the kernel.
type Found struct {
	ID     string // full
	Name   string
	Image  string
	Labels map[string]string
	PID    int // the container's init, in the host's PID namespace
}

// Target is a running container, looked up, checked and pinned. The caller
// closes it.
type Target struct {
	Runtime, ID, Name, Image string
	Labels                   map[string]string
	PID                      int
	Process                  *os.File // pidfd of PID: a recycled PID cannot be entered
}

// Runtime is a source of containers: one file each.
type Runtime interface {
	Name() string

	// Find returns every running container that id may mean: by exact name,
	// by full ID, by an ID prefix of at least four characters. None is not an
	// error.
	Find(ctx context.Context, id string) ([]Found, error)
}

// The reasons for which Resolve finds nothing to enter.
var (
	ErrNotFound  = errors.New("no such container")
	ErrAmbiguous = errors.New("more than one container")
)
