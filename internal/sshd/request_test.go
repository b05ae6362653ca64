package sshd

import (
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"
)

// None of the parsers may crash, whatever a client sends, and what they let
// through keeps their bounds.

func FuzzPTY(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add(gossh.Marshal(&struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}{"xterm", 80, 24, 0, 0, "\x35\x00\x00\x00\x01\x00"}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := parsePTY(payload)
		if err != nil {
			return
		}
		if len(p.term) > maxTerm || !plain(p.term) || len(p.modes) > maxModes || p.size != p.size.sane() || p.size.Cols == 0 {
			t.Fatalf("%+v", p)
		}
	})
}

func FuzzResize(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if z, err := parseResize(payload); err == nil && (z != z.sane() || z.Rows == 0) {
			t.Fatalf("%+v", z)
		}
	})
}

func FuzzExec(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x02ls"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if c, err := parseExec(payload); err == nil && (len(c) > maxCommand || strings.Contains(c, "\x00")) {
			t.Fatalf("%q", c)
		}
	})
}

func FuzzEnv(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x04LANG\x00\x00\x00\x01C"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		pair, err := parseEnv(payload)
		if err != nil {
			return
		}
		name, value, _ := strings.Cut(pair, "=")
		if !settable(name) || strings.ContainsAny(value, "\x00\n/") || len(value) > maxEnvValue {
			t.Fatalf("%q", pair)
		}
	})
}

func FuzzSignal(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x04TERM"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if sig, err := parseSignal(payload); err == nil && signalName(sig) == "" {
			t.Fatal(sig)
		}
	})
}

func FuzzSubsystem(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x04sftp"))
	f.Fuzz(func(t *testing.T, payload []byte) { parseSubsystem(payload) })
}
