package approval

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/need"
)

func sign(t *testing.T, text string, key ssh.Signer, hash sshsig.HashAlgorithm, namespace string) []byte {
	t.Helper()
	sig, err := sshsig.Sign(strings.NewReader(text), key, hash, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return sshsig.Armor(sig)
}

func TestASignatureIsOfOneRequest(t *testing.T) {
	r, key := request(), newKey(t)
	for _, hash := range []sshsig.HashAlgorithm{sshsig.HashSHA256, sshsig.HashSHA512} {
		signature := sign(t, r.Text(), key, hash, Namespace)
		if got, err := r.Verify(signature); err != nil || !bytes.Equal(got.Marshal(), key.PublicKey().Marshal()) {
			t.Fatal(err)
		}
		for name, mutate := range mutations {
			other := r
			mutate(&other)
			if _, err := other.Verify(signature); err == nil {
				t.Errorf("also of a request of another %s", name)
			}
		}
	}
}

func TestWhatIsSignedForSomethingElseIsNoApproval(t *testing.T) {
	r, key := request(), newKey(t)
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, newKey(t)); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, r.Text(), key, sshsig.HashSHA512, Namespace)
	block, _ := pem.Decode(good)
	for name, armored := range map[string][]byte{
		"nothing":       nil,
		"words":         []byte("yes, let her in"),
		"another armor": pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURES", Bytes: block.Bytes}),
		"cut short":     pem.EncodeToMemory(&pem.Block{Type: sshsig.PEMType, Bytes: block.Bytes[:len(block.Bytes)-1]}),
		"namespace":     sign(t, r.Text(), key, sshsig.HashSHA512, "git"),
		"certificate":   sign(t, r.Text(), certified, sshsig.HashSHA512, Namespace),
		"no newline":    sign(t, strings.TrimSpace(r.Text()), key, sshsig.HashSHA512, Namespace),
	} {
		if _, err := r.Verify(armored); err == nil || !strings.HasPrefix(err.Error(), "approval: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of each kind of key, by the tool that people have.
func TestSignaturesOfSSHKeygenAreRead(t *testing.T) {
	keygen := need.Tool(t, "ssh-keygen", "openssh-client")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		dir, r := t.TempDir(), request()
		key, text := filepath.Join(dir, "key"), filepath.Join(dir, "request")
		if err := os.WriteFile(text, []byte(r.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"-q", "-t", kind, "-N", "", "-f", key},
			{"-q", "-Y", "sign", "-n", Namespace, "-f", key, text},
		} {
			if out, err := exec.Command(keygen, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		signature, err := os.ReadFile(text + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Verify(signature); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
