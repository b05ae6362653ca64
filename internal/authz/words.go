package authz

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Term is one condition in words, under the name that it has in the file.
type Term struct{ Name, Words string }

// Words are all of the terms that say something: first what is asked for, then
// what the session may do, and for how long.
func (t Terms) Words() []Term {
	all := append(t.asked(), t.limits()...)
	return slices.DeleteFunc(append(all, t.privileges()...), func(t Term) bool { return t.Words == "" })
}

// Asked are those of the words that somebody has to give something for.
func (t Terms) Asked() []Term {
	return slices.DeleteFunc(t.asked(), func(t Term) bool { return t.Words == "" })
}

func (t Terms) asked() []Term {
	reason := ""
	if t.Reason != nil {
		reason = "one that matches " + t.Reason.String()
	}
	return []Term{
		{"reason", reason},
		{"totp", ifSo(t.TOTP, "a one-time password")},
		{"approve", t.Approve.words()},
	}
}

func (t Terms) limits() []Term {
	until := ""
	if !t.Until.IsZero() {
		until = t.Until.UTC().Format("2006-01-02 15:04:05 MST")
	}
	return []Term{
		{"max", short(t.Max)},
		{"idle", short(t.Idle)},
		{"until", until},
		{"sessions", count(t.Sessions)},
		{"record", "output " + t.Output},
		{"break_glass", ifSo(t.Emergency, "raises an alarm")},
	}
}

func (t Terms) privileges() []Term {
	return []Term{
		{"profile", t.Profile},
		{"user", t.User},
		{"cap_add", strings.Join(t.CapAdd, ", ")},
		{"cap_drop", strings.Join(t.CapDrop, ", ")},
		{"namespaces", strings.Join(t.Namespaces, ", ")},
		{"host", ifSo(t.Host, "a process of the host itself may be entered")},
		{"seccomp", ifSo(t.SeccompMust, "must")},
		{"cgroup", ifSo(t.Cgroup != CgroupSession, t.Cgroup)},
		{"memory", size(t.Memory)},
		{"pids", count(t.Pids)},
		{"image", t.Image},
	}
}

func (a *Approve) words() string {
	if a == nil {
		return ""
	}
	return fmt.Sprintf("by %d of %s, within %s", a.Count, strings.Join(a.By, ", "), short(a.Within))
}

// words are what a key is bound to, in the words of authorized_keys(5).
func (b Bounds) words() string {
	var words []string
	if b.Command != "" {
		words = append(words, fmt.Sprintf("command=%q", b.Command))
	}
	for _, bound := range []string{ifSo(b.NoPTY, "no-pty"), ifSo(b.NoForwarding, "no-port-forwarding"), ifSo(b.NoAgent, "no-agent-forwarding")} {
		if bound != "" {
			words = append(words, bound)
		}
	}
	return strings.Join(words, ", ")
}

// words are the permissions, as the file may have them.
func (a permissions) said() (list []string) {
	for _, word := range a.words {
		kind, way, isTransfer := strings.Cut(word, ":")
		both := slices.Contains(a.words, kind+":up") && slices.Contains(a.words, kind+":down")
		switch {
		case isTransfer && !both:
			list = append(list, kind+": ["+way+"]")
		case !slices.Contains(list, kind):
			list = append(list, kind)
		}
	}
	list = quoted(list, Exec, a.exec)
	list = quoted(list, Forward, a.forward)
	list = quoted(list, Reverse, a.reverse)
	return quoted(list, Env, a.env)
}

func quoted[T fmt.Stringer](list []string, kind Kind, patterns []T) []string {
	if len(patterns) == 0 {
		return list
	}
	var words []string
	for _, p := range patterns {
		words = append(words, strconv.Quote(p.String()))
	}
	return append(list, string(kind)+": ["+strings.Join(words, ", ")+"]")
}

// words is the window as its rule may have it; empty if it is always open.
func (w window) words() string {
	var words []string
	if w.timed() {
		words = append(words, w.times())
	}
	if w.from != nil {
		words = append(words, "from "+w.sources())
	}
	return strings.Join(words, ", ")
}

// String is a pattern as its rule may have it.
func (p TargetPattern) String() string {
	var words []string
	for _, part := range []struct {
		name string
		glob Glob
	}{{"name", p.Name}, {"runtime", p.Runtime}, {"image", p.Image}, {"namespace", p.Namespace}, {"pod", p.Pod}} {
		if part.glob.pattern != nil {
			words = append(words, part.name+" "+part.glob.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Labels)) {
		words = append(words, "label "+name+"="+p.Labels[name].String())
	}
	for _, fact := range p.facts(Facts{}) {
		if fact.want != nil {
			words = append(words, fact.name+" "+strconv.FormatBool(bool(*fact.want)))
		}
	}
	return strings.Join(words, ", ")
}

func ifSo(holds bool, words string) string {
	if holds {
		return words
	}
	return ""
}

// short is a duration without what is zero at its end.
func short(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

func count(n int) string { return ifSo(n != 0, strconv.Itoa(n)) }

// size is a number of bytes as the file may have it.
func size(n int64) string {
	if n == 0 {
		return ""
	}
	unit := ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, next
	}
	return strconv.FormatInt(n, 10) + unit
}
