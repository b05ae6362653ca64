package router

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrBadName is what ParseRef makes of a login that can be no container's.
var ErrBadName = errors.New("not the name of a container")

const (
	maxLogin = 256     // bytes
	maxPID   = 1 << 22 // PID_MAX_LIMIT, of include/linux/threads.h
)

// ParseRef reads a login: NAME, runtime:NAME or pid:NUMBER. Bare digits are a
// name; whether they are a process is seen when no container is called so.
//
// A NAME is what any runtime takes for one, [a-zA-Z0-9][a-zA-Z0-9_.+-]*:
// letters, digits and nothing that means something to a shell or a terminal. Or
// it is up to three of those with slashes between, namespace/pod/container,
// which is never made a path of.
func ParseRef(login string) (Ref, error) {
	runtime, id, qualified := strings.Cut(login, ":")
	if !qualified {
		runtime, id = "", login
	}
	ref := Ref{Runtime: runtime, ID: id}
	if len(login) > maxLogin || !named(id) || qualified && !plain(runtime) {
		return Ref{}, fmt.Errorf("router: %s: %w", quote(login), ErrBadName)
	}
	if runtime == pidRuntime && parsePID(id) == 0 {
		return Ref{}, fmt.Errorf("router: %s: not the number of a process", quote(login))
	}
	return ref, nil
}

// named tells whether a login may name a container so.
func named(id string) bool {
	parts := strings.Split(id, "/")
	return len(parts) <= 3 && !slices.ContainsFunc(parts, func(part string) bool { return !plain(part) })
}

// plain tells whether name may be a container's name or ID.
func plain(name string) bool {
	if name == "" || len(name) > maxLogin {
		return false
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.+-", rune(c))) {
			return false
		}
	}
	return true
}

// parsePID returns 0 for what is not the number of a process, spelled in the
// one way it is.
func parsePID(s string) int {
	pid, err := strconv.Atoi(s)
	if err != nil || pid < 1 || pid > maxPID || strconv.Itoa(pid) != s {
		return 0
	}
	return pid
}

// quote makes hostile bytes fit for a log, and keeps the line short.
func quote(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:64]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
