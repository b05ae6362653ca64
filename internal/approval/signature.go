package approval

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is what approvals are signed for (ssh-keygen -Y sign -n): a
// signature for anything else, a git commit say, is none.
const Namespace = "cartsshd-approval"

// Verify returns the key that signed a request, of a signature as ssh-keygen -Y
// sign writes it (PROTOCOL.sshsig of OpenSSH). Whose key it is, it does not know.
func (r Request) Verify(armored []byte) (ssh.PublicKey, error) {
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return nil, fmt.Errorf("approval: no signature of ssh-keygen -Y sign: %w", err)
	}
	// Sign-in asks more of a certificate than a signature can tell.
	if _, ok := sig.PublicKey.(*ssh.Certificate); ok {
		return nil, errors.New("approval: signed with a certificate: sign with the plain key, or sign in")
	}
	if sig.Namespace != Namespace {
		return nil, fmt.Errorf("approval: signed for %.40q: write -n %s", sig.Namespace, Namespace)
	}
	err = sshsig.Verify(strings.NewReader(r.Text()), sig, sig.PublicKey, sig.HashAlgorithm, Namespace)
	if err != nil {
		return nil, errors.New("approval: the signature is not of this request, as it is printed to the byte")
	}
	return sig.PublicKey, nil
}
