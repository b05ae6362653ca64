// Package krl reads lists of keys and certificates that are not to be believed
// any more: OpenSSH's key revocation lists (PROTOCOL.krl), as ssh-keygen -k makes
// them, and plain files with one public key a line.
//
// It knows lists, and not who may sign in. It checks no signature of a list:
// whoever may write the file is believed, and a list that is signed is refused.
package krl

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// List is what was revoked. The zero List, and a nil one, revoke nothing.
type List struct {
	keys   map[string]bool // in the wire form of RFC 4253, section 6.6
	sha1   map[string]bool // hashes of that form
	sha256 map[string]bool
	issued map[string]*issued // certificates, by the wire form of their authority; "": of any
}

// issued are revoked certificates of one authority.
type issued struct {
	spans   []span // sorted, and none touches the next
	bitmaps []bitmap
	ids     map[string]bool
}

// span has the serial numbers from first to last.
type span struct{ first, last uint64 }

// bitmap has the serial number offset+n if bit n is set; bit 0 is the last one of
// the last byte.
type bitmap struct {
	offset uint64
	bits   string
}

// Parse reads a list of either kind; name is the file's, for the problems. The
// error is of type [strictyaml.Problems].
//
// What it keeps is never more than a few times as large as data.
func Parse(name string, data []byte) (*List, error) {
	l := &List{keys: map[string]bool{}, sha1: map[string]bool{}, sha256: map[string]bool{}, issued: map[string]*issued{}}
	at := strictyaml.Pos{File: name, Line: 1, Column: 1}
	if len(data) == 0 {
		// ssh-keygen empties a list before it writes it anew: who reads it right
		// then must not believe that nothing is revoked.
		return nil, strictyaml.Problems{at.Problemf("revocation list: is empty: write a # if nothing is revoked")}
	}
	if !strings.HasPrefix(string(data[:min(len(data), len(magic))]), magic) {
		if err := l.text(name, string(data)); err != nil {
			return nil, err
		}
		return l, nil
	}
	if err := l.binary(data); err != nil {
		return nil, strictyaml.Problems{at.Problemf("revocation list: %v", err)}
	}
	for _, certs := range l.issued {
		certs.spans = merged(certs.spans)
	}
	return l, nil
}

// Revokes says why a key or certificate is revoked; or "". A certificate is when
// it is listed itself, and also when its key is, or the key that signed it.
func (l *List) Revokes(key ssh.PublicKey) (why string) {
	if l == nil || key == nil {
		return ""
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return l.revokesKey("key", key)
	}
	return cmp.Or(
		l.revokesKey("key", cert.Key),
		l.revokesKey("authority", cert.SignatureKey),
		l.issued[string(cert.SignatureKey.Marshal())].revokes(cert),
		l.issued[""].revokes(cert),
	)
}

func (l *List) revokesKey(what string, key ssh.PublicKey) string {
	blob := key.Marshal()
	one, two := sha1.Sum(blob), sha256.Sum256(blob)
	if l.keys[string(blob)] || l.sha1[string(one[:])] || l.sha256[string(two[:])] {
		return what + " " + ssh.FingerprintSHA256(key) + " is revoked"
	}
	return ""
}

func (certs *issued) revokes(cert *ssh.Certificate) string {
	switch {
	case certs == nil:
		return ""
	case certs.ids[cert.KeyId]:
		return fmt.Sprintf("certificates with the key ID %.200q are revoked", cert.KeyId)
	case certs.has(cert.Serial):
		return fmt.Sprintf("the certificate with the serial number %d is revoked", cert.Serial)
	}
	return ""
}

// has never has 0: that is the serial number of all certificates that were given
// none, and no list can name it.
func (certs *issued) has(serial uint64) bool {
	if serial == 0 {
		return false
	}
	_, found := slices.BinarySearchFunc(certs.spans, serial, func(s span, n uint64) int {
		switch {
		case s.last < n:
			return -1
		case s.first > n:
			return 1
		}
		return 0
	})
	return found || slices.ContainsFunc(certs.bitmaps, func(b bitmap) bool { return b.has(serial) })
}

func (b bitmap) has(serial uint64) bool {
	n := serial - b.offset
	if serial < b.offset || n/8 >= uint64(len(b.bits)) {
		return false
	}
	return b.bits[uint64(len(b.bits))-1-n/8]>>(n%8)&1 == 1
}

// highest is the number of the highest bit set, of one that has any.
func (b bitmap) highest() uint64 {
	return uint64(len(b.bits))*8 - uint64(bits.LeadingZeros8(b.bits[0])) - 1
}

// merged sorts spans, and joins those that overlap or touch, so that they can
// be searched.
func merged(spans []span) (joined []span) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for _, s := range spans {
		last := len(joined) - 1
		if last >= 0 && (s.first <= joined[last].last || s.first == joined[last].last+1) {
			joined[last].last = max(joined[last].last, s.last)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}
