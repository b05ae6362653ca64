package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// hostile holds a character of every kind that a terminal might obey.
var hostile = func() string {
	var b strings.Builder
	for c := range rune(0xA0) {
		b.WriteRune(c)
	}
	b.WriteString("\u00ad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff\ufff9")
	b.WriteString("\xff\x9b\xc3\xe2\x82 é € 🙂 \U0010FE9B \ufffd \ue0b0 \\ \"")
	return b.String()
}()

func TestNoControlCharacterReachesTheJournalRaw(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	m := alice(nil)
	m.Login, m.Command, m.Argv = hostile, hostile, []string{hostile}
	m.Person.Name, m.Client.Software, m.Target.Name = hostile, hostile, hostile
	must(t, begin(t, l, m).End(0, hostile, Reason(hostile)))

	raw, err := os.ReadFile(filepath.Join(dir, journalName))
	must(t, err)
	checkHarmless(t, strings.ReplaceAll(string(raw), "\n", ""))
	for _, r := range records(t, dir)[1:] {
		for name, s := range map[string]string{"login": r.Login, "person": r.Person.Name, "software": r.Client.Software} {
			if got := string(Raw(s)); got != hostile {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

func checkHarmless(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("invalid UTF-8 in %.200q", s)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			t.Errorf("%U in %.200q", r, s)
			return
		}
	}
}

func TestPrintableIsHarmlessAndReadable(t *testing.T) {
	checkHarmless(t, Printable(hostile))
	for in, want := range map[string]string{
		"plain é 🙂":           "plain é 🙂",
		"\x1b[31mred":         `\x1b[31mred`,
		"a\nb\r\tc\x00":       `a\nb\r\tc\x00`,
		"\u009b31m":           `\u009b31m`,
		"\x9b\xff":            `\x9b\xff`,
		"\U0010FE9B":          `\x9b`,
		"evil\u202etxt.exe":   `evil\u202etxt.exe`,
		"\U000E0041":          `\U000e0041`,
		"\ufffd":              "\ufffd",
		`back\slash "quoted"`: `back\slash "quoted"`,
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestALongCommandIsKnownByItsHash(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	kept := strings.Repeat("a", maxCommand)
	must(t, l.Event(Event{Event: SessionDenied, Command: kept}))
	if r := last(t, dir); r.Command != kept || r.CommandBytes != 0 || r.CommandSHA256 != "" {
		t.Errorf("a command of %d bytes was cut", len(kept))
	}

	m := alice(nil)
	m.Command, m.Argv = kept+"b", []string{kept, "b"}
	begin(t, l, m)
	sum := sha256.Sum256([]byte(m.Command))
	r := last(t, dir)
	if r.Command != kept || r.Argv != nil || r.CommandBytes != maxCommand+1 || r.CommandSHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("%d bytes kept, %d told, %s", len(r.Command), r.CommandBytes, r.CommandSHA256)
	}
}

func TestNoOtherTextIsLong(t *testing.T) {
	dir := t.TempDir()
	must(t, opened(t, dir).Event(Event{Event: SigninFailed, Login: strings.Repeat("\x1b", 1<<20)}))
	if got, want := last(t, dir).Login, strings.Repeat("\x1b", maxText)+"… (1048576 bytes)"; got != want {
		t.Errorf("%d bytes: …%q", len(got), got[max(0, len(got)-30):])
	}
}

// fill sets every field to something that is not its zero value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text of " + v.Type().String())
	case reflect.Int, reflect.Int64:
		v.SetInt(-7)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	}
}

func TestEveryFieldIsWrittenAsItIsRead(t *testing.T) {
	var full, empty, got Record
	fill(reflect.ValueOf(&full).Elem())
	for _, want := range []Record{full, empty} {
		got = Record{}
		must(t, json.Unmarshal(appendLine(nil, &want), &got))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\n%+v", got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte(hostile))
	f.Add([]byte("\xe2\x82"))
	f.Add([]byte("\xf4\x8f\xba\x9b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		line := appendString(nil, string(in))
		checkHarmless(t, string(line))
		var got string
		if err := json.Unmarshal(line, &got); err != nil || !bytes.Equal(Raw(got), in) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		checkHarmless(t, Printable(string(in)))
		checkHarmless(t, Printable(got))
	})
}

func TestPlainIsWhatNeedsNoEscape(t *testing.T) {
	for c := range 256 {
		for at := range 8 {
			word := []byte("~ !#[]az")
			word[at] = byte(c)
			want := c >= ' ' && c < 0x7F && c != '"' && c != '\\'
			if got := plain(binary.LittleEndian.Uint64(word)); got != want {
				t.Errorf("%q: %v", word, got)
			}
		}
	}
}
