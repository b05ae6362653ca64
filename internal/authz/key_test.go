package authz_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// fill puts real keys where a policy says ALICE, BOB and CAROL.
func fill(policy string) string {
	return strings.NewReplacer("ALICE", key(1), "BOB", key(2), "CAROL", key(3)).Replace(policy)
}

// key returns an ed25519 key of this number, in authorized_keys form.
func key(n int) string {
	seed := sha256.Sum256(fmt.Append(nil, n))
	return authorized("ssh-ed25519", ssh.Marshal(struct {
		Name string
		Key  []byte
	}{"ssh-ed25519", ed25519.NewKeyFromSeed(seed[:])[32:]}))
}

// rsaKey returns a key of that size; nobody knows its factors.
func rsaKey(bits uint) string {
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	return authorized("ssh-rsa", ssh.Marshal(struct {
		Name string
		E, N *big.Int
	}{"ssh-rsa", big.NewInt(65537), n.Add(n, big.NewInt(1))}))
}

func ecdsaKey() string {
	curve := elliptic.P256()
	private, err := ecdsa.ParseRawPrivateKey(curve, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		panic(err)
	}
	public, err := ssh.NewPublicKey(&private.PublicKey)
	if err != nil {
		panic(err)
	}
	return authorized(public.Type(), public.Marshal())
}

// skKey is a key of a hardware token.
func skKey() string {
	seed := sha256.Sum256([]byte("token"))
	return authorized("sk-ssh-ed25519@openssh.com", ssh.Marshal(struct {
		Name        string
		Key         []byte
		Application string
	}{"sk-ssh-ed25519@openssh.com", ed25519.NewKeyFromSeed(seed[:])[32:], "ssh:"}))
}

func authorized(kind string, blob []byte) string {
	return kind + " " + base64.StdEncoding.EncodeToString(blob)
}

func parse(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
