package main

import (
	"fmt"
	"io"
	"os/exec"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	againstNsenter = "sshd + nsenter"
	againstDocker  = "sshd + docker exec"
)

// What the rows of one command run, for the notes.
const (
	whatRuns = "ours runs /bin/true by the tools image's bash -c, as for anybody who may open a shell; theirs by the host's bash -c, as sshd does with any command"
	exactly  = "for a person who may run named commands only: no shell in ours, still sshd's in theirs"
)

// rounds is how often a measure is repeated.
func (b *bench) rounds(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// measureConnect is `ssh host true`: a whole client, from nothing to its exit.
func measureConnect(b *bench) error {
	connect := func(s *server, options ...string) subject {
		return func() (float64, error) {
			return milliseconds(func() error { return runQuietly(s.client(options, "/bin/true")) })
		}
	}
	pinned := []string{"-o", "KexAlgorithms=" + curve25519}
	n := b.rounds(40, 8)
	t, err := interleave(n, connect(b.ours), connect(b.nsenter), connect(b.exact), connect(b.exec),
		connect(b.ours, pinned...), connect(b.nsenter, pinned...))
	if err != nil {
		return err
	}
	row := Row{Unit: "ms", Samples: n, Note: whatRuns}
	b.compareMedians(row, "new connection, client defaults", againstNsenter, t[0], t[1], ratioAtMost(0.12))
	b.compareMedians(row, "new connection, both curve25519", againstNsenter, t[4], t[5], ratioAtMost(0.18))
	b.compareMedians(row, "new connection, client defaults", againstDocker, t[0], t[3], ratioAtMost(0.09))
	row.Note = exactly
	b.compareMedians(row, "  the same, named commands only", againstNsenter, t[2], t[1], nil)
	return nil
}

func (b *bench) compareMedians(row Row, measure, against string, ours, theirs samples, g *goal) {
	row.Measure, row.Against = measure, against
	b.report.compare(row, ours.median(), theirs.median(), g)
}

// measureMux is `ssh host true` over a connection that is there already.
func measureMux(b *bench) error {
	var subjects []subject
	for _, s := range []*server{b.ours, b.nsenter, b.exec, b.exact} {
		m, err := s.share(b.dir)
		if err != nil {
			return err
		}
		defer m.Close()
		subjects = append(subjects, func() (float64, error) {
			return milliseconds(func() error { return runQuietly(m.command(nil, "/bin/true")) })
		})
	}
	n := b.rounds(100, 20)
	t, err := interleave(n, subjects...)
	if err != nil {
		return err
	}
	b.compareCommand("ControlMaster reuse", n, t, ratioAtMost(0.95), ratioAtMost(0.13))
	return nil
}

// measureExec is a channel opened, /bin/true run and its status had, on an
// established connection, by a client that costs next to nothing.
func measureExec(b *bench) error {
	var subjects []subject
	for _, s := range []*server{b.ours, b.nsenter, b.exec, b.exact} {
		client, err := s.dial()
		if err != nil {
			return err
		}
		defer client.Close()
		subjects = append(subjects, func() (float64, error) {
			return milliseconds(func() error { return runOn(client, "/bin/true") })
		})
	}
	n := b.rounds(200, 40)
	t, err := interleave(n, subjects...)
	if err != nil {
		return err
	}
	b.compareCommand("open + exec, established connection", n, t, ratioAtMost(0.5), ratioAtMost(0.035))
	return nil
}

// compareCommand adds the rows of samples of ours, nsenter, docker, exact.
func (b *bench) compareCommand(measure string, n int, t []samples, nsenter, docker *goal) {
	row := Row{Unit: "ms", Samples: n, Note: whatRuns}
	b.compareMedians(row, measure, againstNsenter, t[0], t[1], nsenter)
	b.compareMedians(row, measure, againstDocker, t[0], t[2], docker)
	row.Note = exactly
	b.compareMedians(row, "  the same, named commands only", againstNsenter, t[3], t[1], nil)
}

// measureEnter is entering by hand, on the host itself.
func measureEnter(b *bench) error {
	whole := func(argv []string) subject {
		return func() (float64, error) {
			return milliseconds(func() error { return runQuietly(exec.Command(argv[0], argv[1:]...)) })
		}
	}
	n := b.rounds(100, 20)
	t, err := interleave(n, whole(b.enter("/bin/true")), whole(append(nsenter(b.patient.PID), "/bin/true")),
		whole(append(b.dockerExec(), "/bin/true")))
	if err != nil {
		return err
	}
	row := Row{Unit: "ms", Samples: n, Note: "root on the host itself: neither signed in nor recorded"}
	b.compareMedians(row, "cartsshd enter, a whole process", "nsenter", t[0], t[1], ratioAtMost(3))
	b.compareMedians(row, "cartsshd enter, a whole process", "docker exec", t[0], t[2], ratioAtMost(0.1))
	return nil
}

// measureEcho is the time from a key to its echo by a program in the container
// that reads a raw terminal. Nobody types faster than a key in 2 ms.
func measureEcho(b *bench) error {
	var subjects []subject
	for _, s := range []*server{b.ours, b.nsenter} {
		typist, err := s.typist()
		if err != nil {
			return err
		}
		defer typist.Close()
		subjects = append(subjects, func() (float64, error) {
			time.Sleep(2 * time.Millisecond)
			ms, err := milliseconds(typist.key)
			return ms * 1e3, err
		})
	}
	n := b.rounds(4000, 1000)
	t, err := interleave(n, subjects...)
	if err != nil {
		return err
	}
	row := Row{Unit: "µs", Samples: n, Note: "a key every 2 ms, echoed by cat in the container on a raw terminal; ours recorded"}
	b.compareMedians(row, "keystroke echo p50", againstNsenter, t[0], t[1], ratioAtMost(1.4))
	row.Measure, row.Against = "keystroke echo p99", againstNsenter
	b.report.compare(row, t[0].quantile(0.99), t[1].quantile(0.99), ratioAtMost(2))
	return nil
}

// typist is a session with a terminal, and the program echoes in it.
type typist struct {
	client *ssh.Client
	in     io.Writer
	out    io.Reader
}

func (s *server) typist() (*typist, error) {
	client, err := s.dial()
	if err != nil {
		return nil, err
	}
	t := &typist{client: client}
	if err := t.start(); err != nil {
		return nil, firstError(client.Close(), err)
	}
	return t, nil
}

func (t *typist) start() error {
	session, err := t.client.NewSession()
	if err != nil {
		return err
	}
	if t.in, err = session.StdinPipe(); err != nil {
		return err
	}
	if t.out, err = session.StdoutPipe(); err != nil {
		return err
	}
	if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
		return err
	}
	if err := session.Start("/bin/echoes"); err != nil {
		return err
	}
	ready := make([]byte, len("ready\n")) // raw: no carriage return
	if _, err := io.ReadFull(t.out, ready); err != nil || string(ready) != "ready\n" {
		return fmt.Errorf("bench: echo: got %q: %w", ready, err)
	}
	return nil
}

// key types a key and waits for its echo.
func (t *typist) key() error {
	var echo [1]byte
	if _, err := t.in.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(t.out, echo[:])
	return err
}

func (t *typist) Close() error { return t.client.Close() }
