// Package audit keeps the record of who entered what, and of everything
// they were shown.
//
// A session that cannot be recorded does not run.
//
// The record is a directory: journal.jsonl, one JSON object a line (Record,
// described in docs/audit.md), recordings/, one asciicast v2 file for every
// session with a terminal, and host/, the same of what is done at the host. What Event, Durable and End have acknowledged
// is on the disk, not on its way there. A recording follows the screen by some
// milliseconds and is on the disk when End returns.
//
// It does not judge, it does not rotate, and it holds no secret: what a person
// types is counted, not kept.
package audit

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/uuid"
)

// ErrUnrecorded is in every error which means that something was not recorded,
// and so must not happen.
var ErrUnrecorded = errors.New("audit: could not be recorded")

func unrecorded(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnrecorded, err)
}

// Log is the journal of one directory, and the recordings beside it. Its
// methods may be called from any goroutine.
type Log struct {
	lock       *os.File // the directory itself; holds the flock
	root       *os.Root
	recordings *os.Root
	running    *os.Root // of what is done at the host: a file for each session that runs; else nil
	turns      *turns   // the same
	shelf      *os.File // recordings/, to sync its entries
	journal    *journal
	disk       *disk
}

// Person is who did it.
type Person struct {
	Name   string   `json:"name,omitempty"` // nobody's, if the key is nobody's any more
	Key    string   `json:"key,omitempty"`  // SHA256 fingerprint
	Groups []string `json:"groups,omitempty"`

	Certificate *Certificate `json:"certificate,omitempty"` // nil: a plain key

	// Of who did it at the host itself.
	UID      *int   `json:"uid,omitempty"`
	LoginUID *int   `json:"login_uid,omitempty"` // as the kernel remembers it over su and sudo (pam_loginuid(8))
	SudoUser string `json:"sudo_user,omitempty"` // as sudo says
}

// Certificate is the SSH user certificate that somebody signed in with.
type Certificate struct {
	KeyID     string `json:"key_id,omitempty"`
	Serial    uint64 `json:"serial,omitempty"`
	Authority string `json:"authority"` // SHA256 fingerprint of the key that signed it
}

// Approver is somebody who let a session begin that waited for it.
type Approver struct {
	Name string `json:"name"`
	Key  string `json:"key"` // SHA256 fingerprint
	How  string `json:"how"` // in words: signed in, or by a signature
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
	Digest  string `json:"digest,omitempty"` // of the image
	Source  string `json:"source,omitempty"` // where the runtime's answer is from: a file, or a socket
	PID     int    `json:"pid"`
	Started uint64 `json:"started,omitempty"` // start time of pid, in clock ticks since boot

	Namespaces Namespaces `json:"namespaces,omitempty"`
}

// Namespaces are the inode numbers of a process's namespaces.
type Namespaces struct {
	Mnt    uint64 `json:"mnt,omitempty"`
	PID    uint64 `json:"pid,omitempty"`
	Net    uint64 `json:"net,omitempty"`
	IPC    uint64 `json:"ipc,omitempty"`
	UTS    uint64 `json:"uts,omitempty"`
	User   uint64 `json:"user,omitempty"`
	Cgroup uint64 `json:"cgroup,omitempty"`
}

// Privileges are what a session was given.
type Privileges struct {
	User         string   `json:"user"`                   // UID:GID[,GID…], in the numbers of the container
	Capabilities []string `json:"capabilities,omitempty"` // without CAP_
	Namespaces   []string `json:"namespaces,omitempty"`   // that were joined
	Seccomp      string   `json:"seccomp,omitempty"`      // in words: whose filter
	LSM          string   `json:"lsm,omitempty"`          // label, if one was taken
	Limits       string   `json:"limits,omitempty"`       // in words
}

// PTY is the terminal a session has.
type PTY struct {
	Term string `json:"term"`
	Cols uint32 `json:"cols"`
	Rows uint32 `json:"rows"`
}

// Unkept is for the output of a session whose screen is not to be recorded,
// because its rule says so.
const Unkept = "none"

// Meta is what is known of a session when it begins.
type Meta struct {
	Person  Person `json:"person"`
	Client  Client `json:"client"`
	Login   string `json:"login"`  // as typed
	Target  Target `json:"target"` // zero: none, as of what is bound at the host
	Rule    string `json:"rule"`
	Profile string `json:"profile,omitempty"`

	Reason     string     `json:"reason,omitempty"` // that the person gave for it
	Approvers  []Approver `json:"approvers,omitempty"`
	BreakGlass string     `json:"break_glass,omitempty"` // "yes" of emergency access

	Privileges *Privileges `json:"privileges,omitempty"`

	Kind    string   `json:"kind"` // shell, exec; at the host also mount, unmount, bind, unbind
	Command string   `json:"command,omitempty"`
	Argv    []string `json:"argv,omitempty"`
	Asked   string   `json:"asked,omitempty"`  // in vain, by a key that is bound to Command
	PTY     *PTY     `json:"pty,omitempty"`    // nil: none, and no recording
	Output  string   `json:"output,omitempty"` // Unkept: no recording; all else is recorded
	Tools   string   `json:"tools,omitempty"`
}

// Event is anything else worth a line: a sign-in, a denial, a request refused.
type Event struct {
	Event   string  `json:"event"` // SigninFailed, SessionDenied, RequestRefused, DaemonStart …
	Session string  `json:"session,omitempty"`
	Person  *Person `json:"person,omitempty"`
	Client  *Client `json:"client,omitempty"`
	Login   string  `json:"login,omitempty"`
	Target  *Target `json:"target,omitempty"`
	Rule    string  `json:"rule,omitempty"`
	Reason  string  `json:"reason,omitempty"` // that the person gave
	Command string  `json:"command,omitempty"`
	Tools   string  `json:"tools,omitempty"`
	Detail  string  `json:"detail,omitempty"` // why, in words

	Approvers []Approver `json:"approvers,omitempty"`
}

// Reason is why a session ended, in plain words: "exited", "client left",
// "container web-1 stopped".
type Reason string

// Event writes one line; it is durable on return.
func (l *Log) Event(e Event) error {
	r, err := e.record()
	if err == nil {
		err = l.journal.append(r)
	}
	return unrecorded(err)
}

// Note is Event for what nobody needs to wait for: it comes before what is
// written later, and if the disk fails, the journal tells of that.
func (l *Log) Note(e Event) error {
	r, err := e.record()
	if err == nil {
		_, err = l.journal.start(r)
	}
	return unrecorded(err)
}

func (e Event) record() (*Record, error) {
	if e.Event == "" {
		return nil, errors.New("event without a name")
	}
	return &Record{
		Event:   e.Event,
		Session: e.Session,
		Person:  e.Person,
		Client:  e.Client,
		Login:   e.Login,
		Target:  e.Target,
		Rule:    e.Rule,
		Reason:  e.Reason,
		Command: e.Command,
		Tools:   e.Tools,
		Detail:  e.Detail,

		Approvers: e.Approvers,
	}, nil
}

// Begin writes that a session opens. The disk may still be at work on return,
// while the session is prepared: it must not run before Durable has said that
// it may. With a PTY, unless its output is Unkept, its recording exists by then, header and all; the
// recording's own durability is End's promise.
func (l *Log) Begin(m Meta) (*Session, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, unrecorded(err)
	}
	s := &Session{log: l, opened: opening(id.String(), m), failed: make(chan struct{})}
	if m.PTY != nil && m.Output != Unkept {
		if s.recording, err = l.record(s.opened, s.failed); err != nil {
			return nil, unrecorded(err)
		}
		s.opened.Recording = &Recording{Name: s.recording.name}
	}
	if s.mark, err = l.mark(&s.opened); err != nil {
		s.discard()
		return nil, unrecorded(err)
	}
	if s.opening, err = l.journal.start(&s.opened); err != nil {
		s.discard()
		return nil, unrecorded(err)
	}
	// Only the close is still to be written, and a command can be long.
	s.opened.Command, s.opened.Argv, s.opened.Asked = "", nil, ""
	return s, nil
}

func opening(id string, m Meta) Record {
	target := &m.Target
	if m.Target == (Target{}) {
		target = nil
	}
	return Record{
		Event:      SessionOpen,
		Session:    id,
		Person:     &m.Person,
		Client:     &m.Client,
		Login:      m.Login,
		Target:     target,
		Rule:       m.Rule,
		Profile:    m.Profile,
		Reason:     m.Reason,
		Approvers:  m.Approvers,
		BreakGlass: m.BreakGlass,
		Privileges: m.Privileges,
		Kind:       m.Kind,
		Command:    m.Command,
		Argv:       m.Argv,
		Asked:      m.Asked,
		PTY:        m.PTY,
		Output:     m.Output,
		Tools:      m.Tools,
	}
}

// Close ends the record. Sessions still open then cannot be closed in the
// journal any more; the next Open closes them as lost.
func (l *Log) Close() error {
	err := l.journal.close()
	return errors.Join(err, l.release())
}

func (l *Log) release() error {
	var errs []error
	if l.shelf != nil {
		errs = append(errs, l.shelf.Close())
	}
	for _, dir := range []*os.Root{l.recordings, l.running} {
		if dir != nil {
			errs = append(errs, dir.Close())
		}
	}
	return errors.Join(append(errs, l.root.Close(), l.lock.Close())...)
}

// disk is the way to the file system. Go gives a thread to every system call
// that blocks and never takes it back, so that only so many of our sessions may
// wait for a slow disk at a time.
type disk struct {
	slots chan struct{}
	fault func(op string) error // of a test: called before the real thing; nil is none
}

func newDisk() *disk { return &disk{slots: make(chan struct{}, 4)} }

// use runs one operation, named for tests: "write recording".
func (d *disk) use(op string, f func() error) error {
	d.slots <- struct{}{}
	defer func() { <-d.slots }()
	return d.try(op, f)
}

func (d *disk) try(op string, f func() error) error {
	if d.fault != nil {
		if err := d.fault(op); err != nil {
			return err
		}
	}
	return f()
}

// first returns the result of whoever comes first, to all who come.
type first struct {
	once sync.Once
	err  error
}

func (f *first) do(g func() error) error {
	f.once.Do(func() { f.err = g() })
	return f.err
}
