package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
	var err error
	if shared, err = os.MkdirTemp("", "image-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

// enterBox runs in a mount namespace of its own.
func enterBox(root string) error {
	if err := unix.MoveMount(3, "", unix.AT_FDCWD, root+Root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if err := errors.Join(unix.Mount("proc", root+"/proc", "proc", 0, ""), unix.Chroot(root), unix.Chdir("/")); err != nil {
		return err
	}
	unix.CloseOnExec(3)
	return unix.Exec(os.Args[1], os.Args[1:], strings.Split(os.Getenv(boxEnv+"_ENV"), "\n"))
}

// box is a container's root with the image mounted in it.
type box struct {
	root  string
	image *loop.Image
	env   []string
	netns bool // without the machine's network
}

// newBox is an empty root: /proc, a minimal /dev, /tmp, nothing else.
func newBox(t *testing.T, img string) *box {
	t.Helper()
	need.Root(t)
	b := &box{root: t.TempDir(), env: []string{"PATH=" + Root + "/bin", "TERM=xterm-256color"}}
	for _, dir := range []string{"proc", "tmp", Root} {
		must(t, os.MkdirAll(filepath.Join(b.root, dir), 0o755))
	}
	for name, minor := range map[string]int{"null": 3, "zero": 5, "urandom": 9} {
		must(t, unix.Mknod(filepath.Join(b.root, "dev", name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, uint32(minor)))))
	}
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
}

// run runs a program of the box, and returns what it printed and its status.
func (b *box) run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	c := b.command(t, argv)
	defer c.ExtraFiles[0].Close()
	out, err := c.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// typed runs it on a terminal, and returns what is seen there.
func (b *box) typed(t *testing.T, keys string, argv ...string) string {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer screen.Close()
	must(t, unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	must(t, err)
	tty, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer tty.Close()

	c := b.command(t, argv)
	defer c.ExtraFiles[0].Close()
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.SysProcAttr.Setsid, c.SysProcAttr.Setctty = true, true
	must(t, c.Start())
	tty.Close()
	_, err = screen.WriteString(keys)
	must(t, err)
	seen, _ := io.ReadAll(screen) // ends in EIO, with the last that has it open
	c.Wait()
	return string(seen)
}

// command is the test binary, about to become a program of the box.
func (b *box) command(t *testing.T, argv []string) *exec.Cmd {
	t.Helper()
	m, err := b.image.Mount(nil)
	must(t, err)
	c := exec.CommandContext(t.Context(), "/proc/self/exe", argv...)
	// The box's environment is not for the test binary, which it could hurt.
	c.Env = []string{boxEnv + "=" + b.root, boxEnv + "_ENV=" + strings.Join(b.env, "\n")}
	c.ExtraFiles = []*os.File{m}
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if b.netns {
		c.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNET
	}
	return c
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

func unpacked(t testing.TB, img string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	run(t, need.Tool(t, "unsquashfs", "squashfs-tools")+" -q -n -d "+dir+" "+img)
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

// boxes are the roots in which everything has to work: of each image, an
// empty one, a small distribution and an enemy's.
func boxes(t *testing.T, f func(t *testing.T, b *box)) {
	images := map[string]func(testing.TB) string{"host": hostImage, "debian": debianImage}
	for from, image := range images {
		t.Run(from+"/empty", func(t *testing.T) { f(t, newBox(t, image(t))) })
		t.Run(from+"/busybox", func(t *testing.T) {
			b := newBox(t, image(t))
			b.busybox(t)
			f(t, b)
		})
		t.Run(from+"/hostile", func(t *testing.T) {
			b := newBox(t, image(t))
			b.poison(t)
			f(t, b)
			if _, err := os.Stat(b.root + "/mark"); err == nil {
				t.Error("code of the container ran")
			}
		})
	}
}

// versions calls every command in a way that must succeed and say something.
const versions = `
cd ` + Root + `/bin
for c in *; do
	case $c in
	false) ! false || echo "$c: true"; continue ;;
	true | test | '[') ./true && test a = a && [ a = a ] || echo "$c: false"; continue ;;
	bridge | clear | getopt | hostname | infocmp | ip | killall | fuser | kill | nstat | ping | pstree | reset | ss | strace | tc | tput | tracepath | tset) a=-V ;;
	nc | nc.openbsd) a=-h ;;
	mawk | awk) a='-W version' ;;
	lsof) a=-v ;;
	getpcaps) a=1 ;;
	capsh) a=--print ;;
	more | chrt | *) a=--version ;;
	esac
	out=$(./$c $a 2>&1 </dev/null); code=$?
	[ $code = 0 ] && [ -n "$out" ] || echo "$c $a: exit status $code: $out"
done
echo of $(ls | wc -l)`

func TestEveryCommandRuns(t *testing.T) {
	boxes(t, func(t *testing.T, b *box) {
		out, code := b.bash(t, versions)
		var n int
		if _, err := fmt.Sscanf(out, "of %d", &n); err != nil || code != 0 || n < 100 {
			t.Errorf("exit status %d:\n%s", code, out)
		}
	})
}

func TestToolsDoTheirWork(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
	defer web.Close()
	tls := httptest.NewUnstartedServer(web.Config.Handler)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0) // the client's refusal is meant
	tls.StartTLS()
	defer tls.Close()
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	must(t, err)

	boxes(t, func(t *testing.T, b *box) {
		for script, want := range map[string]string{
			`printf '3\n1\n2\n' | sort | head -n 1`:                           "1",
			`ps -e -o pid=,args= | grep -c bash`:                              "",
			`printf 'a b\nc d\n' | grep c | sed s/c/x/ | awk '{print $2 $1}'`: "dx",
			`ip -o addr show dev lo`:                                          "127.0.0.1",
			`ss -Hltn "sport = ` + port + `"`:                                 port,
			`curl -s ` + web.URL:                                              "hello",
			`curl -s ` + tls.URL + `; echo $?`:                                "60", // a certificate that nobody vouches for
			`grep -c BEGIN /dev/crashcart/ca-certificates.crt`:                "1",
			`seq 3 | less`: "3",
			`mkdir -p /tmp/d; echo x >/tmp/d/f; tar -C /tmp -c d | gzip | zcat | tar -t`: "d/f",
			`echo x >/tmp/g; find /tmp -name g | xargs cat`:                              "x",
			`file -L /dev/crashcart/bin/ls`:                                              "interpreter /dev/crashcart/ld.so",
			`infocmp tmux-256color | head -n 1`:                                          "/dev/crashcart",
			`tput -T screen cols`:                                                        "80",
			`top -b -n 1 | head -n 1`:                                                    "load average",
			`echo hello | sha256sum`:                                                     "5891b5b522d5df08",
			`pstree -p $$; true`:                                                         "bash",
			`lsof -p $$ 2>/dev/null | grep crashcart/bin/bash`:                           "txt",
			`strace -e trace=execve true 2>&1`:                                           `execve("/dev/crashcart/bin/true"`,
			`LANG=C.UTF-8 bash -c 'x=äöü; echo ${#x}'`:                                   "3",
			`bash --login -c 'shopt login_shell; type -t logout'`:                        "on\nbuiltin",
			`. /dev/crashcart/.crashcartrc; env | grep -E '^(LC_|LANG)'`:                 "LC_CTYPE=C.UTF-8\n",
			`LANG=C; . /dev/crashcart/.crashcartrc; echo "$LANG,$LC_CTYPE"`:              "C,\n",
			`. /dev/crashcart/.crashcartrc; echo "$INPUTRC${HISTFILE-unset}$PATH"`:       "/dev/crashcart/inputrcunset/dev/crashcart/bin:",
		} {
			b.want(t, script, want)
		}
	})
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
