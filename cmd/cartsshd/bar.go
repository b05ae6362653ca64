package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// A bar shows on a terminal how far something is, below the lines that are
// written by it. Elsewhere there are only the lines.
//
// The libraries for this are four modules with it, in the binary that holds the
// daemon; this is a carriage return.
type bar struct {
	out   *os.File
	tty   bool
	shown string
}

func newBar(out *os.File) *bar { return &bar{out: out, tty: term.IsTerminal(int(out.Fd()))} }

func (b *bar) show(stage string, done, total int) {
	if !b.tty {
		return
	}
	now := stage + " …"
	if total > 0 {
		const width = 30
		full := min(width, width*done/total)
		now = fmt.Sprintf("%-14s [%s%s] %3d %%", stage, strings.Repeat("=", full), strings.Repeat(" ", width-full), min(100, 100*done/total))
	}
	if now != b.shown {
		fmt.Fprint(b.out, "\r", now, "\x1b[K")
		b.shown = now
	}
}

// Write writes whole lines.
func (b *bar) Write(line []byte) (int, error) {
	b.clear()
	return b.out.Write(line)
}

func (b *bar) clear() {
	if b.shown != "" {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = ""
	}
}
