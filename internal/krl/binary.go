package krl

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"golang.org/x/crypto/ssh"
)

// PROTOCOL.krl, version 1.7.
const (
	magic   = "SSHKRL\n\x00"
	version = 1

	sectionCertificates = 1
	sectionKeys         = 2
	sectionSHA1         = 3
	sectionSignature    = 4
	sectionSHA256       = 5
	sectionExtension    = 255

	certSerials   = 0x20
	certRange     = 0x21
	certBitmap    = 0x22
	certKeyIDs    = 0x23
	certExtension = 0x39
)

var errShort = errors.New("is cut short")

// A reader takes things off the front of data. After one that was not there, it
// has an error, and all that follow are zero.
type reader struct {
	data []byte
	err  error
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.data)) {
		r.data, r.err = nil, errShort
		return nil
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) byte() (v byte) {
	for _, v = range r.take(1) {
	}
	return v
}

func (r *reader) uint32() (v uint32) {
	if b := r.take(4); b != nil {
		v = binary.BigEndian.Uint32(b)
	}
	return v
}

func (r *reader) uint64() (v uint64) {
	if b := r.take(8); b != nil {
		v = binary.BigEndian.Uint64(b)
	}
	return v
}

func (r *reader) string() []byte { return r.take(uint64(r.uint32())) }

// more tells whether there is something left to take.
func (r *reader) more() bool { return r.err == nil && len(r.data) > 0 }

// end is the error, also if something is left.
func (r *reader) end() error {
	if r.more() {
		return errors.New("has more in it than it should")
	}
	return r.err
}

func (l *List) binary(data []byte) error {
	r := &reader{data: data[len(magic):]}
	if v := r.uint32(); r.err == nil && v != version {
		return fmt.Errorf("is of format %d, and only %d is read", v, version)
	}
	r.uint64() // the list's own version
	r.uint64() // when it was made
	if flags := r.uint64(); flags != 0 {
		return fmt.Errorf("has flags %#x, and none are known", flags)
	}
	r.string() // reserved
	r.string() // a comment
	for r.more() {
		kind := r.byte()
		if err := l.section(kind, &reader{data: r.string(), err: r.err}); err != nil {
			return fmt.Errorf("section %d %w", kind, err)
		}
	}
	return r.err
}

func (l *List) section(kind byte, r *reader) error {
	switch kind {
	case sectionCertificates:
		return l.certificates(r)
	case sectionKeys:
		return each(r, l.keys, 0)
	case sectionSHA1:
		return each(r, l.sha1, sha1.Size)
	case sectionSHA256:
		return each(r, l.sha256, sha256.Size)
	case sectionExtension:
		return extension(r)
	case sectionSignature:
		return errors.New("is a signature, and those are not checked: make the list without, as ssh-keygen -k does")
	}
	return errors.New("is of a kind that is not known")
}

// each puts all strings of a section into a set. They have that size; 0: any.
func each(r *reader, set map[string]bool, size int) error {
	for r.more() {
		s := r.string()
		if r.err == nil && size > 0 && len(s) != size {
			return fmt.Errorf("has a hash of %d bytes, and %d are one", len(s), size)
		}
		set[string(s)] = true
	}
	return r.err
}

// extension may be passed over unless it is critical: none are known.
func extension(r *reader) error {
	name, critical := r.string(), r.byte()
	r.string()
	if r.err == nil && critical != 0 {
		return fmt.Errorf("is the critical extension %.80q, which is not known", name)
	}
	return r.end()
}

func (l *List) certificates(r *reader) error {
	authority := r.string()
	r.string() // reserved
	if r.err != nil {
		return r.err
	}
	if len(authority) > 0 {
		key, err := ssh.ParsePublicKey(authority)
		if err != nil || strings.Contains(key.Type(), "-cert-v01@") {
			return errors.New("names an authority that is no key")
		}
		authority = key.Marshal()
	}
	certs := l.issuedBy(string(authority))
	for r.more() {
		kind := r.byte()
		if err := certs.section(kind, &reader{data: r.string(), err: r.err}); err != nil {
			return fmt.Errorf("of certificates: part %#x %w", kind, err)
		}
	}
	return r.err
}

func (l *List) issuedBy(authority string) *issued {
	if l.issued[authority] == nil {
		l.issued[authority] = &issued{ids: map[string]bool{}}
	}
	return l.issued[authority]
}

func (certs *issued) section(kind byte, r *reader) error {
	switch kind {
	case certSerials:
		return certs.serials(r)
	case certRange:
		first, last := r.uint64(), r.uint64()
		return certs.add(r, first, last)
	case certBitmap:
		return certs.bitmap(r)
	case certKeyIDs:
		return each(r, certs.ids, 0)
	case certExtension:
		return extension(r)
	}
	return errors.New("is of a kind that is not known")
}

func (certs *issued) serials(r *reader) error {
	for r.more() {
		serial := r.uint64()
		if err := certs.add(&reader{err: r.err}, serial, serial); err != nil {
			return err
		}
	}
	return r.err
}

func (certs *issued) add(r *reader, first, last uint64) error {
	if err := r.end(); err != nil {
		return err
	}
	if first == 0 || first > last {
		return fmt.Errorf("has the serial numbers %d to %d, and those are none", first, last)
	}
	certs.spans = append(certs.spans, span{first, last})
	return nil
}

// bitmap keeps one as it is: unpacked, it would be eight times as large, or more.
func (certs *issued) bitmap(r *reader) error {
	b := bitmap{offset: r.uint64()}
	bits := r.string()
	if err := r.end(); err != nil {
		return err
	}
	if len(bits) > 0 && bits[0]&0x80 != 0 {
		return errors.New("has a negative bitmap")
	}
	b.bits = strings.TrimLeft(string(bits), "\x00")
	if b.bits != "" && b.offset > math.MaxUint64-b.highest() {
		return errors.New("has a bitmap beyond the largest serial number")
	}
	if b.offset == 0 && b.bits != "" && b.bits[len(b.bits)-1]&1 == 1 {
		return errors.New("has the serial number 0, which is none")
	}
	certs.bitmaps = append(certs.bitmaps, b)
	return nil
}
