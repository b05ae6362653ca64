package sshd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// Bounds of what a client may say in one request. x/crypto bounds a packet at
// 256 KiB.
const (
	maxTerm     = 64
	maxModes    = 1024        // there are some 60 opcodes of five bytes
	maxCommand  = 128<<10 - 1 // MAX_ARG_STRLEN, with its NUL
	maxEnvValue = 4 << 10
	maxEnv      = 64
)

var errMalformed = errors.New("malformed")

// terminal is what a pty-req asks for (RFC 4254, section 6.2).
type terminal struct {
	term  string
	size  size
	modes []byte // encoded as in section 8
}

// size of a terminal, in characters and in pixels.
type size struct{ Cols, Rows, Width, Height uint32 }

func parsePTY(payload []byte) (*terminal, error) {
	var p struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return nil, errMalformed
	}
	if len(p.Modes) > maxModes {
		return nil, fmt.Errorf("%d bytes of terminal modes", len(p.Modes))
	}
	t := &terminal{
		term:  p.Term,
		size:  size{p.Cols, p.Rows, p.Width, p.Height}.sane(),
		modes: []byte(p.Modes),
	}
	if t.term == "" || len(t.term) > maxTerm || !plain(t.term) {
		t.term = "dumb"
	}
	return t, nil
}

func parseResize(payload []byte) (size, error) {
	var z size
	if err := gossh.Unmarshal(payload, &z); err != nil {
		return size{}, errMalformed
	}
	return z.sane(), nil
}

// sane fits a size into the kernel's 16 bits. A client without a terminal of
// its own (ssh -tt) says 0×0, which few programs survive.
func (z size) sane() size {
	const most = 1<<16 - 1
	if z.Cols == 0 {
		z.Cols = 80
	}
	if z.Rows == 0 {
		z.Rows = 24
	}
	return size{min(z.Cols, most), min(z.Rows, most), min(z.Width, most), min(z.Height, most)}
}

func parseExec(payload []byte) (string, error) {
	var p struct{ Command string }
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return "", errMalformed
	}
	if len(p.Command) > maxCommand {
		return "", fmt.Errorf("a command of %d bytes", len(p.Command))
	}
	// execve(2) would run another command than the policy has judged.
	if strings.IndexByte(p.Command, 0) >= 0 {
		return "", errors.New("a command with a NUL in it")
	}
	return p.Command, nil
}

func parseSubsystem(payload []byte) (string, error) {
	var p struct{ Name string }
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return "", errMalformed
	}
	return p.Name, nil
}

// parseEnv returns "NAME=value", if it is one of the few that a client may set:
// its language, and what its terminal can do.
func parseEnv(payload []byte) (string, error) {
	var p struct{ Name, Value string }
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return "", errMalformed
	}
	if !settable(p.Name) || len(p.Value) > maxEnvValue || !plain(p.Value) {
		return "", errors.New("not to be set by clients")
	}
	return p.Name + "=" + p.Value, nil
}

// variable is one that a client may set if its rule says so.
type variable struct{ name, value string }

// parseVariable reads any other variable than those that parseEnv judges. Which of them
// the rule allows is not known yet.
func parseVariable(payload []byte) (variable, error) {
	var p struct{ Name, Value string }
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return variable{}, errMalformed
	}
	if settable(p.Name) || !isVariable(p.Name) || authz.Dangerous(p.Name) || len(p.Value) > maxEnvValue || strings.ContainsFunc(p.Value, unicode.IsControl) {
		return variable{}, errors.New("not to be set by clients")
	}
	return variable{p.Name, p.Value}, nil
}

// isVariable takes the names that a shell takes.
func isVariable(name string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	return name != "" && len(name) <= 64 && strings.IndexByte(letters, name[0]) >= 0 && strings.Trim(name, letters+"0123456789") == ""
}

func settable(name string) bool {
	if slices.Contains([]string{"TERM", "COLORTERM", "LANG"}, name) {
		return true
	}
	kind, ok := strings.CutPrefix(name, "LC_")
	return ok && len(kind) <= 32 && plain(kind) && !strings.ContainsAny(kind, " =")
}

// plain says that s is of letters, digits and the marks that locales and
// terminals are named with. A slash would lead LANG or TERM to another file.
func plain(s string) bool {
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("_.@:+,=- ", rune(c)) {
			return false
		}
	}
	return true
}

// The signals that SSH has a name for (RFC 4254, section 6.10).
var signals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP,
	"ILL": unix.SIGILL, "INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE,
	"QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV, "TERM": unix.SIGTERM,
	"USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func parseSignal(payload []byte) (unix.Signal, error) {
	var p struct{ Name string }
	if err := gossh.Unmarshal(payload, &p); err != nil {
		return 0, errMalformed
	}
	sig, ok := signals[p.Name]
	if !ok {
		return 0, errors.New("no such signal")
	}
	return sig, nil
}

// signalName is SSH's name for a signal, or "".
func signalName(sig unix.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return ""
}
