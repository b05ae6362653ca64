package main

import (
	"fmt"
	"time"
)

// Programs that stay, and say so. The shell stays until its terminal hangs up;
// the other one is what people forget.
const (
	prompts = "/bin/sh"
	stays   = "/bin/stays"
)

// measureIdle is the memory of a person who looks at a prompt, and what is left
// when all of them have gone without a word.
func measureIdle(b *bench) error {
	n := b.rounds(100, 50)
	ours, err := b.weigh(b.ours, n)
	if err != nil {
		return err
	}
	theirs, err := b.weigh(b.nsenter, n)
	if err != nil {
		return err
	}
	row := Row{Unit: "KiB", Samples: n, Measure: "memory (PSS) per idle pty session", Against: againstNsenter,
		Note: fmt.Sprintf("all processes of the server with %d sessions of the container's own /bin/sh, less those without, by session", n)}
	b.report.compare(row, ours.each, theirs.each, ratioAtMost(0.2))
	row = Row{Samples: n, Measure: fmt.Sprintf("processes left 3 s after %d clients vanish", n+n/10), Against: againstNsenter,
		Note: "of ten clients nine have a shell on a terminal and one a sleep without"}
	b.report.compare(row, ours.left, theirs.left, nil)
	return nil
}

// weight is what a crowd costs a server: all of its processes by session, the
// server's own by session, its threads, and processes that outlive the crowd.
type weight struct{ each, own, threads, left float64 }

// weigh gathers n people with a shell on a terminal, and weighs them; then some
// without a terminal; then all of them vanish.
func (b *bench) weigh(s *server, n int) (w weight, err error) {
	defer func() { err = firstError(err, killAll(func() []int { return inside(b.patient.PID) })) }()
	resting := s.processes()
	empty := pssKiB(resting)
	shells, err := s.gather(n, true, prompts)
	if err != nil {
		return w, err
	}
	defer shells.vanish()
	w.each = (pssKiB(s.processes()) - empty) / float64(n)
	w.own = pssKiB(resting) / float64(n)
	w.threads = threads(s.proc.pid)
	sleepers, err := s.gather(n/10, false, stays)
	if err != nil {
		return w, err
	}
	shells.vanish()
	sleepers.vanish()
	time.Sleep(3 * time.Second) // the goal says so
	w.left = float64(len(s.processes()) - s.rest + len(b.strays(s)))
	return w, nil
}

// strays are processes in the container that are not the server's any more.
func (b *bench) strays(s *server) (pids []int) {
	counted := map[int]bool{}
	for _, pid := range s.processes() {
		counted[pid] = true
	}
	for _, pid := range inside(b.patient.PID) {
		if !counted[pid] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// measureThousand is a thousand people at a prompt. Theirs is not asked: it
// would be five thousand processes.
func measureThousand(b *bench) error {
	const n = 1000
	w, err := b.weigh(b.ours, n)
	if err != nil {
		return err
	}
	row := Row{Unit: "KiB", Samples: n, Measure: "server's own memory (PSS) per session at 1,000",
		Note: "of the processes that it has at rest, divided by the sessions"}
	b.report.absolute(row, w.own, oursAtMost(160))
	b.report.absolute(Row{Samples: n, Measure: "threads at 1,000 idle sessions"}, w.threads, oursAtMost(40))
	b.report.absolute(Row{Samples: n, Measure: "processes left 3 s after 1,100 clients vanish"}, w.left, oursAtMost(0))
	return nil
}
