package standing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hiddeco/sshsig"
)

// A file is one line of JSON, and the signature of that line as ssh-keygen -Y sign
// makes one (PROTOCOL.sshsig of OpenSSH).
const mark = "-----BEGIN SSH SIGNATURE-----"

func (s Shelf) seal(k kind, statement any) ([]byte, error) {
	line, err := json.Marshal(statement)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	sig, err := sshsig.Sign(bytes.NewReader(line), s.Key, sshsig.HashSHA512, k.namespace())
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return append(line, sshsig.Armor(sig)...), nil
}

func open[T any](s Shelf, k kind, data []byte) (statement T, err error) {
	i := bytes.Index(data, []byte(mark))
	if i < 0 {
		return statement, errors.New("is not signed")
	}
	sig, err := sshsig.Unarmor(data[i:])
	if err != nil {
		return statement, errors.New("is not signed")
	}
	if sshsig.Verify(bytes.NewReader(data[:i]), sig, s.Key.PublicKey(), sig.HashAlgorithm, k.namespace()) != nil {
		return statement, errors.New("is not signed with the key of this host")
	}
	d := json.NewDecoder(bytes.NewReader(data[:i]))
	d.DisallowUnknownFields() // what a later version may have added, and means
	if err := d.Decode(&statement); err != nil {
		return statement, fmt.Errorf("is not understood: %w", err)
	}
	return statement, nil
}
