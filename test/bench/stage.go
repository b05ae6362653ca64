package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cartsshd/cartsshd/test/rig"
)

// bench is the stage: the container, and every way into it.
type bench struct {
	options
	report Report

	dir     string // on a disk: a record in memory would be durable for nothing
	cgroups string
	tb      *stagehand
	docker  *rig.Dockerd
	patient rig.Container
	running []*process
	once    sync.Once
	closed  error

	ours    *server // cartsshd, for a person who may open a shell
	exact   *server // cartsshd, for a person who may run named commands only
	nsenter *server // sshd with nsenter
	exec    *server // sshd with docker exec
}

func newBench(o options) (*bench, error) {
	dir, err := os.MkdirTemp("/var/tmp", "bench")
	if err != nil {
		return nil, err
	}
	return &bench{
		options: o,
		dir:     dir,
		tb:      &stagehand{},
		report:  Report{Began: time.Now().UTC(), Quick: o.quick, Machine: thisMachine()},
	}, nil
}

// start starts everything that is measured.
func (b *bench) start() (err error) {
	if b.cgroups, err = cgroupRoot(); err != nil {
		return err
	}
	if err := b.startPatient(); err != nil {
		return err
	}
	if b.nsenter, err = b.startOpenSSH("nsenter", forced(nsenter(b.patient.PID))); err != nil {
		return err
	}
	if b.exec, err = b.startOpenSSH("docker", forced(b.dockerExec())); err != nil {
		return err
	}
	return b.startOurs()
}

// Close ends everything, the last first.
func (b *bench) Close() error {
	b.once.Do(func() {
		for _, p := range slices.Backward(b.running) {
			b.closed = firstError(b.closed, p.Close())
		}
		b.tb.finish()
		b.closed = firstError(b.closed, os.RemoveAll(b.dir))
	})
	return b.closed
}

// What is run in the patient besides busybox's applets.
var scripts = map[string]string{
	// It sends back every key, by itself: the terminal does not.
	"bin/echoes": "#!/bin/sh\n/bin/stty raw -echo\necho ready\nexec /bin/cat\n",
	// It stays when its client is gone.
	"bin/stays": "#!/bin/sh\necho here\nexec /bin/sleep 1000000\n",
}

// floodMiB is the size of /flood, lines of text.
const floodMiB = 16

func (b *bench) startPatient() error {
	return b.tb.do(func() {
		b.docker = rig.NewDocker(b.tb)
		b.patient = b.docker.Run(b.tb, "web-1")
		root := fmt.Sprintf("/proc/%d/root/", b.patient.PID)
		for name, text := range scripts {
			b.tb.must(os.WriteFile(root+name, []byte(text), 0o755))
		}
		b.tb.must(os.WriteFile(root+"flood", flood(), 0o644))
	})
}

func flood() (text []byte) {
	for i := 0; len(text) < floodMiB<<20; i++ {
		text = fmt.Appendf(text, "%8d the quick brown fox jumps over the lazy dog, again and again\n", i)
	}
	return text
}

// newServer chooses an address and a host key.
func (b *bench) newServer(name, login string) (*server, string, error) {
	s := &server{name: name, login: login, known: filepath.Join(b.dir, name+".known")}
	host, err := newKey(b.dir, name+".host")
	if err != nil {
		return nil, "", err
	}
	s.host = host.signer.PublicKey()
	if s.addr, err = freeAddr(); err != nil {
		return nil, "", err
	}
	_, port, _ := net.SplitHostPort(s.addr)
	line := fmt.Sprintf("[127.0.0.1]:%s %s\n", port, host.line())
	return s, host.file, os.WriteFile(s.known, []byte(line), 0o600)
}

// launch starts a server in a cgroup of its own, and waits until it answers.
func (b *bench) launch(s *server, cmd *exec.Cmd) error {
	cgroup := fmt.Sprintf("%s/bench-%d-%s", b.cgroups, os.Getpid(), s.name)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(b.dir, s.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := startProcess(cmd, cgroup)
	if err != nil {
		return firstError(os.Remove(cgroup), err)
	}
	b.running = append(b.running, p)
	s.proc, s.cpu = p, cpuMeter{cgroup}
	err = eventually(s.answers)
	if err == nil && p.running() {
		s.settle()
		return nil
	}
	b.tellLogs()
	return fmt.Errorf("bench: %s does not answer: %w", s.name, err)
}

// tellLogs shows what the servers have complained of, of late.
func (b *bench) tellLogs() {
	logs, _ := filepath.Glob(b.dir + "/*.log")
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		var complaints []string
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "level=INFO") {
				complaints = append(complaints, line)
			}
		}
		last := complaints[max(0, len(complaints)-10):]
		fmt.Fprintf(os.Stderr, "%s:\n%s", filepath.Base(log), strings.Join(last, ""))
	}
}

// answers returns nil if the server runs commands, or never will.
func (s *server) answers() error {
	if !s.proc.running() {
		return nil // no use in trying again
	}
	client, err := s.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if err := runOn(client, "/bin/true"); err != nil {
		return fmt.Errorf("bench: %s: /bin/true: %w", s.name, err)
	}
	return nil
}

// stagehand is as much of a testing.TB as the rig needs of one.
type stagehand struct {
	testing.TB
	cleanups []func()
}

// do runs f, which fails as a test does.
func (s *stagehand) do(f func()) (err error) {
	defer func() {
		switch failure := recover().(type) {
		case nil:
		case stageError:
			err = failure
		default:
			panic(failure)
		}
	}()
	f()
	return nil
}

func (s *stagehand) must(err error) {
	if err != nil {
		s.Fatal(err)
	}
}

type stageError struct{ error }

func (s *stagehand) Helper()                   {}
func (s *stagehand) Fatal(args ...any)         { panic(stageError{errors.New(fmt.Sprint(args...))}) }
func (s *stagehand) Fatalf(f string, a ...any) { s.Fatal(fmt.Sprintf(f, a...)) }
func (s *stagehand) Skipf(f string, a ...any)  { s.Fatalf(f, a...) }
func (s *stagehand) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }

func (s *stagehand) finish() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}
