package audit

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A byte that is not part of valid UTF-8 stands in the record as the
// private-use character U+10FE00 plus its value (U+10FE80 to U+10FEFF), because
// JSON holds only characters. A real character of that range is written byte by
// byte in the same way, so that nothing is ambiguous and Raw finds every byte
// again. Surrogates would do too, but stop stock players.
const rawByte = 0x10FE00

func isRaw(r rune) bool { return r >= rawByte+0x80 && r <= rawByte+0xFF }

// Raw returns the bytes that a string of the record stands for.
func Raw(s string) []byte {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if isRaw(r) {
			b = append(b, byte(r-rawByte))
			continue
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

// Printable makes any string safe for a terminal, on one line: whatever is not
// a plain visible character is spelled out, \n, \x1b or \u202e.
func Printable(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case isRaw(r):
			fmt.Fprintf(&b, `\x%02x`, r-rawByte)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			spell(&b, r)
		}
	}
	return b.String()
}

func spell(b *strings.Builder, r rune) {
	switch {
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < utf8.RuneSelf:
		fmt.Fprintf(b, `\x%02x`, r)
	case r < 0x10000:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}

// invisible are the characters that command a terminal or deceive a reader:
// DEL, C1, what orders or joins text unseen, line ends that only some know.
// They are always written as \uXXXX. All are below U+10000, so that no escape
// is ever half of a pair.
func invisible(r rune) bool {
	switch {
	case r < 0xA0, r == 0xAD, r == 0x61C, r == 0x180E:
		return true
	case r < 0x200B:
		return false
	}
	return r <= 0x200F || r >= 0x2028 && r <= 0x202E || r >= 0x2060 && r <= 0x206F ||
		r == 0xFEFF || r >= 0xFFF9 && r <= 0xFFFB
}

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst, _ = appendText(dst, []byte(s), true)
	return append(dst, '"')
}

// ascii is how each ASCII character is written inside a JSON string: size bytes
// of text, little end first.
var ascii = func() (t [utf8.RuneSelf]struct {
	text uint64
	size int
}) {
	for c := range t {
		s := string(rune(c))
		switch {
		case c == '"' || c == '\\':
			s = `\` + s
		case c == '\n':
			s = `\n`
		case c == '\r':
			s = `\r`
		case c == '\t':
			s = `\t`
		case c < ' ' || c == 0x7F:
			s = fmt.Sprintf(`\u%04x`, c)
		}
		var text [8]byte
		t[c].size = copy(text[:], s)
		t[c].text = binary.LittleEndian.Uint64(text[:])
	}
	return t
}()

// appendText appends p as the inside of a JSON string. An unfinished character
// at the end is returned as rest, for more may come; unless last says that
// nothing will.
//
// A terminal's flood goes through here. Eight plain bytes are copied at once;
// near an escape every byte is looked up, for that does not branch.
func appendText(dst, p []byte, last bool) (out, rest []byte) {
	n, most := len(dst), 6*len(p)+8
	dst = slices.Grow(dst, most)[:n+most]
	for len(p) > 0 {
		if len(p) >= 8 && plain(binary.LittleEndian.Uint64(p)) {
			n += copy(dst[n:], p[:8])
			p = p[8:]
			continue
		}
		before := len(p)
		for len(p) > 0 && before-len(p) < 8 && p[0] < utf8.RuneSelf {
			binary.LittleEndian.PutUint64(dst[n:], ascii[p[0]].text)
			n += ascii[p[0]].size
			p = p[1:]
		}
		if len(p) < before {
			continue
		}
		if !last && !utf8.FullRune(p) {
			break
		}
		r, size := utf8.DecodeRune(p)
		n = len(appendRune(dst[:n], r, p[:size]))
		p = p[size:]
	}
	return dst[:n], p
}

// plain says whether eight bytes all stand for themselves: each term sets the
// high bit of a byte that does not.
func plain(word uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	special := word | // not ASCII
		(word - ones*' ') | // C0
		(word + ones) | // DEL
		((word ^ ones*'"') - ones) |
		((word ^ ones*'\\') - ones)
	return special&highs == 0
}

func appendRune(dst []byte, r rune, p []byte) []byte {
	switch {
	case r == utf8.RuneError && len(p) == 1, isRaw(r):
		for _, b := range p {
			dst = utf8.AppendRune(dst, rawByte+rune(b))
		}
		return dst
	case invisible(r):
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
	}
	return append(dst, p...)
}
