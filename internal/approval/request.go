package approval

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Request is what somebody asks to be let do.
type Request struct {
	ID      string // of NewID
	Host    string // SHA256 fingerprint of the server's host key
	Person  string
	Also    []string // other names of theirs
	Key     string   // SHA256 fingerprint of the key that they proved
	Login   string   // as typed
	Target  string   // RUNTIME:ID, which no other container has
	Name    string   // of the target
	Rule    string   // that wants approval
	Profile string   // of privileges that it gives
	Kind    string   // shell, exec …
	Command string   // of an exec
	Sent    string   // what the client asked for, if a key is bound to another command, which can look at this
	Env     []string // NAME=VALUE that the client has set, and the rule lets in
	Reason  string   // that the person gave
	Asked   time.Time
	Expires time.Time
	Count   int // so many must approve it

	// Still tells why nobody's approval would do any more; nil: it would.
	Still func() error
	// May judges who may approve it, now.
	May func(Approver) bool
	// Record records that all of these have approved it, the last of them just
	// now. What cannot be recorded does not count.
	Record func(all []Approver) error
}

// NewID makes up the name of a request: eight letters and digits, of which
// there are 2^40.
func NewID() string { return rand.Text()[:8] }

// Text is the request in words, and what an approver signs: exactly these
// bytes. All that tells one request from another is in it, and what people or
// containers could choose is quoted, so that it cannot pass for another line.
func (r Request) Text() string {
	var b strings.Builder
	b.WriteString("cartsshd approval request\n")
	for _, line := range [][2]string{
		{"id", r.ID},
		{"host", r.Host},
		{"person", r.Person},
		{"key", r.Key},
		{"login", r.Login},
		{"target", r.Target},
		{"name", r.Name},
		{"rule", r.Rule},
		{"profile", r.Profile},
		{"kind", r.Kind},
		{"command", r.Command},
		{"sent", r.Sent},
		{"env", strings.Join(r.Env, "\n")},
		{"reason", r.Reason},
		{"asked", r.Asked.UTC().Format(time.RFC3339)},
		{"expires", r.Expires.UTC().Format(time.RFC3339)},
	} {
		fmt.Fprintf(&b, "%-8s %s\n", line[0], word(line[1]))
	}
	return b.String()
}

// word is s as it is if that is one plain word, and quoted otherwise. The two
// cannot be taken for each other: only what is quoted begins with a quote.
func word(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+:/=-"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// Own tells whether a request is somebody's own: it is if the person is the
// same, by whichever key, and if the key is the same, by whichever name.
func (r Request) Own(who Approver) bool { return who.same(r.Key, r.names()...) }

func (r Request) names() []string { return append([]string{r.Person}, r.Also...) }

// short is a duration without the parts of it that are zero: 10m, not 10m0s.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}
