package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// The names of events. docs/audit.md says when each is written.
const (
	DaemonStart       = "daemon.start"
	DaemonStop        = "daemon.stop"
	PolicyLoaded      = "policy.loaded"
	PolicyRefused     = "policy.refused"
	ToolsLoaded       = "tools.loaded"
	ConnectionRefused = "connection.refused"
	SigninOK          = "signin.ok"
	SigninFailed      = "signin.failed"
	SessionWaiting    = "session.waiting"
	SessionApproved   = "session.approved"
	SessionDenied     = "session.denied"
	SessionOpen       = "session.open"
	SessionClose      = "session.close"
	RequestRefused    = "request.refused"
	BreakGlass        = "alarm.break_glass"
	GrantAdded        = "grant.added"
	GrantEnded        = "grant.ended"
	GrantRefused      = "grant.refused"
	LockAdded         = "lock.added"
	LockEnded         = "lock.ended"

	JournalOpen  = "journal.open"
	JournalTorn  = "journal.torn"
	JournalFault = "journal.fault"
)

// The reasons of sessions that were open when the daemon died, or the process
// at the host that ran them.
const (
	DaemonLost  Reason = "daemon lost"
	ProcessLost Reason = "process lost"
)

// How much of a string is kept, in bytes.
const (
	maxText    = 4 << 10
	maxCommand = 128 << 10
)

// Record is one line of the journal: every event has this one shape, and what
// it has nothing to say of is left out.
type Record struct {
	Seq     uint64    `json:"seq"`  // counts from 1, without a gap, over restarts
	Time    time.Time `json:"time"` // UTC, never monotonic
	Event   string    `json:"event"`
	Session string    `json:"session,omitempty"` // UUIDv7
	Person  *Person   `json:"person,omitempty"`
	Client  *Client   `json:"client,omitempty"`
	Login   string    `json:"login,omitempty"`
	Target  *Target   `json:"target,omitempty"`
	Rule    string    `json:"rule,omitempty"`
	Profile string    `json:"profile,omitempty"`

	Reason     string     `json:"reason,omitempty"` // that the person gave
	Approvers  []Approver `json:"approvers,omitempty"`
	BreakGlass string     `json:"break_glass,omitempty"`

	Privileges *Privileges `json:"privileges,omitempty"` // of session.open only

	Kind string `json:"kind,omitempty"`

	Command       string   `json:"command,omitempty" keep:"long"`
	CommandBytes  int      `json:"command_bytes,omitempty"`  // when cut: its length
	CommandSHA256 string   `json:"command_sha256,omitempty"` // when cut: of the whole
	Argv          []string `json:"argv,omitempty" keep:"long"`
	Asked         string   `json:"asked,omitempty"` // in vain, by a key that is bound to Command

	PTY       *PTY       `json:"pty,omitempty"`
	Output    string     `json:"output,omitempty"` // Unkept, or kept
	Tools     string     `json:"tools,omitempty"`
	Recording *Recording `json:"recording,omitempty"`
	Exit      *Exit      `json:"exit,omitempty"` // of session.close only
	Detail    string     `json:"detail,omitempty"`
}

// Recording is the file in which a session's output stands.
type Recording struct {
	Name   string `json:"name"`             // under the record's directory
	Bytes  int64  `json:"bytes,omitempty"`  // when closed
	SHA256 string `json:"sha256,omitempty"` // when closed, and whole
	Error  string `json:"error,omitempty"`  // why it is not whole
}

// Exit is how a session ended.
type Exit struct {
	Code     int    `json:"code"`
	Signal   string `json:"signal,omitempty"`
	Reason   Reason `json:"reason"`
	BytesIn  int64  `json:"bytes_in"`  // from the person
	BytesOut int64  `json:"bytes_out"` // to the person
}

// bounded returns r with a command and arguments of a size worth keeping.
func (r Record) bounded() Record {
	if len(r.Command) > maxCommand {
		sum := sha256.Sum256([]byte(r.Command))
		r.CommandBytes, r.CommandSHA256 = len(r.Command), hex.EncodeToString(sum[:])
		r.Command = r.Command[:maxCommand]
	}
	if total(r.Argv) > maxCommand {
		r.Argv = nil // split from the command, whose hash is kept
	}
	return r
}

func total(words []string) (n int) {
	for _, w := range words {
		n += len(w)
	}
	return n
}

// appendLine appends r as a line of the journal.
func appendLine(dst []byte, r *Record) []byte {
	dst = appendValue(dst, reflect.ValueOf(r.bounded()), maxText)
	return append(dst, '\n')
}

// appendValue is encoding/json's Marshal for the few kinds a Record is made of,
// and differs in what it does to strings: see appendText. The struct tags are
// the schema, for this and for those who read.
func appendValue(dst []byte, v reflect.Value, limit int) []byte {
	switch v.Kind() {
	case reflect.String:
		return appendString(dst, cut(v.String(), limit))
	case reflect.Int, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10)
	case reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(dst, v.Uint(), 10)
	case reflect.Pointer:
		return appendValue(dst, v.Elem(), limit)
	case reflect.Slice:
		return appendSlice(dst, v, limit)
	case reflect.Struct:
		if t, ok := v.Interface().(time.Time); ok {
			return t.UTC().AppendFormat(dst, `"2006-01-02T15:04:05.000000000Z"`)
		}
		return appendStruct(dst, v)
	}
	panic("audit: a record cannot hold a " + v.Type().String())
}

func appendSlice(dst []byte, v reflect.Value, limit int) []byte {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendValue(dst, v.Index(i), limit)
	}
	return append(dst, ']')
}

func appendStruct(dst []byte, v reflect.Value) []byte {
	dst = append(dst, '{')
	empty := len(dst)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if opts == "omitempty" && v.Field(i).IsZero() {
			continue
		}
		if len(dst) > empty {
			dst = append(dst, ',')
		}
		limit := maxText
		if f.Tag.Get("keep") == "long" {
			limit = maxCommand
		}
		dst = append(appendString(dst, name), ':')
		dst = appendValue(dst, v.Field(i), limit)
	}
	return append(dst, '}')
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:limit], len(s))
}
