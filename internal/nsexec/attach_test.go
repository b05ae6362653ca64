package nsexec_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/loop"
	"github.com/cartsshd/cartsshd/internal/mountinfo"
	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/thread"
	"github.com/cartsshd/cartsshd/test/rig"
)

// toolsFile is an image of busybox.
func toolsFile(t testing.TB) string {
	t.Helper()
	need.Root(t)
	mksquashfs := need.Tool(t, "mksquashfs", "squashfs-tools")
	box, err := os.ReadFile(need.Tool(t, "busybox", "busybox-static"))
	must(t, err)
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "tools.img")
	must(t, os.Mkdir(dir+"/bin", 0o755))
	must(t, os.WriteFile(dir+"/bin/busybox", box, 0o755))
	must(t, os.Symlink("busybox", dir+"/bin/sh"))
	if out, err := exec.Command(mksquashfs, dir, file, "-all-root", "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// attach attaches an image, as Attach does, with a mount that is made for the
// target. It returns what had to be made.
func attach(t testing.TB, file string, target *os.File) (nsexec.Made, error) {
	t.Helper()
	im, err := loop.Open(file)
	must(t, err)
	defer im.Close()
	userns, err := nsexec.Userns(target)
	must(t, err)
	tools, err := im.Mount(userns)
	must(t, err)
	defer tools.Close()
	var made nsexec.Made
	err = nsexec.Attach(target, tools, func(m nsexec.Made) error {
		made = m
		_, err := os.Stat(file) // by somebody who sees the host's files
		return err
	})
	return made, err
}

func TestTheToolsCanBeInTheContainersOwnNamespace(t *testing.T) {
	d := rig.Docker(t)
	file := toolsFile(t)
	for name, kind := range map[string]struct {
		run   func() rig.Container
		dress string
		made  nsexec.Made
	}{
		"plain":           {run: func() rig.Container { return d.Run(t, "plain") }, made: nsexec.Made{Dir: true}},
		"narrow":          {run: func() rig.Container { return d.Run(t, "narrow", "--read-only", "--user", "1000", "--cap-drop", "ALL") }, made: nsexec.Made{Dir: true}},
		"user namespace":  {run: func() rig.Container { return rig.Userns(t) }, made: nsexec.Made{Dir: true}},
		"no /dev":         {run: func() rig.Container { return rig.Bare(t) }, dress: "umount -l /dev; rmdir /dev", made: nsexec.Made{Dev: true, Dir: true}},
		"read-only /dev":  {run: func() rig.Container { return rig.Bare(t) }, dress: "mount -o remount,bind,ro /dev", made: nsexec.Made{Dir: true}},
		"all read-only":   {run: func() rig.Container { return rig.Bare(t) }, dress: "umount -l /dev; rmdir /dev; mount -o remount,bind,ro /", made: nsexec.Made{Dev: true, Dir: true}},
		"a full /dev":     {run: func() rig.Container { return rig.Bare(t) }, dress: "mount -t tmpfs -o size=4k full /dev; dd if=/dev/zero of=/dev/x bs=4k count=1 2>/dev/null || head -c 4096 /bin/busybox >/dev/x; true", made: nsexec.Made{Dir: true}},
		"a place for it":  {run: func() rig.Container { return rig.Bare(t) }, dress: "mkdir /dev/crashcart"},
		"its own /dev/sh": {run: func() rig.Container { return rig.Bare(t) }, dress: "echo theirs >/dev/sh", made: nsexec.Made{Dir: true}},
	} {
		t.Run(name, func(t *testing.T) {
			ctr := kind.run()
			if kind.dress != "" {
				inside(t, ctr.PID, kind.dress)
			}
			before := rig.Residue(t, ctr.PID, file)
			target := pidfd(t, ctr.PID)
			made, err := attach(t, file, target)
			if err != nil || made != kind.made {
				t.Fatalf("made %+v, %v", made, err)
			}
			const see = "/dev/crashcart/bin/busybox stat -c '%u %a' /dev/crashcart/bin/busybox"
			if out := inside(t, ctr.PID, see); out != "0 755\n" {
				t.Errorf("the container sees %q", out)
			}
			if _, err := attach(t, file, target); !errors.Is(err, nsexec.ErrAttached) {
				t.Errorf("a second time: %v", err)
			}
			if _, err := attach(t, toolsFile(t), target); err == nil || !strings.Contains(err.Error(), "another tools image is there: `cartsshd unmount` first") {
				t.Errorf("another image: %v", err)
			}
			must(t, nsexec.Detach(target, made))
			before.Same(t)
			if err := nsexec.Detach(target, made); !errors.Is(err, nsexec.ErrDetached) {
				t.Errorf("a second time: %v", err)
			}
			before.Same(t)
		})
	}
}

func TestWhatIsNoPlaceForTheToolsIsRefusedAndSaidSo(t *testing.T) {
	file := toolsFile(t)
	for script, want := range map[string]string{
		"umount -l /dev; rmdir /dev; mkdir /tmp/x; ln -s /tmp/x /dev": "/dev: too many levels of symbolic links (is a symlink",
		"umount -l /dev; rmdir /dev; mkfifo /dev":                     "/dev: not a directory",
		"ln -s /tmp /dev/crashcart":                                   "/dev/crashcart: too many levels of symbolic links (is a symlink",
		"ln -s /proc/1/root/tmp /dev/crashcart":                       "/dev/crashcart: too many levels of symbolic links (is a symlink",
		"mkfifo /dev/crashcart":                                       "/dev/crashcart: not a directory",
		": >/dev/crashcart":                                           "/dev/crashcart: not a directory",
		"mkdir /dev/crashcart; mount -t tmpfs x /dev/crashcart":       "the container has something mounted there",
		"umount -l /dev; mount -t tmpfs -o nr_inodes=1 full /dev":     "/dev/crashcart: no space left on device: `cartsshd enter` needs none",
		"umount -l /dev; rmdir /dev; mount -o remount,ro /":           "/dev: read-only file system: `cartsshd enter` needs none",
	} {
		ctr := rig.Bare(t)
		inside(t, ctr.PID, script)
		before := rig.Residue(t, ctr.PID, file)
		target := pidfd(t, ctr.PID)
		_, err := attach(t, file, target)
		if _, ok := errors.AsType[*nsexec.JoinError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", script, err, want)
		}
		if err := nsexec.Detach(target, nsexec.Made{}); !errors.Is(err, nsexec.ErrDetached) {
			t.Errorf("%s: then taken away: %v", script, err)
		}
		before.Same(t)
	}
}

// swapper exchanges two names in a container's /dev, until it is told to stop.
func swapper(t *testing.T, target *os.File, a, b string) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- thread.Alone(func() error {
			raw, err := target.SyscallConn()
			if err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			raw.Control(func(fd uintptr) { err = unix.Setns(int(fd), unix.CLONE_NEWNS) })
			for err == nil {
				select {
				case <-done:
					return nil
				default: // EBUSY while the tools are there
					unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
				}
			}
			return err
		})
	}()
	return func() {
		close(done)
		must(t, <-ended)
	}
}

func TestAPlaceThatIsSwappedAllTheWhileGetsTheToolsOrNothing(t *testing.T) {
	file := toolsFile(t)
	ctr := rig.Bare(t)
	inside(t, ctr.PID, "mkdir /dev/crashcart /tmp/trap; ln -s /tmp/trap /dev/other")
	target := pidfd(t, ctr.PID)
	before := mounts(t, ctr.PID)
	stop := swapper(t, target, "/dev/crashcart", "/dev/other")
	attached, refused := 0, 0
	for n := 0; n < 2000 && (attached < 20 || refused < 20); n++ {
		if _, err := attach(t, file, target); err != nil {
			refused++
			continue
		}
		attached++
		for _, m := range mounts(t, ctr.PID) {
			if nsexec.Attached(m) && m.Point != "/dev/crashcart" {
				t.Fatalf("mounted at %s", m.Point)
			}
		}
		must(t, nsexec.Detach(target, nsexec.Made{}))
	}
	stop()
	if attached == 0 || refused == 0 {
		t.Errorf("attached %d times, refused %d: nobody swapped", attached, refused)
	}
	if after := mounts(t, ctr.PID); len(after) != len(before) {
		t.Errorf("mounts are left: %+v", after)
	}
}

func mounts(t *testing.T, pid int) []mountinfo.Mount {
	t.Helper()
	list, err := mountinfo.Of(pid)
	must(t, err)
	return list
}

// With CAP_SYS_ADMIN it can.
func TestToolsThatTheContainerHasMovedAreTakenAwayNevertheless(t *testing.T) {
	file := toolsFile(t)
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID, file)
	target := pidfd(t, ctr.PID)
	made, err := attach(t, file, target)
	must(t, err)
	inside(t, ctr.PID, "mkdir '/tmp/a b'; mount --move /dev/crashcart '/tmp/a b'")
	must(t, nsexec.Detach(target, made))
	inside(t, ctr.PID, "rmdir '/tmp/a b'")
	before.Same(t)
}

func TestWhoUsesTheToolsKeepsThemUntilTheyEnd(t *testing.T) {
	file := toolsFile(t)
	ctr := rig.Bare(t)
	before := rig.Residue(t, ctr.PID, file)
	target := pidfd(t, ctr.PID)
	made, err := attach(t, file, target)
	must(t, err)
	user := exec.Command(need.Tool(t, "nsenter", "util-linux"), "-t", strconv.Itoa(ctr.PID), "-a", "/dev/crashcart/bin/busybox", "cat")
	in, err := user.StdinPipe()
	must(t, err)
	out, err := user.StdoutPipe()
	must(t, err)
	must(t, user.Start())
	in.Write([]byte("runs\n"))
	out.Read(make([]byte, 5))
	must(t, nsexec.Detach(target, made))
	if left := mounts(t, ctr.PID); len(left) != 3 {
		t.Errorf("%+v", left)
	}
	in.Close()
	must(t, user.Wait())
	before.Same(t)
}

func TestTheHostIsNoContainerToAttachTo(t *testing.T) {
	if _, err := attach(t, toolsFile(t), pidfd(t, os.Getpid())); !errors.Is(err, nsexec.ErrHost) {
		t.Errorf("got %v", err)
	}
}
