package krl

import (
	"encoding/base64"
	"errors"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// text reads a plain file: one public key a line, or a fingerprint, with empty
// lines and comments between. A line that is neither is a problem: whoever put it
// there wanted something revoked.
func (l *List) text(name, data string) error {
	var problems strictyaml.Problems
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := l.line(line); err != nil {
			at := strictyaml.Pos{File: name, Line: n, Column: 1}
			problems = append(problems, at.Problemf("%v", err))
		}
	}
	return problems.Err()
}

var errLine = errors.New("neither a public key nor a fingerprint (SHA256:…), and no list that ssh-keygen -k made")

func (l *List) line(line string) error {
	words := strings.Fields(line)
	if hash, ok := strings.CutPrefix(words[0], "SHA256:"); ok {
		sum, err := base64.RawStdEncoding.Strict().DecodeString(hash)
		if err != nil || len(sum) != 32 {
			return errors.New("a damaged fingerprint: copy all that ssh-keygen -l prints of it")
		}
		l.sha256[string(sum)] = true
		return nil
	}
	if len(words) < 2 {
		return errLine
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return errLine
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != words[0] {
		return errLine
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return errors.New("a certificate: write its key, or have ssh-keygen -k revoke it by its serial number")
	}
	l.keys[string(key.Marshal())] = true
	return nil
}
