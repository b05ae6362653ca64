package totp

import (
	"encoding/base32"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/cartsshd/cartsshd/internal/regular"
)

const (
	maxFile   = 4 << 10
	minSecret = 16 // bytes: RFC 4226, section 4, R6
)

// ReadSecret reads a file of one line: a secret in base32, or the otpauth://totp
// URI that has it. The file must belong to root or to us, and be nobody else's to
// read. No error repeats what is in it.
func ReadSecret(path string) (Secret, error) {
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("totp: %w", err)
	}
	secret, err := parse(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("totp: %s: %w", path, err)
	}
	return secret, nil
}

func read(path string) ([]byte, error) {
	text, info, err := regular.Read(path, maxFile)
	if err != nil {
		return nil, err
	}
	if err := private(path, info); err != nil {
		return nil, err
	}
	return text, nil
}

// private tells whether something is root's or ours alone.
func private(path string, info os.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: others may get at it: chmod go= %s", path, path)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s: belongs to uid %d, who could change it: chown root %s", path, owner, path)
	}
	return nil
}

func parse(text string) (Secret, error) {
	encoded := text
	if strings.HasPrefix(text, "otpauth:") {
		var err error
		if encoded, err = fromURI(text); err != nil {
			return nil, err
		}
	}
	// As people copy it: in groups, in lower case, with padding or without.
	encoded = strings.ToUpper(strings.TrimRight(strings.NewReplacer(" ", "", "-", "").Replace(encoded), "="))
	secret, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") { // which the decoder skips
		return nil, errors.New("wants one line: a secret in base32, or an otpauth://totp URI")
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("a secret of %d bytes, %d are the least: head -c 20 /dev/urandom | base32 makes one", len(secret), minSecret)
	}
	return secret, nil
}

// fromURI returns the secret of a URI that asks for nothing else than what we do.
func fromURI(text string) (string, error) {
	uri, err := url.Parse(text)
	if err != nil || uri.Host != "totp" {
		return "", errors.New("wants a URI that begins with otpauth://totp/")
	}
	q := uri.Query()
	for key, only := range map[string]string{"algorithm": "SHA1", "digits": "6", "period": "30"} {
		if q.Has(key) && !strings.EqualFold(q.Get(key), only) {
			return "", fmt.Errorf("%s=%s is all that is known, and all that every phone knows", key, only)
		}
	}
	return q.Get("secret"), nil
}
