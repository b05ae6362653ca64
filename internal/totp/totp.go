// Package totp checks one-time passwords as phones make them: RFC 6238 with
// HMAC-SHA-1, six digits and steps of 30 seconds.
//
// A password is taken once, and this is on the disk before it is taken. Who gives
// too many wrong ones is refused for a while, right ones included. Both hold over
// a restart. What cannot be written down is refused.
//
// It makes no secrets and shows none: a file has them (see [ReadSecret]).
package totp

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"time"
)

const (
	digits  = 6
	modulus = 1_000_000
	step    = 30 * time.Second
	drift   = 1 // steps that a clock may be off, to either side (RFC 6238, section 5.2)
)

// Secret is what a person's phone and we know.
type Secret []byte

// at is the password of a step (RFC 4226, section 5.3).
func (s Secret) at(step int64) string {
	mac := hmac.New(sha1.New, s)
	binary.Write(mac, binary.BigEndian, step)
	sum := mac.Sum(nil)
	offset := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%0*d", digits, binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%modulus)
}

// find returns the latest step near to now whose password is code. It takes the
// same time for every code.
func (s Secret) find(code string, now time.Time) (found int64, ok bool) {
	current := now.Unix() / int64(step/time.Second)
	for n := current - drift; n <= current+drift; n++ {
		if subtle.ConstantTimeCompare([]byte(s.at(n)), []byte(code)) == 1 {
			found, ok = n, true
		}
	}
	return found, ok
}
