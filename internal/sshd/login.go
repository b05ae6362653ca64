package sshd

import "strings"

// login is what a client calls itself: the name of a container, and before it
// what else is to be known of the visit.
type login struct {
	typed      string
	name       string // of the container, for router.ParseRef
	breakGlass bool   // emergency access is asked for
	batch      bool   // nobody is there to answer questions
}

const (
	breakGlassPrefix = "breakglass+"
	batchPrefix      = "batch+"
)

// parseLogin reads [breakglass+][batch+]NAME, the prefixes in any order and each
// once. It is for ServerConn.User() and ConnMetadata.User() of a verified key
// alone: a client may change its name from one attempt to the next.
func parseLogin(typed string) login {
	l := login{typed: typed, name: typed}
	for l.strip(breakGlassPrefix, &l.breakGlass) || l.strip(batchPrefix, &l.batch) {
	}
	return l
}

func (l *login) strip(prefix string, is *bool) bool {
	rest, ok := strings.CutPrefix(l.name, prefix)
	if !ok || *is {
		return false
	}
	l.name, *is = rest, true
	return true
}

// inBatch is how the same is asked for by a script.
func (l login) inBatch() string {
	if l.breakGlass {
		return batchPrefix + breakGlassPrefix + l.name
	}
	return batchPrefix + l.name
}
