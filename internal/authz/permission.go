package authz

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Permission is one entry of allow: a word, or words that say more.
type Permission struct {
	Word    Kind        `yaml:"-"`
	Exec    []Pattern   `yaml:"exec"`
	Forward []Endpoint  `yaml:"forward"`
	Reverse []Endpoint  `yaml:"reverse"`
	Env     []Variable  `yaml:"env"`
	SFTP    []Direction `yaml:"sftp"`
	SCP     []Direction `yaml:"scp"`
	Rsync   []Direction `yaml:"rsync"`
}

// What may stand alone in allow, and what wants to be told more of.
var (
	words  = []Kind{Shell, Agent, SFTP, SCP, Rsync, Join, Kill, Play}
	listed = map[Kind]string{
		Exec:    `exec: ["/dev/crashcart/bin/tcpdump *"]`,
		Forward: `forward: ["localhost:8080"]`,
		Reverse: `reverse: ["localhost:8080"]`,
		Env:     `env: ["APP_*"]`,
	}
)

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (p *Permission) UnmarshalStrict(n *strictyaml.Node) {
	word, ok := n.Text()
	switch {
	case ok && slices.Contains(words, Kind(word)):
		p.Word = Kind(word)
	case ok && listed[Kind(word)] != "":
		n.Problemf("%s says nothing by itself: write %s", word, listed[Kind(word)])
	case ok:
		n.Problemf("unknown permission %q (%s)", word, strictyaml.Suggest(word, kinds))
	default:
		type plain Permission // without this method
		n.Decode((*plain)(p))
	}
	if !ok && (n.Len() == 0 || p.hollow()) {
		n.Problemf("allows nothing")
	}
}

var kinds = []string{"shell", "exec", "forward", "reverse", "agent", "env", "sftp", "scp", "rsync", "join", "kill", "play"}

// hollow tells that one of its lists is there and empty.
func (p Permission) hollow() bool {
	return isHollow(p.Exec) || isHollow(p.Forward) || isHollow(p.Reverse) || isHollow(p.Env) ||
		isHollow(p.SFTP) || isHollow(p.SCP) || isHollow(p.Rsync)
}

func isHollow[T any](list []T) bool { return list != nil && len(list) == 0 }

// Endpoint allows connections: HOST:PORT, where * and ? in the host match as in
// a [Glob], and the port is a number, a range (8000-8099) or *. Names are
// compared, and not looked up; but localhost, 127.0.0.1 and ::1 are one.
type Endpoint struct {
	host     Glob
	from, to int
	text     string
}

// String is the endpoint as it was written.
func (e Endpoint) String() string { return e.text }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (e *Endpoint) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err != nil || host == "" {
		return errors.New(`wants HOST:PORT, such as "localhost:8080" or "db:5432"`)
	}
	if e.from, e.to, err = ports(port); err != nil {
		return err
	}
	e.host, err = compile(plainHost(host))
	e.text = string(text)
	return err
}

func ports(s string) (from, to int, err error) {
	if s == "*" {
		return 1, 65535, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a {
		return 0, 0, errors.New(`wants a port from 1 to 65535, a range such as 8000-8099, or *`)
	}
	return int(a), int(b), nil
}

func plainHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "127.0.0.1" || host == "::1" {
		return "localhost"
	}
	return host
}

// Match reports whether HOST:PORT is allowed.
func (e Endpoint) Match(object string) bool {
	host, port, err := net.SplitHostPort(object)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && int(n) >= e.from && int(n) <= e.to && e.host.Match(plainHost(host))
}

// Variable allows variables of the environment, by a [Glob]. Those that make
// programs run something else are never allowed.
type Variable struct{ Glob }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (v *Variable) UnmarshalText(text []byte) error {
	if strings.Trim(string(text), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_*?") != "" {
		return errors.New(`wants the name of a variable, such as APP_ENV or "APP_*"`)
	}
	if strings.Trim(string(text), "*?") == "" {
		return errors.New("names no variable: begin with some letters, such as \"APP_*\"")
	}
	if err := v.Glob.UnmarshalText(text); err != nil {
		return err
	}
	for _, name := range append(dangerous[:len(dangerous):len(dangerous)], string(text)) {
		if v.Match(name) && Dangerous(name) {
			return fmt.Errorf("allows %s, by which a program runs what somebody else wrote", name)
		}
	}
	return nil
}

// Dangerous tells of a variable that nobody may set, whatever a rule says. A
// pattern cannot be asked for all of these when it is loaded: the name that is
// sent can.
func Dangerous(name string) bool {
	return slices.Contains(dangerous, name) || slices.ContainsFunc(dangerousFamilies, func(family string) bool { return strings.HasPrefix(name, family) })
}

var dangerousFamilies = []string{"LD_", "DYLD_", "GLIBC_", "BASH_FUNC_", "GIT_CONFIG", "SSH_", "CARTSSHD_"}

// dangerous are some that no pattern may let in.
var dangerous = []string{
	"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "BASH_ENV", "ENV", "PATH", "IFS", "PS4", "SHELLOPTS", "BASHOPTS",
	"PROMPT_COMMAND", "GLOBIGNORE", "GCONV_PATH", "LOCPATH", "TERMINFO", "TERMINFO_DIRS", "PYTHONPATH", "PYTHONSTARTUP",
	"PERL5LIB", "PERL5OPT", "NODE_OPTIONS", "RUBYOPT", "JAVA_TOOL_OPTIONS", "LESSOPEN", "LESSCLOSE", "PAGER", "MANPAGER", "EDITOR", "VISUAL", "BROWSER", "HOME", "SHELL", "USER", "LOGNAME", "CDPATH", "INPUTRC",
	"HISTFILE", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "NLSPATH", "TZDIR", "TMPDIR", "TERMCAP", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"OPENSSL_CONF", "SSH_ORIGINAL_COMMAND", "CARTSSHD_PERSON", "GIT_SSH_COMMAND", "GIT_SSH", "GIT_PAGER", "GIT_EDITOR",
	"GIT_EXTERNAL_DIFF", "GIT_CONFIG_COUNT", "GLIBC_TUNABLES", "BASH_FUNC_ls%%", "PYTHONHOME", "PYTHONINSPECT", "PERLLIB", "PERL5DB", "RUBYLIB",
	"_JAVA_OPTIONS", "JDK_JAVA_OPTIONS",
}

// Direction is up or down, as seen from the client.
type Direction string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Direction) UnmarshalText(text []byte) error {
	if d := Direction(text); d != Up && d != Down {
		return errors.New("wants up (to the container) or down (from it)")
	}
	*d = Direction(text)
	return nil
}

// permissions are all that a rule allows.
type permissions struct {
	words            []string // shell, agent …; scp:up
	exec             []Pattern
	forward, reverse []Endpoint
	env              []Glob
}

func (a *permissions) add(p Permission) {
	switch p.Word {
	case "":
	case SFTP, SCP, Rsync:
		a.transfer(p.Word, Up, Down)
	default:
		a.words = append(a.words, string(p.Word))
	}
	a.exec = append(a.exec, p.Exec...)
	a.forward = append(a.forward, p.Forward...)
	a.reverse = append(a.reverse, p.Reverse...)
	for _, v := range p.Env {
		a.env = append(a.env, v.Glob)
	}
	a.transfer(SFTP, p.SFTP...)
	a.transfer(SCP, p.SCP...)
	a.transfer(Rsync, p.Rsync...)
}

func (a *permissions) transfer(kind Kind, ways ...Direction) {
	for _, way := range ways {
		a.words = append(a.words, string(kind)+":"+string(way))
	}
}

// has tells whether something is allowed by its word.
func (a permissions) has(kind Kind) bool { return slices.Contains(a.words, string(kind)) }

// allows tells whether something is allowed that is neither shell nor command.
func (a permissions) allows(what Request) bool {
	switch what.Kind {
	case Forward:
		return matchesAny(a.forward, what.Object)
	case Reverse:
		return matchesAny(a.reverse, what.Object)
	case Env:
		return matchesAny(a.env, what.Object)
	case SFTP, SCP, Rsync:
		return a.transfers(what.Kind, Direction(what.Object))
	case Agent, Join, Kill, Play:
		return a.has(what.Kind)
	}
	return false
}

func matchesAny[T interface{ Match(string) bool }](list []T, s string) bool {
	return slices.ContainsFunc(list, func(m T) bool { return m.Match(s) })
}
