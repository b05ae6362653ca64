// Bench measures cartsshd against what people do without it: OpenSSH's sshd
// with nsenter(1) or docker-exec as a forced command, into the same container,
// running the same static binary.
//
// Everything it measures it starts itself, on loopback: a dockerd, a container,
// two sshd and a cartsshd. The measurements take turns (ours, theirs, ours …),
// so that the noise of the machine is shared, and the medians go into a table
// and into a file of the same content. It needs root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	if spec := os.Getenv(crowdEnv); spec != "" {
		exit(crowdMain(spec))
	}
	var o options
	flag.StringVar(&o.cartsshd, "cartsshd", "./cartsshd", "the cartsshd `binary` to measure")
	flag.StringVar(&o.image, "image", "build/tools.img", "the tools image `file` it serves")
	flag.StringVar(&o.json, "json", "bench.json", "`file` for the same table as JSON")
	flag.BoolVar(&o.quick, "quick", os.Getenv("QUICK") == "1", "two minutes at most instead of ten")
	flag.BoolVar(&o.hold, "hold", false, "measure nothing: tell how to reach the servers, and wait (for perf and strace)")
	only := flag.String("only", "", "measure only what matches this `regexp`: "+names())
	flag.Parse()
	o.only = regexp.MustCompile(*only)
	exit(run(o))
}

type options struct {
	cartsshd, image, json string
	quick, hold           bool
	only                  *regexp.Regexp
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run sets the stage, measures, and clears the stage again, whatever happened.
func run(o options) (err error) {
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, b.Close()) }()
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, os.Interrupt, syscall.SIGTERM)
	// Not waited for: it outlives a measure that hangs.
	go b.endUpon(stopped)

	if err := b.start(); err != nil {
		return err
	}
	if o.hold {
		b.describe()
		select {}
	}
	for _, m := range measures {
		if o.only.MatchString(m.name) {
			b.measure(m)
		}
	}
	return b.report.finish(os.Stdout, o.json)
}

// endUpon ends the program when it is told to stop, or when something hangs.
func (b *bench) endUpon(stopped <-chan os.Signal) {
	patience := 15 * time.Minute
	if b.quick {
		patience = 4 * time.Minute
	}
	if b.hold {
		patience = time.Hour
	}
	var why string
	select {
	case s := <-stopped:
		why = s.String()
	case <-time.After(patience):
		why = "not done after " + patience.String()
		b.tellLogs()
	}
	exit(errors.Join(errors.New("bench: "+why), b.Close()))
}

// A measure fills one or more rows of the table.
type measure struct {
	name string
	run  func(*bench) error
}

// measures, in the table's order.
var measures = []measure{
	{"connect", measureConnect},
	{"mux", measureMux},
	{"exec", measureExec},
	{"enter", measureEnter},
	{"entry", measureEntry},
	{"echo", measureEcho},
	{"bulk", measureBulk},
	{"flood", measureFlood},
	{"rate", measureRate},
	{"idle", measureIdle},
	{"thousand", measureThousand},
	{"policy", measurePolicy},
}

func names() (list string) {
	for _, m := range measures {
		list += " " + m.name
	}
	return list
}

// measure runs one measure. One that fails is a line of the report, and the
// others still run.
func (b *bench) measure(m measure) {
	began := time.Now()
	if err := m.run(b); err != nil {
		b.report.fail(m.name, err)
		b.tellLogs()
	}
	fmt.Fprintf(os.Stderr, "bench: %s took %.1f s\n", m.name, time.Since(began).Seconds())
}

// describe tells how to reach the servers by hand.
func (b *bench) describe() {
	for _, s := range []*server{b.ours, b.exact, b.nsenter, b.exec} {
		fmt.Printf("%s: pid %d: %s\n", s.name, s.proc.pid, strings.Join(s.client(nil).Args, " "))
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
