// Package authz answers one question: may this person do this to that
// container, by which rule, on what terms.
//
// It is pure: no files, no network, no clock but the Request's.
package authz

import (
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"
)

// Subject is a person who has proved a key. The zero Subject is nobody.
type Subject struct {
	Person string
	Groups []string
}

// Target is what the policy may know of a container.
type Target struct {
	Runtime, ID, Name, Image string
	Labels                   map[string]string
}

// Kind is what a person asks to do.
type Kind string

// The kinds of request.
const (
	Shell Kind = "shell"
	Exec  Kind = "exec"
)

// Request is one question.
type Request struct {
	Target  Target
	Kind    Kind
	Command string // of an exec, as the client sent it
	Time    time.Time
	From    netip.Addr
}

// Decision is the answer. The zero value denies.
type Decision struct {
	Allow bool
	Rule  string   // the rule that decided; empty if none matched
	Why   string   // for the record, never for the person denied
	Argv  []string // an exec that must run without a shell, split; nil: the shell runs it
	Terms Terms
}

// Terms are the conditions of an allowed session.
type Terms struct {
	Profile string `yaml:"profile"` // of nsexec; "general" if empty
}

// Policy is who may do what. A nil *Policy knows nobody and denies everything.
type Policy struct{}

// Identify returns the person whose key this is.
func (p *Policy) Identify(key ssh.PublicKey) (Subject, bool) { panic("todo") }

// Decide judges by the first rule whose people and targets match.
func (p *Policy) Decide(who Subject, what Request) Decision { panic("todo") }
