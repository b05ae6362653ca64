// Package audit keeps the record of who entered what, and of everything
// they were shown.
//
// A session that cannot be recorded does not run.
package audit

import "io"

// Log is the journal of one directory, and the recordings beside it.
type Log struct{}

// Person is who did it.
type Person struct {
	Name   string   `json:"name"`
	Key    string   `json:"key"` // SHA256 fingerprint
	Groups []string `json:"groups,omitempty"`
}

// Client is where they did it from.
type Client struct {
	Address  string `json:"address"`
	Software string `json:"software,omitempty"` // SSH version string
}

// Target is the container it was done to.
type Target struct {
	Runtime string `json:"runtime"`
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Image   string `json:"image,omitempty"`
	PID     int    `json:"pid"`
}

// PTY is the terminal a session has.
type PTY struct {
	Term string `json:"term"`
	Cols uint32 `json:"cols"`
	Rows uint32 `json:"rows"`
}

// Meta is what is known of a session when it begins.
type Meta struct {
	Person  Person   `json:"person"`
	Client  Client   `json:"client"`
	Login   string   `json:"login"` // as typed
	Target  Target   `json:"target"`
	Rule    string   `json:"rule"`
	Profile string   `json:"profile,omitempty"`
	Kind    string   `json:"kind"` // shell, exec
	Command string   `json:"command,omitempty"`
	Argv    []string `json:"argv,omitempty"`
	PTY     *PTY     `json:"pty,omitempty"` // nil: none, and no recording
	Tools   string   `json:"tools,omitempty"`
}

// Event is anything else worth a line: a sign-in, a denial, a request refused.
type Event struct {
	Event   string  `json:"event"` // "signin.failed", "session.denied", "request.refused", "daemon.start" …
	Session string  `json:"session,omitempty"`
	Person  *Person `json:"person,omitempty"`
	Client  *Client `json:"client,omitempty"`
	Login   string  `json:"login,omitempty"`
	Target  *Target `json:"target,omitempty"`
	Rule    string  `json:"rule,omitempty"`
	Command string  `json:"command,omitempty"`
	Detail  string  `json:"detail,omitempty"` // why, in words
}

// Reason is why a session ended, in plain words: "exited", "client left",
// "container web-1 stopped".
type Reason string

// Open opens the record in dir, and makes dir (0700) if it is not there.
func Open(dir string) (*Log, error) { panic("todo") }

// Event writes one line; it is durable on return.
func (l *Log) Event(e Event) error { panic("todo") }

// Begin writes that a session opens: durable on return, or the session does
// not run.
func (l *Log) Begin(m Meta) (*Session, error) { panic("todo") }

// Close ends the record.
func (l *Log) Close() error { panic("todo") }

// Session is the record of one session.
type Session struct{}

// ID is a UUIDv7.
func (s *Session) ID() string { panic("todo") }

// Output returns a writer that records, then writes to w: failing to record is
// failing to write. Without a pty it counts bytes only.
func (s *Session) Output(w io.Writer) io.Writer { panic("todo") }

// Input counts what the person sent; it is not kept.
func (s *Session) Input(w io.Writer) io.Writer { panic("todo") }

// Resize records a new terminal size.
func (s *Session) Resize(cols, rows uint32) { panic("todo") }

// Failed is closed as soon as the recording cannot be written any more.
func (s *Session) Failed() <-chan struct{} { panic("todo") }

// End closes the recording and writes that the session closed: durable on
// return. Signal is empty unless one ended the command.
func (s *Session) End(code int, signal string, reason Reason) error { panic("todo") }
