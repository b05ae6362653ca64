package authz

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Key is a person's public key, in the wire form of RFC 4253, section 6.6.
type Key string

// What a person may sign in with. An sk- key lives in a hardware token.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSA,
}

const minRSA = 3072 // bits, as NIST SP 800-57 wants beyond 2030

// UnmarshalText implements [encoding.TextUnmarshaler]: one line, as ssh-keygen
// writes it into a .pub file. Its errors never repeat what was pasted.
func (k *Key) UnmarshalText(text []byte) error {
	words := strings.Fields(string(text))
	if err := plausible(words); err != nil {
		return err
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return errors.New("a damaged key: copy the whole line of the .pub file")
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != words[0] {
		return errors.New("a damaged key: copy the whole line of the .pub file")
	}
	if err := weak(key); err != nil {
		return err
	}
	*k = Key(key.Marshal())
	return nil
}

// weak says why nobody may sign in with a key, be it in the policy or in a
// certificate.
func weak(key ssh.PublicKey) error {
	if !slices.Contains(keyTypes, key.Type()) {
		return fmt.Errorf("a key of the type %.40s, which is not taken", key.Type())
	}
	if bits := rsaBits(key); bits != 0 && bits < minRSA {
		return fmt.Errorf("an RSA key of %d bits, %d are the least: ssh-keygen -t ed25519 makes a better one", bits, minRSA)
	}
	return nil
}

// hardware tells whether a key is one of a hardware token. Its wire form begins
// with the name of its type, and that with its length.
func (k Key) hardware() bool { return len(k) > 4 && strings.HasPrefix(string(k[4:]), "sk-") }

func plausible(words []string) error {
	isType := func(word string) bool { return slices.Contains(keyTypes, word) }
	switch {
	case len(words) > 0 && strings.HasPrefix(words[0], "-----BEGIN"):
		return errors.New("a private key, which others may have read here by now: make a new pair, and write its .pub line")
	case len(words) > 0 && words[0] == "ssh-dss":
		return errors.New("a DSA key, which is not safe any more: ssh-keygen -t ed25519 makes a better one")
	case len(words) > 0 && strings.Contains(words[0], "-cert-v01@"):
		return errors.New("a certificate: write the plain key, the line of the .pub file")
	case len(words) < 2 || !slices.ContainsFunc(words, isType):
		return errors.New("not a public key: write the line of a .pub file, such as ssh-ed25519 AAAA…")
	case !isType(words[0]):
		return errors.New("options before a key are not read: begin with " + words[slices.IndexFunc(words, isType)])
	case slices.ContainsFunc(words[2:], isType):
		return errors.New("more than one key: write each as an entry of its own")
	}
	return nil
}

func rsaBits(key ssh.PublicKey) int {
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	r, ok := crypto.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return 0
	}
	return r.N.BitLen()
}
