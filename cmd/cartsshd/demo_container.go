package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The demo's container needs no runtime: namespaces, and a root directory that
// holds nothing but one static program, ourselves, as a web server.

// startDemoContainer starts it and waits until it answers. It ends with us.
func startDemoContainer() (*exec.Cmd, error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", "demo-container")
	cmd.Stderr = os.Stderr
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Setsid:     true, // our terminal is not the container's, and Ctrl-C is for us
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("demo: start a container: %w", err)
	}
	if said, _ := io.ReadAll(ready); string(said) != "ready" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, errors.New("demo: the container did not start")
	}
	return cmd, nil
}

type demoContainerCmd struct{}

// Run is the container's PID 1, which turns into its web server.
func (demoContainerCmd) Run() error {
	root, err := os.MkdirTemp("", "cartsshd-demo-root-")
	if err != nil {
		return err
	}
	for _, step := range []func(string) error{privateRoot, installWeb, mountKernel, intoRoot} {
		if err := step(root); err != nil {
			return fmt.Errorf("demo: container: %w", err)
		}
	}
	if err := unix.Sethostname([]byte("web-1")); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// Should our parent die in any way, so do we.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	return unix.Exec("/web", []string{"web", "demo-web"}, []string{})
}

func privateRoot(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=0755,size=64m"); err != nil {
		return err
	}
	for _, dir := range []string{"dev", "proc", "old"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func installWeb(root string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	web, err := os.OpenFile(filepath.Join(root, "web"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(web, self)
	return errors.Join(err, web.Close())
}

func mountKernel(root string) error {
	return errors.Join(
		unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		unix.Mount("dev", filepath.Join(root, "dev"), "tmpfs", unix.MS_NOSUID, "mode=0755,size=64k"),
	)
}

func intoRoot(root string) error {
	if err := unix.PivotRoot(root, filepath.Join(root, "old")); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join("/old", root)); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove("/old")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

type demoWebCmd struct{}

// Run serves one page on port 8080 of the container.
func (demoWebCmd) Run() error {
	ln, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := ready.WriteString("ready"); err != nil {
		return err
	}
	ready.Close()
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from web-1: no shell here, no libc, nothing but me")
	}))
}
