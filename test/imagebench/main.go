// Command imagebench builds the tools image in each profile and prints what
// that took, how large it is, and how soon a first prompt is there of it.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/loop"
)

func main() {
	busybox := flag.String("busybox", "/bin/busybox", "a static program, for a bare exec")
	flag.Parse()
	if err := run(*busybox); err != nil {
		fmt.Fprintln(os.Stderr, "imagebench:", err)
		os.Exit(1)
	}
}

func run(busybox string) error {
	dir, err := os.MkdirTemp("", "imagebench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%-6s %-9s %10s %10s %9s\n", "", "fs", "cold", "warm", "size")
	for _, b := range []struct{ profile, fs string }{{"std", "squashfs"}, {"min", "squashfs"}, {"full", "squashfs"}, {"std", "erofs"}, {"std", "ext4"}} {
		if err := build(dir, b.profile, b.fs); err != nil {
			return err
		}
	}
	fmt.Println("\ncold: nothing downloaded yet; warm: all of it. A first prompt, with no cache of the kernel's:")
	for _, fs := range []string{"squashfs", "erofs", "ext4"} {
		if err := prompt(dir, fs, busybox); err != nil {
			return err
		}
	}
	return nil
}

func build(dir, profile, fs string) error {
	o := image.Options{Output: filepath.Join(dir, profile+"."+fs), Profile: profile, FS: fs, CacheDir: filepath.Join(dir, "cache-"+profile)}
	var took [2]time.Duration
	for i := range took {
		begun := time.Now()
		if err := image.Build(context.Background(), o); err != nil {
			return err
		}
		took[i] = time.Since(begun)
	}
	cold := took[0].Round(100 * time.Millisecond).String()
	if fs != "squashfs" {
		cold = "" // downloaded before
	}
	st, err := os.Stat(o.Output)
	if err != nil {
		return err
	}
	fmt.Printf("%-6s %-9s %10s %10s %6.1f MB\n", profile, fs, cold, took[1].Round(100*time.Millisecond), float64(st.Size())/1e6)
	return nil
}

// prompt prints how much longer a first prompt takes than a bare exec.
func prompt(dir, fs, busybox string) error {
	root := filepath.Join(dir, "root-"+fs)
	for _, d := range []string{root + "/dev/crashcart", root + "/bin"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	code, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("%w (try: apt-get install busybox-static)", err)
	}
	if err := os.WriteFile(root+"/bin/busybox", code, 0o755); err != nil {
		return err
	}
	var bare, first []time.Duration
	for range 7 {
		b, f, err := once(root, filepath.Join(dir, "std."+fs))
		if err != nil {
			return err
		}
		bare, first = append(bare, b), append(first, f)
	}
	slices.Sort(bare)
	slices.Sort(first)
	fmt.Printf("std    %-9s %10.1f ms, a bare exec %.1f ms (medians of %d)\n", fs, ms(first[3]), ms(bare[3]), len(bare))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// once attaches the image to nothing but a root of its own, forgets what the
// kernel has read of it, and starts a shell there.
func once(root, img string) (bare, first time.Duration, err error) {
	im, err := loop.Open(img)
	if err != nil {
		return 0, 0, err
	}
	defer im.Close()
	mount, err := im.Mount(nil)
	if err != nil {
		return 0, 0, err
	}
	defer mount.Close()
	done := make(chan error)
	go func() { // its thread has a namespace of its own, and ends with it
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, root+image.Root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return err
			}
			unix.Sync()
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				return err
			}
			if bare, err = shown(root, "", "/bin/busybox", "true"); err == nil { // reads busybox
				bare, err = shown(root, "", "/bin/busybox", "true")
			}
			if err != nil {
				return err
			}
			first, err = shown(root, ":/# ", image.Root+"/bin/bash", "--rcfile", image.Root+"/.crashcartrc", "-i")
			return err
		}()
	}()
	return bare, first, <-done
}

// shown runs a program on a terminal until this is on it, or until its end.
func shown(root, want string, argv ...string) (time.Duration, error) {
	screen, tty, err := pty.Open()
	if err != nil {
		return 0, err
	}
	defer screen.Close()
	c := exec.Cmd{Path: argv[0], Args: argv, Env: []string{"PATH=" + image.Root + "/bin", "TERM=xterm-256color", "HOME=/"}, Dir: "/",
		Stdin: tty, Stdout: tty, Stderr: tty, SysProcAttr: &syscall.SysProcAttr{Chroot: root, Setsid: true, Setctty: true}}
	begun := time.Now()
	err = c.Start()
	tty.Close()
	if err != nil {
		return 0, err
	}
	var seen []byte
	buf := make([]byte, 4096)
	for want == "" || !bytes.Contains(seen, []byte(want)) {
		n, err := screen.Read(buf)
		if err != nil {
			break
		}
		seen = append(seen, buf[:n]...)
	}
	took := time.Since(begun)
	if want != "" {
		if !bytes.Contains(seen, []byte(want)) {
			err = fmt.Errorf("%s: no prompt, but %q", argv[0], seen)
		}
		c.Process.Kill()
		c.Wait()
		return took, err
	}
	return took, c.Wait()
}
