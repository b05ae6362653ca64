package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	gossh "golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// message is how an error is told to a person. Problems in a file begin with
// the file's name already, as compilers' do.
func message(err error) string {
	var problems strictyaml.Problems
	if errors.As(err, &problems) {
		return err.Error() // with the way out, where there is one
	}
	return "cartsshd: " + err.Error()
}

// hostKey reads the host's private key.
func hostKey(path string) (gossh.Signer, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf(`no host key at %s: make one with: ssh-keygen -t ed25519 -N "" -f %s`, path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("host key: %s: others may read it: chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	signer, err := gossh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*gossh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("host key: %s: has a passphrase, and nobody to type it: ssh-keygen -p -N \"\" -f %s", path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("host key: %s: is not a private key: %w (make one elsewhere with: ssh-keygen -t ed25519 -N \"\")", path, err)
	}
	return signer, nil
}

// trusted fails if others than root, or we, may change the file: who can change
// the tools is in every session.
func trusted(path string, info os.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if info.Mode().Perm()&0o022 != 0 || owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("tools image: %s: others may write to it: chown root %s && chmod go-w %s", path, path, path)
	}
	return nil
}

// runtimes are those that the configuration turns on, the first of which that
// knows a container has it: those before those that they are built on.
func runtimes(c config.Runtimes) []router.Runtime {
	var list []router.Runtime
	if c.Docker != nil {
		list = append(list, router.NewDocker(c.Docker.Socket, string(c.Docker.Root)))
	}
	if p := c.Podman; p != nil {
		list = append(list, router.NewPodman(p.Socket, p.Root, p.Run, p.Users))
	}
	if c.CRI != nil {
		list = append(list, router.NewCRI(c.CRI.Containerd, c.CRI.CRIO))
	}
	if c.Containerd != nil {
		list = append(list, router.NewContainerd(c.Containerd.Root))
	}
	if c.Incus != nil {
		list = append(list, router.NewIncus(incusRoots(c.Incus)...))
	}
	if c.LXC != nil {
		list = append(list, router.NewLXC(c.LXC.Root))
	}
	if c.Nspawn != nil {
		list = append(list, router.NewNspawn(c.Nspawn.Dir))
	}
	if c.Rkt != nil {
		list = append(list, router.NewRkt(c.Rkt.Root))
	}
	if c.Crun != nil {
		list = append(list, router.NewCrun(c.Crun.Roots...))
	}
	if c.Runc != nil {
		list = append(list, router.NewRunc(c.Runc.Roots...))
	}
	if c.PID != nil {
		list = append(list, router.PID{})
	}
	return list
}

// incusRoots are where its data may be: Incus's, LXD's, and that of LXD's snap.
func incusRoots(c *config.Incus) []string {
	if c.Root != "" {
		return []string{string(c.Root)}
	}
	return []string{"/var/lib/incus", "/var/lib/lxd", "/var/snap/lxd/common/lxd"}
}

// listen opens the door.
func listen(address config.Address) (net.Listener, error) {
	ln, err := net.Listen("tcp", string(address))
	if err != nil {
		return nil, fmt.Errorf("%w (for another address, see \"listen\" in the configuration)", err)
	}
	return ln, nil
}
