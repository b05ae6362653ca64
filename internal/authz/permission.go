package authz

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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
	numeric  bool // 10.1.*: of addresses only, or it would be the name 10.1.example.com as well
	from, to int
	text     string
}

// String is the endpoint as it was written.
func (e Endpoint) String() string { return e.text }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (e *Endpoint) UnmarshalText(text []byte) error {
	host, port, err := net.SplitHostPort(string(text))
	if err == nil {
		host = plainHost(host)
	}
	if err != nil || host == "" {
		return errors.New(`wants HOST:PORT, such as "localhost:8080" or "db:5432"`)
	}
	if e.from, e.to, err = ports(port); err != nil {
		return err
	}
	e.numeric = strings.Trim(host, "0123456789.*?") == "" && strings.Trim(host, "*?") != ""
	e.host, err = compile(host)
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

// plainHost is a host in one of the ways to write it.
func plainHost(host string) string {
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return strings.TrimSuffix(strings.ToLower(host), ".")
	case isLocalhost(a.Unmap()):
		return "localhost"
	}
	return a.Unmap().String()
}

func isLocalhost(a netip.Addr) bool {
	return a == netip.IPv6Loopback() || a == netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Match reports whether HOST:PORT is allowed.
func (e Endpoint) Match(object string) bool {
	host, port, err := net.SplitHostPort(object)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && int(n) >= e.from && int(n) <= e.to && e.matches(host)
}

func (e Endpoint) matches(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return !e.numeric && e.host.Match(plainHost(host))
	}
	return e.host.Match(plainHost(host)) || e.host.Match(a.Unmap().String())
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

var dangerousFamilies = []string{"LD_", "DYLD_", "GLIBC_", "BASH_FUNC_", "GIT_", "SSH_", "SUDO_", "SYSTEMD_", "RSYNC_", "PYTHON", "CARTSSHD_"}

// dangerous are some that no pattern may let in: of the loader and libc, shells,
// languages, and of what starts other programs.
var dangerous = []string{
	"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "LD_DEBUG", "LD_PROFILE", "LD_ORIGIN_PATH", "GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "LOCPATH", "NLSPATH", "MALLOC_TRACE",
	"HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_HOST_CONF", "TMPDIR", "TZDIR", "TERMCAP", "TERMINFO", "TERMINFO_DIRS", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"BASH_ENV", "BASH_FUNC_ls%%", "ENV", "PATH", "CDPATH", "FPATH", "IFS", "PS1", "PS4", "SHELL", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND", "GLOBIGNORE", "HISTFILE", "INPUTRC", "ZDOTDIR",
	"HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "SSH_ORIGINAL_COMMAND", "SSH_ASKPASS", "CARTSSHD_PERSON",
	"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONUSERBASE", "PERL5LIB", "PERLLIB", "PERL5OPT", "PERL5DB", "NODE_OPTIONS", "NODE_PATH", "RUBYOPT", "RUBYLIB",
	"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "LUA_PATH", "LUA_CPATH", "LUA_INIT", "OPENSSL_CONF", "OPENSSL_MODULES", "CURL_HOME", "WGETRC",
	"LESSOPEN", "LESSCLOSE", "LESSKEY", "PAGER", "MANPAGER", "EDITOR", "VISUAL", "BROWSER",
	"LESS", "VIMINIT", "EXINIT", "MAKEFLAGS", "TAR_OPTIONS", "GREP_OPTIONS", "ZIPOPT", "MANOPT", "PS0", "PS2", "RSYNC_RSH", "SUDO_ASKPASS", "SYSTEMD_PAGER",
	"GIT_SSH", "GIT_SSH_COMMAND", "GIT_PAGER", "GIT_EDITOR", "GIT_EXTERNAL_DIFF", "GIT_EXEC_PATH", "GIT_CONFIG_COUNT",
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
