package audit

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func BenchmarkBeginEnd(b *testing.B) {
	for name, pty := range map[string]*PTY{"exec": nil, "pty": xterm} {
		b.Run(name, func(b *testing.B) {
			l := opened(b, b.TempDir())
			for b.Loop() {
				must(b, begin(b, l, alice(pty)).End(0, "", "exited"))
			}
		})
		b.Run(name+"/begin", func(b *testing.B) {
			l := opened(b, b.TempDir())
			for b.Loop() {
				s := begin(b, l, alice(pty))
				b.StopTimer()
				must(b, s.End(0, "", "exited"))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkEventsOfManyWriters(b *testing.B) {
	l := opened(b, b.TempDir())
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(b, l.Event(Event{Event: SigninOK, Login: "web-1"}))
		}
	})
}

// BenchmarkOutput is a flood through the recorder, to the file. Its figure is
// what the disk and one core together take.
func BenchmarkOutput(b *testing.B) {
	for name, text := range floods {
		b.Run(name, func(b *testing.B) {
			l := opened(b, b.TempDir())
			s := begin(b, l, alice(xterm))
			out := s.Output(io.Discard)
			p := bytes.Repeat([]byte(text), 32<<10/len(text))
			b.SetBytes(int64(len(p)))
			var n int
			for b.Loop() {
				if _, err := out.Write(p); err != nil {
					b.Fatal(err)
				}
				if n += len(p); n > 1<<30 { // spare the disk
					s.recording.mu.Lock()
					must(b, s.recording.file.Truncate(0))
					s.recording.mu.Unlock()
					n = 0
				}
			}
			b.StopTimer()
			must(b, s.End(0, "", "exited"))
		})
	}
}

// BenchmarkKeystroke is the hot path alone: what an echo waits for.
func BenchmarkKeystroke(b *testing.B) {
	s := begin(b, opened(b, b.TempDir()), alice(xterm))
	out := s.Output(io.Discard)
	for b.Loop() {
		if _, err := out.Write([]byte("x")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkText(b *testing.B) {
	for name, text := range floods {
		b.Run(name, func(b *testing.B) {
			p := bytes.Repeat([]byte(text), 64<<10/len(text))
			b.SetBytes(int64(len(p)))
			var dst []byte
			for b.Loop() {
				dst, _ = appendText(dst[:0], p, false)
			}
		})
	}
}

var floods = map[string]string{
	"yes":    "y\r\n",
	"lines":  strings.Repeat("the quick brown fox jumps over the lazy dog ", 2) + "\r\n",
	"colour": "\x1b[01;34mdir\x1b[0m  \x1b[01;32mfile\x1b[0m\r\n",
	"cjk":    strings.Repeat("端末の出力", 8) + "\r\n",
}
