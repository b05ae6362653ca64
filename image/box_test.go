package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/loop"
	"github.com/cartsshd/cartsshd/internal/need"
)

// shared holds what several tests use; it goes with the test binary.
var shared string

// boxEnv makes the test binary enter a root, with the image on descriptor 3,
// and become what its arguments say.
const boxEnv = "IMAGE_TEST_BOX"

func TestMain(m *testing.M) {
	if root := os.Getenv(boxEnv); root != "" {
		fmt.Fprintln(os.Stderr, "box:", enterBox(root))
		os.Exit(125)
	}
	if o := os.Getenv(buildEnv); o != "" {
		os.Exit(buildAs(o))
	}
	var err error
	if shared, err = os.MkdirTemp("", "image-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// buildEnv makes the test binary build an image and nothing else, as whoever
// it runs as.
const buildEnv = "IMAGE_TEST_BUILD"

func buildAs(options string) int {
	unix.Umask(0o077)
	var o Options
	err := json.Unmarshal([]byte(options), &o)
	if err == nil {
		err = Build(context.Background(), o)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// enterBox runs in namespaces of its own. The image comes by the socket on
// descriptor 3, since it may have to be mapped to a user namespace that there
// was not before us.
func enterBox(root string) error {
	mount, err := receive(3)
	if err != nil {
		return err
	}
	unix.CloseOnExec(3)
	unix.CloseOnExec(mount)
	b := box{user: os.Getenv(boxEnv+"_USER") == "1", readOnly: os.Getenv(boxEnv+"_RO") == "1"}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	// The path leads to the mount below the new one until it is looked up again.
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, root+Root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if bundle := root + "/bundle.crt"; exists(bundle) {
		if err := unix.Mount(bundle, root+Root+"/share/ca-certificates.crt", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	if err := unix.Mount("/proc", root+"/proc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("devpts", root+"/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666"); err != nil {
		return fmt.Errorf("devpts: %w", err)
	}
	if os.Getenv(boxEnv+"_ALONE") == "1" {
		if err := raiseLo(); err != nil {
			return fmt.Errorf("lo: %w", err)
		}
	}
	if b.readOnly { // as docker run --read-only --tmpfs /tmp
		if err := unix.Mount("tmpfs", root+"/tmp", "tmpfs", 0, "mode=1777"); err != nil {
			return err
		}
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chroot(root), unix.Chdir("/")); err != nil {
		return err
	}
	if b.user {
		if err := becomeNobody(); err != nil {
			return err
		}
	}
	return unix.Exec(os.Args[1], os.Args[1:], strings.Split(os.Getenv(boxEnv+"_ENV"), "\n"))
}

// becomeNobody is uid 1000 without capabilities, for good.
func becomeNobody() error {
	return errors.Join(unix.Setgroups(nil), unix.Setresgid(1000, 1000, 1000), unix.Setresuid(1000, 1000, 1000),
		unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

func raiseLo() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func receive(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, 0)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("no image came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// box is a container's root with the image mounted in it.
type box struct {
	root     string
	image    *loop.Image
	env      []string
	netns    bool // without the machine's network
	readOnly bool
	user     bool // uid 1000, no capabilities
	userns   bool // root is nobody of the machine's
}

// newBox is an empty root: /proc, a minimal /dev, /tmp, nothing else.
func newBox(t *testing.T, img string) *box {
	t.Helper()
	need.Root(t)
	b := &box{root: t.TempDir(), env: []string{"PATH=" + Root + "/bin", "HOME=/root", "TERM=xterm-256color"}}
	for dir := b.root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // others than root go there
	}
	for _, dir := range []string{"proc", "tmp", "dev/pts", Root} {
		must(t, os.MkdirAll(filepath.Join(b.root, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(b.root, "tmp"), 0o777|os.ModeSticky))
	for name, minor := range map[string]int{"null": 3, "zero": 5, "random": 8, "urandom": 9} {
		file := filepath.Join(b.root, "dev", name)
		must(t, unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(1, uint32(minor)))))
		must(t, os.Chmod(file, 0o666))
	}
	must(t, unix.Mknod(filepath.Join(b.root, "dev/tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))))
	must(t, os.Chmod(filepath.Join(b.root, "dev/tty"), 0o666))
	must(t, os.Symlink("pts/ptmx", filepath.Join(b.root, "dev/ptmx")))
	must(t, os.Symlink(Root+"/bin/sh", filepath.Join(b.root, "dev/sh"))) // as every session has it
	im, err := loop.Open(img)
	must(t, err)
	t.Cleanup(func() { im.Close() })
	b.image = im
	return b
}

func (b *box) write(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(b.root, name)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(text), 0o755))
}

// busybox gives the root a distribution of sorts.
func (b *box) busybox(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(need.Tool(t, "busybox", "busybox-static"))
	must(t, err)
	b.write(t, "bin/busybox", string(data))
	run(t, "cd "+b.root+" && for n in $(bin/busybox --list); do ln -s busybox bin/$n 2>/dev/null; done; ln -s bin sbin")
	b.write(t, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	b.write(t, "etc/group", "root:x:0:\n")

	const musl = "/lib/ld-musl-x86_64.so.1"
	need.File(t, musl, "apt-get install musl")
	data, err = os.ReadFile(musl)
	must(t, err)
	b.write(t, musl, string(data))
	b.app(t, "")
}

// bullseye gives the root Debian 11: another C library, an older one.
func (b *box) bullseye(t *testing.T) {
	t.Helper()
	list, err := suite(t.TempDir(), "bullseye")
	must(t, err)
	build, err := newBuild(Options{Output: "x", Sources: list, Packages: []string{
		"bash: bash", "coreutils: ls", "dash: dash", "libc-bin: getconf", "base-files:", "procps: ps", "ncurses-base:", "locales:"}})
	must(t, err)
	s, done, err := build.source(t.Context())
	defer func() {
		if err == nil {
			done()
		}
	}()
	must(t, err)
	run(t, "cp -a "+s.root+"/. "+b.root+"/")
	b.write(t, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	b.write(t, "etc/group", "root:x:0:\n")
}

// run runs a program of the box, and returns what it printed and its status.
func (b *box) run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	c, send := b.command(t, argv)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	must(t, c.Start())
	send()
	err := c.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatal(err)
	}
	return out.String(), c.ProcessState.ExitCode()
}

// typed runs it on a terminal of 24 lines of 80, types, and returns what is
// seen there.
func (b *box) typed(t *testing.T, keys string, argv ...string) string {
	t.Helper()
	return b.typedAfter(t, "", keys, argv...)
}

// typedAfter types when this is seen.
func (b *box) typedAfter(t *testing.T, await, keys string, argv ...string) string {
	t.Helper()
	screen, tty, err := pty.Open()
	must(t, err)
	defer screen.Close()
	defer tty.Close()
	must(t, pty.Setsize(screen, &pty.Winsize{Rows: 24, Cols: 80}))
	must(t, tty.Chmod(0o666))

	c, send := b.command(t, argv)
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr.Setsid, c.SysProcAttr.Setctty = true, true
	must(t, c.Start())
	send()
	tty.Close()
	var seen []byte
	for buf := make([]byte, 4096); ; {
		if keys != "" && bytes.Contains(seen, []byte(await)) {
			_, err = screen.WriteString(keys)
			must(t, err)
			keys = ""
		}
		n, err := screen.Read(buf)
		if err != nil {
			break // EIO, with the last that has it open
		}
		seen = append(seen, buf[:n]...)
	}
	c.Wait()
	return string(seen)
}

// command is the test binary, about to become a program of the box. After its
// start the image is to be sent to it.
func (b *box) command(t *testing.T, argv []string) (c *exec.Cmd, send func()) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	mine, theirs := os.NewFile(uintptr(pair[0]), "box"), os.NewFile(uintptr(pair[1]), "box")
	t.Cleanup(func() { mine.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // what hangs fails
	t.Cleanup(cancel)
	c = exec.CommandContext(ctx, "/proc/self/exe", argv...)
	c.WaitDelay = time.Second // whatever its children hold open
	// The box's environment is not for the test binary, which it could hurt.
	c.Env = []string{boxEnv + "=" + b.root, boxEnv + "_ENV=" + strings.Join(b.env, "\n"), boxEnv + "_USER=" + digit(b.user), boxEnv + "_RO=" + digit(b.readOnly), boxEnv + "_ALONE=" + digit(b.netns)}
	c.ExtraFiles = []*os.File{theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if b.netns {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if b.userns {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		c.SysProcAttr.UidMappings, c.SysProcAttr.GidMappings = all, all
		c.SysProcAttr.GidMappingsEnableSetgroups = true
		c.SysProcAttr.Credential = &syscall.Credential{}
	}
	return c, func() {
		t.Helper()
		theirs.Close()
		b.send(t, mine, c.Process.Pid)
	}
}

func (b *box) send(t *testing.T, socket *os.File, pid int) {
	t.Helper()
	var userns *os.File
	if b.userns {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		must(t, err)
		defer ns.Close()
		userns = ns
	}
	m, err := b.image.Mount(userns)
	must(t, err)
	defer m.Close()
	must(t, unix.Sendmsg(int(socket.Fd()), []byte{0}, unix.UnixRights(int(m.Fd())), nil, 0))
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func (b *box) bash(t *testing.T, script string) (string, int) {
	t.Helper()
	return b.run(t, Root+"/bin/bash", "-c", script)
}

// want runs a script and wants this of it.
func (b *box) want(t *testing.T, script, want string) {
	t.Helper()
	out, code := b.bash(t, script)
	if code != 0 || !strings.Contains(out, want) {
		t.Errorf("%s\nexit status %d, %q\nwant 0, %q", script, code, out, want)
	}
}

func run(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// unpacked is a copy of what is in an image, made once, not to be changed.
func unpacked(t testing.TB, img string) string {
	t.Helper()
	need.Root(t)
	dir := filepath.Join(shared, "unpacked", filepath.Base(img))
	if exists(dir) {
		return dir
	}
	im, err := loop.Open(img)
	must(t, err)
	defer im.Close()
	mount, err := im.Mount(nil)
	must(t, err)
	defer mount.Close()
	must(t, os.MkdirAll(dir, 0o755))
	c := exec.CommandContext(t.Context(), "cp", "-a", "/proc/self/fd/3/.", dir)
	c.ExtraFiles = []*os.File{mount}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// objects are the ELF files below dir.
func objects(t testing.TB, dir string) []string {
	t.Helper()
	var found []string
	for _, name := range strings.Fields(run(t, "find "+dir+" -type f")) {
		data, err := os.ReadFile(name)
		must(t, err)
		if bytes.HasPrefix(data, []byte("\x7fELF")) {
			found = append(found, name)
		}
	}
	return found
}

// One letter, not two bytes: to less, to ls, to vi and at the prompt.
func TestUTF8IsReadOnATerminal(t *testing.T) {
	for from, img := range map[string]string{"host": hostImage(t), "debian": debianImage(t)} {
		for locale, works := range map[string]bool{"LC_CTYPE=C.UTF-8": true, "LC_CTYPE=C": false} {
			b := newBox(t, img)
			b.write(t, "tmp/ä", "ö\n")
			b.env = append(b.env, "LESSHISTFILE=-", locale)
			for _, c := range []struct{ script, keys, want string }{
				{"less /tmp/ä", "q", "ö"},
				{"ls -l /tmp", "", " ä"},
				{"read -e x; echo ${#x}.", "zü\x02\x0b!\n", "2.\r\n"},
				{"sed s/./_/g /tmp/ä", "", "_\r\n"},
				{"vi -c 'set encoding?' -c q -es; true", "", "encoding=utf-8"},
			} {
				if strings.HasPrefix(c.script, "vi ") && from == "host" {
					continue // which may have none
				}
				got := b.typed(t, c.keys, Root+"/bin/bash", "-c", c.script)
				if ok := strings.Contains(got, c.want) && !strings.Contains(got, "__"); ok != works {
					t.Errorf("%s, %s: %s: %q", from, locale, c.script, got)
				}
			}
		}
	}
}

func TestTcpdumpSeesAPingOnLo(t *testing.T) {
	b := newBox(t, debianImage(t))
	b.netns = true
	b.want(t, `
		ip link set lo up
		coproc tcpdump -n -l -c 1 -i lo icmp 2>&1
		exec 5<&${COPROC[0]}
		while read -r -u 5 line && [[ $line != listening* ]]; do :; done
		ping -c 1 127.0.0.1 >/dev/null
		read -r -u 5 line; echo "$line"`, "127.0.0.1 > 127.0.0.1: ICMP echo request")
}

func TestTcpdumpWritesAFileWithoutAUserOfItsOwn(t *testing.T) {
	for _, passwd := range []string{"", "root:x:0:0:root:/root:/bin/sh\n"} {
		b := newBox(t, debianImage(t))
		b.netns = true
		if passwd != "" {
			b.write(t, "etc/passwd", passwd)
		}
		for _, flags := range []string{"-w /tmp/p", "-w /tmp/p -U", "-w /tmp/q -C 1", "-w /tmp/q -G 60"} {
			b.want(t, `
				ip link set lo up
				coproc tcpdump -n -c 1 -i lo `+flags+` icmp 2>&1
				exec 5<&${COPROC[0]}
				while read -r -u 5 line && [[ $line != *listening* ]]; do :; done
				ping -c 1 127.0.0.1 >/dev/null
				wait $COPROC_PID; echo "status $?"; ls -l /tmp`, "status 0")
		}
		b.want(t, "tcpdump -n -r /tmp/p", "127.0.0.1 > 127.0.0.1: ICMP echo request")
	}
}

func TestViEditsAFileAndLeavesNoOther(t *testing.T) {
	b := newBox(t, debianImage(t))
	b.poison(t)
	b.want(t, `echo abc >/tmp/v; printf ':s/b/X/\n:wq\n' | vi -es /tmp/v; cat /tmp/v; ls -A /tmp`, "aXc\nv\n")
	if _, err := os.Stat(b.root + "/mark"); err == nil {
		t.Error("code of the container ran")
	}
}

func TestStraceFollowsAStaticProgramOfTheContainer(t *testing.T) {
	b := newBox(t, debianImage(t))
	b.busybox(t)
	b.want(t, "strace -f /bin/busybox echo hello 2>&1", `write(1, "hello\n"`)
}

func TestAnInteractiveShellReadsOnlyItsOwnFiles(t *testing.T) {
	for _, img := range []string{hostImage(t), debianImage(t)} {
		b := newBox(t, img)
		b.poison(t)
		b.env = append(b.env, "HOME=/root", "CARTSSHD_PERSON=alice", `CARTSSHD_TARGET=web$(touch /mark)\$(touch /mark)`)
		for _, flags := range []string{"-i", "-li", "--rcfile " + Root + "/.crashcartrc -i"} {
			argv := append([]string{Root + "/bin/bash"}, strings.Fields(flags)...)
			out, code := b.run(t, append(argv, "-c", `echo "rc=$INPUTRC"; bash -i -c 'echo "again=$INPUTRC"; printf %s "${PS1@P}"'`)...)
			if code != 0 || !strings.Contains(out, "again=/dev/crashcart/inputrc") || !strings.Contains(out, "alice@web??touch??mark?") {
				t.Errorf("bash %s: exit status %d: %s", flags, code, out)
			}
		}
		if _, err := os.Stat(b.root + "/mark"); err == nil {
			t.Error("code of the container ran")
		}
	}
}
