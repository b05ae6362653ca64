package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

// crowdEnv makes this program a crowd: a process of many clients, so that all
// of them can vanish at once.
const crowdEnv = "CARTSSHD_BENCH_CROWD"

// crowdSpec is what a crowd does: N connections with a session each, whose
// command says something and then stays.
type crowdSpec struct {
	Addr, Login, KeyFile string
	HostKey              []byte
	N                    int
	Terminal             bool
	Command              string
}

// crowd is a running one.
type crowd struct {
	cmd  *exec.Cmd
	done <-chan struct{}
}

// gather starts a crowd and returns when all of its sessions are there.
func (s *server) gather(n int, terminal bool, command string) (*crowd, error) {
	spec, err := json.Marshal(crowdSpec{s.addr, s.login, s.key.file, s.host.Marshal(), n, terminal, command})
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c := &crowd{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), crowdEnv+"="+string(spec))
	c.cmd.Stdout, c.cmd.Stderr = w, os.Stderr
	tie(c.cmd)
	c.done, err = startTied(c.cmd)
	w.Close()
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		c.vanish()
		return nil, fmt.Errorf("bench: %s: no crowd of %d", s.name, n)
	}
	return c, nil
}

// vanish is what kill -9 does: no client says goodbye.
func (c *crowd) vanish() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// crowdMain is the crowd's own main. It says one byte when all are there, and
// then waits to be killed.
func crowdMain(text string) error {
	var spec crowdSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	s, err := spec.server()
	if err != nil {
		return err
	}
	if err := inParallel(8, spec.N, func() error { return s.stay(spec.Terminal, spec.Command) }); err != nil {
		return err
	}
	fmt.Print(".")
	select {}
}

func (spec crowdSpec) server() (*server, error) {
	text, err := os.ReadFile(spec.KeyFile)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	host, err := ssh.ParsePublicKey(spec.HostKey)
	if err != nil {
		return nil, err
	}
	return &server{name: "crowd", addr: spec.Addr, login: spec.Login, key: key{signer: signer}, host: host}, nil
}

// inParallel calls f n times, some at once, but no more once one has failed.
func inParallel(width, n int, f func() error) error {
	var wg sync.WaitGroup
	errs := make([]error, width)
	var begun atomic.Int64
	for i := range width {
		wg.Go(func() {
			for errs[i] == nil && begun.Add(1) <= int64(n) {
				errs[i] = f()
			}
		})
	}
	wg.Wait()
	return firstError(errs...)
}

// stay opens a connection and a session on it that stays when we return. It
// has said something: it is in the container.
func (s *server) stay(terminal bool, command string) error {
	client, err := s.dial()
	if err != nil {
		return err
	}
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	if terminal {
		if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
			return err
		}
	}
	if _, err := session.StdinPipe(); err != nil { // or it is at its end at once
		return err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.Start(command); err != nil {
		return err
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		return fmt.Errorf("bench: %s: %w", command, err)
	}
	// Nobody waits for this one: it ends with the process.
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return nil
}
