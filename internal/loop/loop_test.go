package loop

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/thread"
)

// holdEnv makes the test binary open an image, say so, and stay.
const holdEnv = "LOOP_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		hold(path)
	}
	os.Exit(m.Run())
}

func hold(path string) {
	im, err := Open(path)
	if err == nil {
		_, err = im.Mount(nil)
	}
	fmt.Println("opened", err)
	bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(1)
}

// makeImage builds an image with one file, hello, and returns its path.
func makeImage(t testing.TB, fstype string) string {
	t.Helper()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "tools.img")
	must(t, os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o755))
	var c *exec.Cmd
	switch fstype {
	case "squashfs":
		c = exec.Command(need.Tool(t, "mksquashfs", "squashfs-tools"), dir, out, "-all-root", "-quiet", "-no-progress")
	case "erofs":
		c = exec.Command(need.Tool(t, "mkfs.erofs", "erofs-utils"), "--all-root", out, dir)
	case "ext4":
		c = exec.Command(need.Tool(t, "mkfs.ext4", "e2fsprogs"), "-q", "-d", dir, "-E", "root_owner=0:0", out, "4m")
	}
	if msg, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, msg)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openImage(t testing.TB, path string) *Image {
	t.Helper()
	im, err := Open(path)
	must(t, err)
	t.Cleanup(func() { im.Close() })
	return im
}

// openAnchored opens an image as on a kernel that clones attached mounts only.
func openAnchored(t testing.TB, path string) *Image {
	t.Helper()
	file, err := OpenFile(path)
	must(t, err)
	im, err := file.attach()
	must(t, err)
	t.Cleanup(func() { im.Close() })
	must(t, im.settle())
	return im
}

func mount(t testing.TB, im *Image, userns *os.File) *os.File {
	t.Helper()
	m, err := im.Mount(userns)
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// in names a file of a detached mount.
func in(m *os.File, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", m.Fd(), name) }

// devices are the loop devices behind which this file is.
func devices(t testing.TB, path string) []string {
	t.Helper()
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(t, err)
	var mine []string
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if strings.TrimSpace(string(b)) == path {
			mine = append(mine, f)
		}
	}
	return mine
}

// gone returns when no device is left; the test's own deadline is the limit.
func gone(t testing.TB, path string) {
	t.Helper()
	for len(devices(t, path)) > 0 {
		runtime.Gosched()
	}
}

func TestAnImageOfEachFileSystemCanBeRead(t *testing.T) {
	need.Root(t)
	for _, fstype := range []string{"squashfs", "erofs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			m := mount(t, openImage(t, makeImage(t, fstype)), nil)
			b, err := os.ReadFile(in(m, "hello"))
			if err != nil || string(b) != "hello\n" {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	need.Root(t)
	for _, fstype := range []string{"squashfs", "ext4"} { // ext4 could, if it were let
		m := mount(t, openImage(t, makeImage(t, fstype)), nil)
		if err := os.WriteFile(in(m, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: create: %v, want EROFS", fstype, err)
		}
		if _, err := os.OpenFile(in(m, "hello"), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: open for writing: %v, want EROFS", fstype, err)
		}
		if err := os.Chmod(in(m, "hello"), 0o4755); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: chmod: %v, want EROFS", fstype, err)
		}
	}
}

func TestNeitherSetuidNorDevicesWork(t *testing.T) {
	need.Root(t)
	m := mount(t, openImage(t, makeImage(t, "squashfs")), nil)
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(m.Fd()), &st))
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
	if st.Flags&want != want {
		t.Errorf("mount flags %#x, want at least %#x", st.Flags, want)
	}
}

// userns is a user namespace whose root is 100000 here.
func userns(t *testing.T) *os.File {
	t.Helper()
	c := exec.Command("sleep", "infinity")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	must(t, c.Start())
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid))
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

func owner(t *testing.T, name string) uint32 {
	t.Helper()
	st, err := os.Stat(name)
	must(t, err)
	return st.Sys().(*syscall.Stat_t).Uid
}

func TestFilesOfRootBelongToTheRootOfTheUserNamespace(t *testing.T) {
	need.Root(t)
	for _, fstype := range []string{"squashfs", "erofs", "ext4"} {
		im := openImage(t, makeImage(t, fstype))
		if uid := owner(t, in(mount(t, im, userns(t)), "hello")); uid != 100000 {
			t.Errorf("%s: uid %d, want the namespace's root, 100000", fstype, uid)
		}
		if uid := owner(t, in(mount(t, im, nil), "hello")); uid != 0 {
			t.Errorf("%s: uid %d in another session's clone, want 0", fstype, uid)
		}
	}
}

func TestOlderKernelsCloneFromAPrivateNamespace(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	before, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)

	im := openAnchored(t, path)
	if im.anchor == nil {
		t.Fatal("no anchor")
	}
	m, mapped := mount(t, im, nil), mount(t, im, userns(t))
	if b, err := os.ReadFile(in(m, "hello")); err != nil || string(b) != "hello\n" {
		t.Errorf("read %q, %v", b, err)
	}
	if uid := owner(t, in(mapped, "hello")); uid != 100000 {
		t.Errorf("uid %d, want 100000", uid)
	}

	after, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if string(before) != string(after) {
		t.Errorf("the host's mounts changed:\n%s\n%s", before, after)
	}
	must(t, errors.Join(m.Close(), mapped.Close(), im.Close()))
	gone(t, path)
}

func TestAClonedMountIsTheSessionsToAttach(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	for name, im := range map[string]*Image{"detached": openImage(t, path), "anchored": openAnchored(t, path)} {
		m, dir := mount(t, im, nil), t.TempDir()
		err := thread.Alone(func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return err
			}
			_, err := os.Stat(dir + "/hello")
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir + "/hello"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: seen from another namespace: %v", name, err)
		}
	}
}

func TestAHundredSessionsMountAtOnce(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	for name, im := range map[string]*Image{"detached": openImage(t, path), "anchored": openAnchored(t, path)} {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				m, err := im.Mount(nil)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				defer m.Close()
				if _, err := os.Stat(in(m, "hello")); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		all.Wait()
	}
}

func TestWhoOpensAFileThatIsOpenSharesItsDevice(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	first, second := openImage(t, path), openImage(t, path)
	if n := len(devices(t, path)); n != 1 {
		t.Errorf("%d loop devices for two open images", n)
	}
	must(t, first.Close())
	if b, err := os.ReadFile(in(mount(t, second, nil), "hello")); err != nil || string(b) != "hello\n" {
		t.Errorf("after the first was closed, the second reads %q, %v", b, err)
	}
}

func TestAFileOfTheSameNameIsAnotherImage(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	before := mount(t, openImage(t, path), nil)
	must(t, os.Rename(makeImage(t, "erofs"), path))
	after := mount(t, openImage(t, path), nil)
	for m, want := range map[*os.File]int64{before: unix.SQUASHFS_MAGIC, after: unix.EROFS_SUPER_MAGIC_V1} {
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(m.Fd()), &st))
		if st.Type != want {
			t.Errorf("file system %#x, want %#x", st.Type, want)
		}
	}
}

// What somebody else has put behind a device could be written to, be a part of
// the file only, or stay when we are gone.
func TestADeviceThatIsNotLikeOursIsNotShared(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer file.Close()
	for name, info := range map[string]unix.LoopInfo64{
		"writable": {Flags: unix.LO_FLAGS_AUTOCLEAR},
		"to stay":  {Flags: unix.LO_FLAGS_READ_ONLY},
		"offset":   {Flags: flags, Offset: 512},
		"cut":      {Flags: flags, Sizelimit: 1 << 20},
	} {
		device := attachAs(t, file, info)
		im, err := Open(path)
		must(t, err)
		if n := len(devices(t, path)); n != 2 {
			t.Errorf("%s: shared", name)
		}
		must(t, im.Close())
		if info.Flags&unix.LO_FLAGS_AUTOCLEAR == 0 {
			must(t, unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0))
		}
		device.Close()
		gone(t, path)
	}
}

// attachAs puts the file behind a loop device in another way than ours.
func attachAs(t *testing.T, file *os.File, info unix.LoopInfo64) *os.File {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	must(t, err)
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(t, err)
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		must(t, err)
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd()), Info: info})
		if err == nil {
			return device
		}
		device.Close()
		if err != unix.EBUSY {
			t.Fatal(err)
		}
	}
}

func TestManyOpenAtOnceWithoutTakingEachOthersDevice(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			im, err := Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(in(im.mount, "hello")); err != nil {
				t.Error(err)
			}
			im.Close()
		})
	}
	all.Wait()
	gone(t, path)
}

func TestACloneOutlivesTheImageAndTheDeviceOutlivesNeither(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	im := openImage(t, path)
	m := mount(t, im, nil)
	must(t, im.Close())
	if _, err := os.ReadFile(in(m, "hello")); err != nil {
		t.Error(err)
	}
	if len(devices(t, path)) != 1 {
		t.Error("the device went while a session used it")
	}
	must(t, m.Close())
	gone(t, path)
}

func TestMountOfAClosedImageFails(t *testing.T) {
	need.Root(t)
	im := openImage(t, makeImage(t, "squashfs"))
	must(t, im.Close())
	if m, err := im.Mount(nil); err == nil {
		m.Close()
		t.Error("it did not")
	}
}

func TestNothingIsLeftAfterKill(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), holdEnv+"="+path)
	stdin, err := c.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())

	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "opened <nil>\n" {
		t.Errorf("it said %q, %v", line, err)
	}
	if n := len(devices(t, path)); n != 1 {
		t.Errorf("%d loop devices while it runs", n)
	}
	must(t, c.Process.Kill())
	c.Wait()
	gone(t, path)
}

func TestTheDigestIsOfTheFileThatWasOpened(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	b, err := os.ReadFile(path)
	must(t, err)
	im := openImage(t, path)
	must(t, os.Rename(makeImage(t, "erofs"), path)) // as an upgrade would

	got, err := im.SHA256()
	if want := digestOf(b); err != nil || got != want {
		t.Errorf("SHA256 = %s, %v, want %s", got, err, want)
	}
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestAFileIsVerifiedBeforeItIsAttached(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	b, err := os.ReadFile(path)
	must(t, err)
	f, err := OpenFile(path)
	must(t, err)

	wrong := strings.Repeat("0", 64)
	want := "loop: " + path + ": its sha256 is to be " + wrong + ", and is " + digestOf(b) + ": put the right file there, or name its digest in the configuration"
	if err := f.Verify(wrong); err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	if err := f.Verify(digestOf(b)); err != nil {
		t.Error(err)
	}
	if n := len(devices(t, path)); n != 0 {
		t.Errorf("%d loop devices before it was attached", n)
	}

	// What was verified is attached, whatever has its name by now.
	must(t, os.Rename(makeImage(t, "erofs"), path))
	im, err := f.Attach()
	must(t, err)
	defer im.Close()
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(im.mount.Fd()), &st))
	if st.Type != unix.SQUASHFS_MAGIC {
		t.Errorf("file system %#x is attached", st.Type)
	}
}

func TestAFileThatChangesWhileItIsReadHasNoDigest(t *testing.T) {
	path := makeImage(t, "squashfs")
	f, err := OpenFile(path)
	must(t, err)
	defer f.Close()
	must(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
	if sum, err := f.SHA256(); sum != "" || err == nil || !strings.Contains(err.Error(), path+": was changed while it was read: put it in place with mv or install") {
		t.Errorf("%s, %v", sum, err)
	}
}

func TestAFileIsTheSameUntilSomethingIsDoneToIt(t *testing.T) {
	path := makeImage(t, "squashfs")
	first, err := OpenFile(path)
	must(t, err)
	defer first.Close()
	for _, done := range []struct {
		what string
		do   func() error
		same bool
	}{
		{"nothing", func() error { return nil }, true},
		{"touch", func() error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) }, false},
		{"mv", func() error { return os.Rename(makeImage(t, "squashfs"), path) }, false},
	} {
		must(t, done.do())
		second, err := OpenFile(path)
		must(t, err)
		if got := first.Same(second); got != done.same {
			t.Errorf("after %s: %v", done.what, got)
		}
		second.Close()
	}
}

func TestABadImageIsToldFromAGoodOneInOneLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}
	good, err := os.ReadFile(makeImage(t, "squashfs"))
	must(t, err)
	erofs, err := os.ReadFile(makeImage(t, "erofs"))
	must(t, err)
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))

	for path, want := range map[string]string{
		filepath.Join(dir, "none"):              `no such file or directory: build one with "cartsshd image build"`,
		dir:                                     `is a directory, not an image file`,
		write("empty", nil):                     `is empty: build one with "cartsshd image build"`,
		write("text", []byte("#!/bin/sh\n")):    `is not a tools image (squashfs, erofs or ext4): build one with "cartsshd image build"`,
		write("short", good[:100]):              fmt.Sprintf(`is truncated: 100 bytes of %d: build one with "cartsshd image build"`, bytesUsed(good)),
		write("shorter", good[:20]):             `is not a tools image (squashfs, erofs or ext4): build one with "cartsshd image build"`,
		write("shorterofs", erofs[:1200]):       fmt.Sprintf(`is truncated: 1200 bytes of %d: build one with "cartsshd image build"`, len(erofs)),
		"/dev/null":                             `is not a regular file`,
		fifo:                                    `is not a regular file`,
		filepath.Join(dir, "text", "beyond-it"): `not a directory`,
	} {
		im, err := Open(path)
		if err == nil {
			im.Close()
			t.Errorf("%s: opened", path)
			continue
		}
		if got, want := err.Error(), "loop: "+path+": "+want; got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		if len(devices(t, path)) > 0 {
			t.Errorf("%s: a loop device is left", path)
		}
	}
}

func bytesUsed(squashfs []byte) uint64 { return superblocks[0].size(squashfs) }

func TestACorruptImageIsRefusedWithTheKernelsWords(t *testing.T) {
	need.Root(t)
	path := makeImage(t, "squashfs")
	b, err := os.ReadFile(path)
	must(t, err)
	b[28] = 99 // major version
	must(t, os.WriteFile(path, b, 0o600))
	im, err := Open(path)
	if err == nil {
		im.Close()
		t.Fatal("opened")
	}
	for _, want := range []string{path, "is not a usable squashfs", "99"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	gone(t, path)
}

func BenchmarkOpen(b *testing.B) {
	need.Root(b)
	path := makeImage(b, "squashfs")
	for b.Loop() {
		im, err := Open(path)
		must(b, err)
		im.Close()
	}
}

func BenchmarkMount(b *testing.B) {
	need.Root(b)
	path := makeImage(b, "squashfs")
	for name, im := range map[string]*Image{"detached": openImage(b, path), "anchored": openAnchored(b, path)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				m, err := im.Mount(nil)
				must(b, err)
				m.Close()
			}
		})
	}
}

func TestOurDevicesAreToldFromOthers(t *testing.T) {
	need.Root(t)
	losetup := need.Tool(t, "losetup", "mount")
	ours, theirs := makeImage(t, "squashfs"), makeImage(t, "squashfs")
	out, err := exec.Command(losetup, "--find", "--show", "--read-only", theirs).Output()
	must(t, err)
	defer exec.Command(losetup, "--detach", strings.TrimSpace(string(out))).Run()
	im := openImage(t, ours)
	found := func() (n int) {
		all, err := Devices()
		must(t, err)
		for _, d := range all {
			if d.File == theirs {
				t.Errorf("listed %+v", d)
			}
			if d.File == ours && d.Major == 7 && filepath.Base(d.Name) == fmt.Sprintf("loop%d", d.Minor) {
				n++
			}
		}
		return n
	}
	if n := found(); n != 1 {
		t.Errorf("%d devices of an image that is open", n)
	}
	must(t, im.Close())
	gone(t, ours)
	if n := found(); n != 0 {
		t.Errorf("%d devices of an image that is closed", n)
	}
}
