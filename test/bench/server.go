package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// curve25519 is the key exchange that both sides and both clients know.
const curve25519 = "curve25519-sha256"

// server is an SSH server under test, and how its container is asked for.
type server struct {
	name  string
	addr  string
	login string
	key   key           // the client's
	host  ssh.PublicKey // the server's
	known string        // known_hosts file with it
	proc  *process
	cpu   cpuMeter
	rest  int // processes it has when nobody is there, the server itself included
}

// key is an ed25519 key in a file, as OpenSSH reads it.
type key struct {
	file   string
	signer ssh.Signer
}

func newKey(dir, name string) (key, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return key{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return key{}, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return key{}, err
	}
	file := filepath.Join(dir, name)
	return key{file, signer}, os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

// line is the public half as a line of authorized_keys.
func (k key) line() string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// processes are the server's own and all that descend from it.
func (s *server) processes() []int { return descendants(s.proc.pid) }

// settle finds out how many processes the server has at rest: it waits until
// what served its first client is gone.
func (s *server) settle() {
	for steady := 0; steady < 20; time.Sleep(10 * time.Millisecond) {
		n := len(s.processes())
		if n != s.rest {
			s.rest, steady = n, 0
		}
		steady++
	}
}

// alone tells whether nothing is there that served a client.
func (s *server) alone() error {
	if n := len(s.processes()) - s.rest; n > 0 {
		return fmt.Errorf("bench: %s still has %d processes", s.name, n)
	}
	return nil
}

// client returns OpenSSH's client, ready to run command on the server. It
// reads no configuration of the machine's.
func (s *server) client(options []string, command ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(s.addr)
	args := []string{"-F", "none", "-i", s.key.file, "-p", port, "-l", s.login,
		"-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + s.known, "-o", "GlobalKnownHostsFile=none",
		"-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR"}
	args = append(args, options...)
	args = append(args, host)
	return exec.Command("ssh", append(args, command...)...)
}

// dial signs in with x/crypto's client.
func (s *server) dial() (*ssh.Client, error) {
	client, err := ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
		Config:          ssh.Config{KeyExchanges: []string{curve25519}},
		User:            s.login,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(s.key.signer)},
		HostKeyCallback: ssh.FixedHostKey(s.host),
		Timeout:         30 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", s.name, err)
	}
	return client, nil
}

// runOn runs command on an open connection, without a terminal.
func runOn(c *ssh.Client, command string) error {
	session, err := c.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	var said bytes.Buffer
	session.Stderr = &said
	if err := session.Run(command); err != nil {
		return fmt.Errorf("bench: %s: %w: %s", command, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// runQuietly runs a program and puts what it said into the error.
func runQuietly(cmd *exec.Cmd) error {
	var said bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("bench: %s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// master is OpenSSH's client with one connection that others share.
type master struct {
	*server
	socket string
	cmd    *exec.Cmd
}

// share opens one.
func (s *server) share(dir string) (*master, error) {
	m := &master{server: s, socket: filepath.Join(dir, s.name+".ctl")}
	m.cmd = s.client([]string{"-M", "-N", "-S", m.socket})
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	check := func() error { return runQuietly(s.client([]string{"-S", m.socket, "-O", "check"})) }
	if err := eventually(check); err != nil {
		return nil, firstError(m.Close(), err)
	}
	return m, nil
}

// command returns a client that runs command over the shared connection.
func (m *master) command(options []string, command ...string) *exec.Cmd {
	return m.client(append([]string{"-S", m.socket}, options...), command...)
}

func (m *master) Close() error {
	_ = runQuietly(m.client([]string{"-S", m.socket, "-O", "exit"}))
	_ = m.cmd.Process.Kill() // where it did not listen
	_ = m.cmd.Wait()
	_ = os.Remove(m.socket) // or the next one would not listen there
	return nil
}

// eventually tries f until it works, for ten seconds.
func eventually(f func() error) (err error) {
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return nil
		}
	}
	return err
}

// freeAddr finds a free port on loopback.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
