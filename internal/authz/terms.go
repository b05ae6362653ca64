package authz

import (
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Terms are the conditions of an allowed session. What they mean, nsexec.Profile
// says; here they are words.
type Terms struct {
	Profile string
	Image   string // the tools image that it must have: a name, or "sha256:" and the digest in hex; empty: any

	User            string   // UID[:GID[,GID…]], instead of the profile's
	CapAdd, CapDrop []string // without CAP_
	Namespaces      []string // nil: all
	Cgroup          string   // CgroupSession or CgroupTarget
	Memory          int64    // bytes; 0: no limit
	Pids            int      // 0: no limit
	SeccompMust     bool     // no session without the container's seccomp filter
	Host            bool     // a process of the host itself may be entered

	Reason    *regexp.Regexp // that a reason must match; nil: none is asked for
	TOTP      bool           // a one-time password is asked for
	Approve   *Approve       // who must let the session begin; nil: nobody
	Max       time.Duration  // how long a session may last; 0: no limit
	Idle      time.Duration  // how long nothing may come from its client; 0: no limit
	Until     time.Time      // when it ends at the latest; zero: no limit
	Sessions  int            // of one person by this rule, at a time; 0: no limit
	Output    string         // what is recorded of it: OutputFull or OutputNone
	Env       []Glob         // names of variables that clients may set, besides the usual ones
	Emergency bool           // break-glass: whoever comes in by it raises an alarm
}

// Approve says who must let a session begin that waits for it.
type Approve struct {
	By     []string      // people, and "group:NAME"
	Count  int           // so many of them, at least 1
	Within time.Duration // or the session is denied

	by persons
}

// What is recorded of a terminal's output.
const (
	OutputFull = "full"
	OutputNone = "none"
)

// Whose limits a session is under.
const (
	CgroupSession = "session" // its own
	CgroupTarget  = "target"  // the container's
)

// TermsOfRule are a rule's Terms, as its file has them.
type TermsOfRule struct {
	Profile    strictyaml.At[string]                  `yaml:"profile"`
	Image      strictyaml.At[string]                  `yaml:"image"`
	User       strictyaml.At[string]                  `yaml:"user"`
	CapAdd     []strictyaml.At[string]                `yaml:"cap_add"`
	CapDrop    []strictyaml.At[string]                `yaml:"cap_drop"`
	Namespaces strictyaml.At[[]strictyaml.At[string]] `yaml:"namespaces"`
	Cgroup     strictyaml.At[string]                  `yaml:"cgroup"`
	Memory     Size                                   `yaml:"memory"`
	Pids       Number                                 `yaml:"pids"`
	Seccomp    strictyaml.At[string]                  `yaml:"seccomp"`
	Host       Switch                                 `yaml:"host"`
	Reason     strictyaml.At[string]                  `yaml:"reason"`
	TOTP       Switch                                 `yaml:"totp"`
	Approve    strictyaml.At[ApproveOfRule]           `yaml:"approve"`
	Max        time.Duration                          `yaml:"max"`
	Idle       time.Duration                          `yaml:"idle"`
	Sessions   Number                                 `yaml:"sessions"`
	Record     RecordOfRule                           `yaml:"record"`
}

// ApproveOfRule is an Approve, as its file has it.
type ApproveOfRule struct {
	By     strictyaml.At[[]strictyaml.At[string]] `yaml:"by"`
	Count  Number                                 `yaml:"count"`
	Within time.Duration                          `yaml:"within"`
}

// RecordOfRule says what of a session is recorded besides the journal, as its
// file has it.
type RecordOfRule struct {
	Output       strictyaml.At[string] `yaml:"output"`
	Input        strictyaml.At[string] `yaml:"input"`
	IfUnrecorded strictyaml.At[string] `yaml:"if_unrecorded"`
}

// Size is a number of bytes, with K, M, G or T for powers of 1024.
type Size int64

// minMemory is what a session takes to come about.
const minMemory = 16 << 20

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Size) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGT", number[n-1]); i >= 0 {
			number, shift = number[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift || n<<shift < minMemory {
		return errors.New("wants a size of 16M or more, such as 512M")
	}
	*s = Size(n << shift)
	return nil
}

// Number counts something, from 1 on.
type Number int

// UnmarshalText implements [encoding.TextUnmarshaler].
func (n *Number) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 22)
	if err != nil || v == 0 {
		return errors.New("wants a number from 1 to 4194303")
	}
	*n = Number(v)
	return nil
}

// Switch is true or false, and not yes or on.
type Switch bool

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Switch) UnmarshalText(text []byte) error {
	if string(text) != "true" && string(text) != "false" {
		return errors.New("wants true or false")
	}
	*s = string(text) == "true"
	return nil
}

func (c *compiler) terms(t TermsOfRule) Terms {
	terms := c.each(t)
	for i, name := range terms.CapAdd {
		if slices.Contains(terms.CapDrop, name) {
			c.problemf(t.CapAdd[i].Pos, "%s is both added and dropped", name)
		}
	}
	if terms.SeccompMust && slices.Contains(c.known.Unconfined, terms.Profile) {
		c.problemf(t.Seccomp.Pos, "profile %s has no seccomp filter: leave this out, or take another profile", terms.Profile)
	}
	for _, name := range c.known.Namespaces {
		if terms.Namespaces != nil && !terms.Host && name != "cgroup" && !slices.Contains(terms.Namespaces, name) {
			c.problemf(t.Namespaces.Pos, "leaves out %s, which would be the host's then: say host: true if that is meant", name)
			break
		}
	}
	return terms
}

func (c *compiler) each(t TermsOfRule) Terms {
	return Terms{
		Profile:     c.profile(t.Profile),
		Image:       c.image(t.Image),
		User:        c.user(t.User),
		CapAdd:      c.capabilities(t.CapAdd),
		CapDrop:     c.capabilities(t.CapDrop),
		Namespaces:  c.namespaces(t.Namespaces),
		Cgroup:      c.oneOf("cgroup", t.Cgroup, CgroupSession, CgroupTarget),
		Memory:      int64(t.Memory),
		Pids:        int(t.Pids),
		SeccompMust: c.oneOf("seccomp", t.Seccomp, "may", "must") == "must",
		Host:        bool(t.Host),
		Reason:      c.reason(t.Reason),
		TOTP:        bool(t.TOTP),
		Approve:     c.approve(t.Approve),
		Max:         t.Max,
		Idle:        t.Idle,
		Sessions:    int(t.Sessions),
		Output:      c.record(t.Record),
	}
}

// reason is a pattern of regexp/syntax that a reason must match somewhere.
func (c *compiler) reason(at strictyaml.At[string]) *regexp.Regexp {
	if at.Value == "" {
		return nil
	}
	pattern, err := regexp.Compile(at.Value)
	if err != nil {
		c.problemf(at.Pos, "reason is no regular expression: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return nil
	}
	if pattern.MatchString("") {
		c.problemf(at.Pos, "reason %q is also matched by none at all: write '.' for any reason", at.Value)
	}
	return pattern
}

func (c *compiler) approve(at strictyaml.At[ApproveOfRule]) *Approve {
	if missing(at) {
		return nil
	}
	by := at.Value.By
	if missing(by) || emptyList(by) {
		c.problemf(at.Pos, "approve has no by: write by: [group:lead]")
	}
	some := c.some(by.Value, false)
	a := &Approve{By: some.words, Count: max(1, int(at.Value.Count)), Within: at.Value.Within, by: some}
	if a.Within == 0 {
		a.Within = approveWithin
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(some.people)))); a.Count > n && n > 0 && n == len(some.words) {
		c.problemf(at.Pos, "approve waits for %d people, and by names %d", a.Count, n)
	}
	return a
}

// approveWithin is how long a session waits if its rule does not say.
const approveWithin = 10 * time.Minute

// record is what is recorded of the output. Of the input nothing ever is, and
// what cannot be recorded is not run: the file may say so, and nothing else.
func (c *compiler) record(r RecordOfRule) string {
	if v := r.Input.Value; v != "" && v != "none" {
		c.problemf(r.Input.Pos, `input %q: what is typed is not recorded: write none, or leave it out`, v)
	}
	if v := r.IfUnrecorded.Value; v != "" && v != "refuse" {
		c.problemf(r.IfUnrecorded.Pos, `if_unrecorded %q: what cannot be recorded is not run: write refuse, or leave it out`, v)
	}
	return c.oneOf("output", r.Output, OutputFull, OutputNone)
}

func (c *compiler) profile(at strictyaml.At[string]) string {
	return c.oneOf("profile", at, c.known.Profiles...)
}

// oneOf is the first of the words if none is said.
func (c *compiler) oneOf(what string, at strictyaml.At[string], words ...string) string {
	if at.Value == "" {
		return words[0]
	}
	return c.among(what, at, words)
}

// among is for what has no default: of capabilities the first would be all.
func (c *compiler) among(what string, at strictyaml.At[string], words []string) string {
	if at.Value != "" && !slices.Contains(words, at.Value) { // what is empty was told while decoding
		c.problemf(at.Pos, "unknown %s %q (%s)", what, at.Value, strictyaml.Suggest(at.Value, words))
	}
	return at.Value
}

func (c *compiler) user(at strictyaml.At[string]) string {
	if at.Value != "" && c.known.User != nil {
		if err := c.known.User(at.Value); err != nil {
			c.problemf(at.Pos, "%v", err)
		}
	}
	return at.Value
}

func (c *compiler) capabilities(list []strictyaml.At[string]) (names []string) {
	for _, at := range list {
		if name := strings.TrimPrefix(strings.ToUpper(at.Value), "CAP_"); name != "" {
			at.Value = name
		}
		names = append(names, c.among("capability", at, c.known.Capabilities))
	}
	return names
}

func (c *compiler) namespaces(list strictyaml.At[[]strictyaml.At[string]]) (names []string) {
	if emptyList(list) {
		c.problemf(list.Pos, "namespaces names none: leave it out for all")
	}
	for _, at := range list.Value {
		names = append(names, c.among("namespace", at, c.known.Namespaces))
	}
	return names
}

// image is a name or a digest. Whether an image of that digest is there, only
// who has opened them can know.
func (c *compiler) image(at strictyaml.At[string]) string {
	digest, isDigest := strings.CutPrefix(at.Value, "sha256:")
	switch {
	case at.Value == "" || slices.Contains(c.known.Images, at.Value):
	case isDigest && !isSHA256(digest):
		c.problemf(at.Pos, "%.80q is no digest: that is sha256: and 64 hex digits, in lower case", at.Value)
	case isSHA256(at.Value):
		c.problemf(at.Pos, `a digest begins with its kind: write "sha256:%.8s…"`, at.Value)
	case !isDigest:
		c.problemf(at.Pos, "no tools image is called %q (%s)", at.Value, strictyaml.Suggest(at.Value, c.known.Images))
	}
	return at.Value
}

func isSHA256(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
