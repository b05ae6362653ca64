package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// KeyLine is a line of authorized_keys: a key, and before it what it may not be
// used for, as sshd(8) has it. What cannot be enforced is refused.
type KeyLine struct {
	Key    Key
	limits limits
}

// limits are the options of a key.
type limits struct {
	bounds Bounds
	from   origins   // nil: everywhere
	until  time.Time // from when on it is nobody's; zero: no end
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (l *KeyLine) UnmarshalText(text []byte) error {
	options, rest, err := cutOptions(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	var read KeyLine
	if err := read.Key.UnmarshalText([]byte(rest)); err != nil {
		return err
	}
	if options != "" {
		if err := read.limits.parse(options); err != nil {
			return err
		}
	}
	*l = read
	return nil
}

// cutOptions takes what stands before a key off its line. No option begins as the
// types of keys do.
func cutOptions(line string) (options, rest string, err error) {
	isKey := func(prefix string) bool { return strings.HasPrefix(line, prefix) }
	if slices.ContainsFunc([]string{"ssh-", "ecdsa-", "sk-", "-----BEGIN"}, isKey) {
		return "", line, nil
	}
	end, closed := unquoted(line, " \t")
	if !closed {
		return "", "", errors.New("a quote before the key is never closed")
	}
	if end < 0 {
		return "", line, nil
	}
	return line[:end], line[end:], nil
}

// unquoted finds the first of some characters that is in no quotes, as sshd does:
// \" is no quote, inside or out.
func unquoted(s, any string) (at int, closed bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\"`):
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(any, s[i]) >= 0:
			return i, true
		}
	}
	return -1, !quoted
}

// parse takes options in their order: "restrict,pty" is not "pty,restrict".
func (l *limits) parse(text string) error {
	said := map[string]bool{}
	for more := true; more; {
		option := text
		comma, _ := unquoted(text, ",")
		if more = comma >= 0; more {
			option, text = text[:comma], text[comma+1:]
		}
		name, value, hasValue := strings.Cut(option, "=")
		name = strings.ToLower(name)
		if hasValue && said[name] {
			return fmt.Errorf("option %.40s is there twice", name)
		}
		said[name] = true
		if err := l.option(name, value, hasValue); err != nil {
			return fmt.Errorf("option %.40q %w", name, err)
		}
	}
	return nil
}

func (l *limits) option(name, value string, hasValue bool) error {
	if why, ok := unenforced[name]; ok {
		return errors.New(why)
	}
	set, isFlag := flags[name]
	take, wantsValue := valued[name]
	switch {
	case !isFlag && !wantsValue:
		return errors.New("is not known, and a key is not used without what it asks for")
	case isFlag && hasValue:
		return errors.New("has no value")
	case isFlag:
		set(&l.bounds)
		return nil
	}
	text, err := dequote(value)
	if err != nil {
		return err
	}
	return take(l, text)
}

// flags have no value. X11 and ~/.ssh/rc nobody has here, so that they may be
// allowed or not.
var flags = map[string]func(*Bounds){
	"restrict":            func(b *Bounds) { b.NoPTY, b.NoForwarding, b.NoAgent = true, true, true },
	"no-pty":              func(b *Bounds) { b.NoPTY = true },
	"pty":                 func(b *Bounds) { b.NoPTY = false },
	"no-port-forwarding":  func(b *Bounds) { b.NoForwarding = true },
	"port-forwarding":     func(b *Bounds) { b.NoForwarding = false },
	"no-agent-forwarding": func(b *Bounds) { b.NoAgent = true },
	"agent-forwarding":    func(b *Bounds) { b.NoAgent = false },
	"no-x11-forwarding":   func(*Bounds) {},
	"x11-forwarding":      func(*Bounds) {},
	"no-user-rc":          func(*Bounds) {},
	"user-rc":             func(*Bounds) {},
}

var valued = map[string]func(*limits, string) error{
	"command": func(l *limits, text string) error {
		if strings.TrimSpace(text) == "" {
			return errors.New("names no command")
		}
		l.bounds.Command = text
		return nil
	},
	"from": func(l *limits, text string) (err error) {
		l.from, err = parseOrigins(text)
		return err
	},
	"expiry-time": func(l *limits, text string) (err error) {
		l.until, err = parseExpiry(text)
		return err
	},
}

// unenforced are options that are known, and why a key with one is refused.
var unenforced = map[string]string{
	"cert-authority": "is for keys that sign others: write it below authorities",
	"principals":     "is for keys that sign others: write it below authorities",
	"environment":    "is not served: take it out",
	"permitopen":     "is not served: say in a rule's allow what may be forwarded, and take it out",
	"permitlisten":   "is not served: say in a rule's allow what may be forwarded, and take it out",
	"tunnel":         "is not served: take it out",
	// The flags of a token's signature are read by x/crypto, which keeps them.
	"verify-required":   "cannot be checked: whether a token asked for its PIN is not told here. Take it out, and make the key with ssh-keygen -O verify-required",
	"no-touch-required": "is not served: a token must be touched. Take it out",
}

func dequote(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", errors.New(`wants its value in double quotes`)
	}
	inner := s[1 : len(s)-1]
	if strings.HasSuffix(inner, `\`) || strings.Contains(strings.ReplaceAll(inner, `\"`, ""), `"`) {
		return "", errors.New(`has a quote in its value: write it as \"`)
	}
	return strings.ReplaceAll(inner, `\"`, `"`), nil
}

// parseExpiry wants UTC: the host's own zone is another on each host.
func parseExpiry(text string) (time.Time, error) {
	for _, layout := range []string{"20060102Z", "200601021504Z", "20060102150405Z"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("wants YYYYMMDDZ or YYYYMMDDHHMM[SS]Z; the Z is for UTC, as no other time zone is the same on every host")
}

// origins are where a key may be used from. One with a ! is stronger than all
// others, and alone it lets nobody in.
type origins []origin

// origin is a network, or a pattern of addresses as they are written.
type origin struct {
	not     bool
	network Source
	pattern Glob
}

func parseOrigins(text string) (list origins, err error) {
	for _, word := range strings.Split(text, ",") {
		o := origin{}
		word, o.not = strings.CutPrefix(word, "!")
		switch {
		case strings.ContainsAny(word, "*?") && isAddressPattern(word):
			o.pattern, err = compile(word)
		default:
			err = o.network.UnmarshalText([]byte(word))
		}
		if err != nil {
			return nil, fmt.Errorf("%.80q %w; names of hosts are not looked up", word, err)
		}
		list = append(list, o)
	}
	return list, nil
}

// isAddressPattern is not true of the name of a host, which would match nothing.
func isAddressPattern(s string) bool {
	return strings.Trim(s, "0123456789.*?") == "" ||
		strings.Contains(s, ":") && strings.Trim(s, "0123456789abcdef:.*?") == ""
}

func (list origins) admit(a netip.Addr) bool {
	if list == nil {
		return true
	}
	admitted := false
	for _, o := range list {
		if o.has(a.Unmap()) {
			if o.not {
				return false
			}
			admitted = true
		}
	}
	return admitted
}

func (o origin) has(a netip.Addr) bool {
	return a.IsValid() && (o.network.IsValid() && o.network.Contains(a) || o.pattern.Match(a.String()))
}
