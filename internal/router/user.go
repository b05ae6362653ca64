package router

import (
	"fmt"
	"os"
	"strings"
)

// An owner is a user of the host who has containers.
type owner struct{ name, uid, home string }

// userByName and userByID read the host's passwd(5). Users of other sources are
// not known: a directory service that hangs must keep nobody out.
func userByName(name string) (owner, error) {
	return user(func(o owner) bool { return o.name == name })
}

func userByID(uid string) (owner, error) {
	return user(func(o owner) bool { return o.uid == uid })
}

func user(is func(owner) bool) (owner, error) {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return owner{}, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) != 7 {
			continue
		}
		if o := (owner{fields[0], fields[2], fields[5]}); is(o) && plain(o.name) {
			return o, nil
		}
	}
	return owner{}, fmt.Errorf("/etc/passwd: no such user")
}
