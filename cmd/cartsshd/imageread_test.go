package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/need"
)

// The test binary is cartsshd, for whoever sets this.
func init() {
	if os.Getenv("CARTSSHD_TEST_RUN") == "1" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
}

func fine(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shelf is a folder that everybody can read.
func shelf(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	fine(t, errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)))
	return dir
}

// smallImage is one of this machine's bash and of another command or two.
func smallImage(t testing.TB, fs string, packages ...string) string {
	t.Helper()
	need.Tool(t, "mksquashfs", "squashfs-tools")
	need.Tool(t, "mkfs.erofs", "erofs-utils")
	out := filepath.Join(shelf(t), "tools.img")
	fine(t, image.Build(t.Context(), image.Options{Output: out, FS: fs, FromHost: true, Packages: append(packages, "bash: bash sh=bash")}))
	return out
}

// remade is an image of the same tree, after it was spoiled.
func remade(t testing.TB, img, spoil string) string {
	t.Helper()
	dir, out := filepath.Join(t.TempDir(), "tree"), filepath.Join(shelf(t), "tools.img")
	sh(t, need.Tool(t, "unsquashfs", "squashfs-tools")+" -q -n -d "+dir+" "+img)
	sh(t, "cd "+dir+" && "+spoil)
	sh(t, "mksquashfs "+dir+" "+out+" -quiet -no-progress -all-root")
	return out
}

// ext4 is the same tree in an ext4.
func ext4(t testing.TB, img string) string {
	t.Helper()
	dir, out := filepath.Join(t.TempDir(), "tree"), filepath.Join(shelf(t), "tools.img")
	sh(t, need.Tool(t, "unsquashfs", "squashfs-tools")+" -q -n -d "+dir+" "+img)
	sh(t, need.Tool(t, "mkfs.ext4", "e2fsprogs")+" -q -d "+dir+" "+out+" 32M")
	fine(t, os.Chmod(out, 0o644))
	return out
}

func sh(t testing.TB, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// user is who runs a command, and where its temporary files go.
type user struct {
	name, tmp string
	env       []string
	as        *syscall.Credential
}

// users are root, where we are, and one who may do nothing.
func users(t testing.TB) []user {
	t.Helper()
	if os.Geteuid() != 0 {
		return []user{{name: "us", tmp: shelf(t)}}
	}
	tmp := shelf(t)
	fine(t, os.Chmod(tmp, 0o777))
	return []user{{name: "root", tmp: shelf(t)}, {name: "nobody", tmp: tmp, as: &syscall.Credential{Uid: 65534, Gid: 65534}}}
}

// cartsshd runs a command line. Whatever it does, it must leave nothing behind.
func (u user) cartsshd(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	c.Env = append([]string{"CARTSSHD_TEST_RUN=1", "TMPDIR=" + u.tmp, "PATH=" + os.Getenv("PATH")}, u.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: u.as}
	c.Dir = "/"
	var out, complaints bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaints
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(u.tmp)
	fine(t, err)
	if len(left) > 0 {
		t.Errorf("%s: left behind: %v", strings.Join(args, " "), left)
	}
	return out.String(), complaints.String(), c.ProcessState.ExitCode()
}

// want runs a command that must print just this, a regular expression.
func (u user) want(t testing.TB, code int, stdout string, args ...string) {
	t.Helper()
	out, complaints, got := u.cartsshd(t, args...)
	if got != code || complaints != "" || !regexp.MustCompile(`^(?:`+stdout+`)$`).MatchString(out) {
		t.Errorf("%s: %s: exit status %d, %s\n got %s\nwant %d, %s", u.name, strings.Join(args, " "), got, complaints, out, code, stdout)
	}
}

func TestEverybodyCanLookIntoAnImageOfAnyFileSystem(t *testing.T) {
	squashfs := smallImage(t, "squashfs")
	for fstype, img := range map[string]string{"squashfs": squashfs, "erofs": smallImage(t, "erofs"), "ext4": ext4(t, squashfs)} {
		for _, u := range users(t) {
			u.want(t, 0, `(?s)file +`+img+`\nsize +\d+ bytes \(.* MB\)\nsha256 +([0-9a-f]{64})\nfile system +`+fstype+
				`\nprofile +custom\n.*\nfrom +the machine that built it: .*\ncommands +2\n.*\n\nimage: \{path: `+img+`, sha256: [0-9a-f]{64}\}\n`, "image", "show", img)
			u.want(t, 0, `bash +\d+ +- +-\nsh +-> bash +- +-\n`, "image", "ls", img)
			u.want(t, 0, `- +- +\d+ +100.0 %\n`, "image", "ls", "--packages", img)
			u.want(t, 0, `ok  sha256 [0-9a-f]{64}: 2 commands, 0 packages, \d+ files(; owners and setuid bits are not seen without root)?\n`, "image", "verify", img)
			u.want(t, 0, `(?s).*`, "image", "diff", img, squashfs)
		}
	}
}

func TestVerifySaysWhatIsWrongAndFails(t *testing.T) {
	img := smallImage(t, "squashfs")
	for spoil, want := range map[string]string{
		"echo >>inputrc":                      `inputrc: \d+ bytes, not \d+`,
		"touch more":                          `more: is not in MANIFEST`,
		"rm inputrc":                          `inputrc: is missing`,
		"ln -sf /bin/sh bin/sh":               `bin/sh: leads to "/bin/sh", not to "bash"`,
		"rm inputrc; ln -s /etc/pw inputrc":   `inputrc: is a link, to "/etc/pw", and not a file`,
		"rm inputrc; mkfifo -m 644 inputrc":   `inputrc: is neither file, folder nor link: prw-r--r--`,
		"chmod 666 inputrc":                   `inputrc: mode 0666, not 0644`,
		"rm -r share; ln -s /usr/share share": `(?s)share: is not in MANIFEST\n.*is missing`,
	} {
		bad := remade(t, img, spoil)
		for _, u := range users(t) {
			u.want(t, 1, bad+": "+want+"\n", "image", "verify", bad)
		}
	}
}

func TestRootSeesSetuidAndOwners(t *testing.T) {
	need.Root(t)
	img := remade(t, smallImage(t, "squashfs"), "chmod 4755 bin/bash")
	users(t)[0].want(t, 1, img+": bin/bash: mode 4755, not 0755\n", "image", "verify", img)
}

// The kernel is not asked what it makes of an image that nobody meant.
func TestAnotherDigestIsAnotherImage(t *testing.T) {
	img := smallImage(t, "squashfs")
	u := users(t)[0]
	out, _, _ := u.cartsshd(t, "image", "verify", img)
	digest := strings.Fields(strings.TrimSuffix(out, ":") + " x x x")[2][:64]
	u.want(t, 0, "ok .*\n", "image", "verify", "--sha256", strings.ToUpper(digest), img)
	other := strings.Repeat("0", 64)
	u.want(t, 1, img+": its sha256 is "+digest+", not "+other+"\n", "image", "verify", "--sha256", other, img)
	if _, complaint, code := u.cartsshd(t, "image", "verify", "--sha256", "abc", img); code != 2 || !strings.Contains(complaint, `"abc": not 64 hexadecimal digits`) {
		t.Errorf("exit status %d, %s", code, complaint)
	}
}

func TestDiffIsLikeDiff(t *testing.T) {
	a, b := smallImage(t, "squashfs", "sed: sed"), smallImage(t, "erofs")
	for _, u := range users(t) {
		u.want(t, 0, "", "image", "diff", a, a)
		u.want(t, 1, `(?s)- +command +sed\n.* +image +file +[0-9.]+ MB, squashfs -> [0-9.]+ MB, erofs\n +image +unpacked +.* MB\n`, "image", "diff", a, b)
		u.want(t, 1, `(?s)\+ +command +sed\n.*`, "image", "diff", b, a)
		for _, args := range [][]string{{a, "/nowhere"}, {"/nowhere", a}} {
			out, complaint, code := u.cartsshd(t, append([]string{"image", "diff"}, args...)...)
			if want := "cartsshd: loop: /nowhere: no such file or directory: build one with \"cartsshd image build\"\n"; code != 2 || out != "" || complaint != want {
				t.Errorf("exit status %d, %s%s", code, out, complaint)
			}
		}
	}
}

func TestWhatIsNoImageIsOneLineWithTheWayOut(t *testing.T) {
	dir := shelf(t)
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		fine(t, os.WriteFile(name, content, 0o644))
		return name
	}
	img := smallImage(t, "squashfs")
	whole, err := os.ReadFile(img)
	fine(t, err)
	erofs, err := os.ReadFile(smallImage(t, "erofs"))
	fine(t, err)
	fifo := filepath.Join(dir, "fifo")
	fine(t, unix.Mkfifo(fifo, 0o666))
	fine(t, os.Chmod(fifo, 0o666))
	for path, want := range map[string]string{
		filepath.Join(dir, "none"):              "no such file or directory: build one with",
		dir:                                     "is a directory, not an image file",
		fifo:                                    "is not a regular file",
		"/dev/zero":                             "is not a regular file",
		file("empty", nil):                      "is empty: build one with",
		file("text", []byte("hello\n")):         "is not a tools image",
		file("truncated", whole[:len(whole)/2]): "is truncated: ",
		file("scrambled", scrambled(whole, 96)): "build one with",
		file("scrambled-erofs", scrambled(erofs, 2048)):              "build one with",
		remade(t, img, "rm MANIFEST"):                                `no MANIFEST in it: build one with "cartsshd image build"`,
		remade(t, img, "rm MANIFEST; mkfifo MANIFEST"):               "MANIFEST: is not a regular file: build one with",
		remade(t, img, "rm MANIFEST; ln -s /etc/passwd MANIFEST"):    "MANIFEST: is not a regular file: build one with",
		remade(t, img, "rm packages.lock"):                           "no packages.lock in it: build one with",
		remade(t, img, "truncate -s 2G MANIFEST"):                    "MANIFEST: more than 16 MB: build one with",
		remade(t, img, "sed -i s/^profile/x/ MANIFEST"):              `MANIFEST:1: "x": not a key of a MANIFEST: build one with`,
		remade(t, img, `sed -i 's/^from: /from: \x1b[2J/' MANIFEST`): `MANIFEST:3: "from: \x1b[2J`,
	} {
		for _, u := range users(t) {
			for _, command := range []string{"show", "verify"} {
				out, complaint, code := u.cartsshd(t, "image", command, path)
				if code != 1 || out != "" || !strings.HasPrefix(complaint, "cartsshd: ") || strings.Count(complaint, "\n") != 1 ||
					!strings.Contains(complaint, path) || !strings.Contains(complaint, want) || strings.ContainsAny(complaint, "\x1b\x00") {
					t.Errorf("%s: %s %s: exit status %d, %s%s\nwant %s", u.name, command, path, code, out, complaint, want)
				}
			}
		}
	}
}

// scrambled is an image with nothing right but its first bytes.
func scrambled(image []byte, keep int) []byte {
	image = bytes.Clone(image)
	for i := keep; i < len(image); i++ {
		image[i] ^= byte(i*7 + 1)
	}
	return image
}

func TestWithoutTheToolItSaysWhichPackageHasIt(t *testing.T) {
	img := smallImage(t, "squashfs")
	u := users(t)[len(users(t))-1]
	if os.Geteuid() != 0 {
		t.Log("the same for whoever is not root")
	}
	u.env = []string{"PATH=/nowhere"}
	_, complaint, code := u.cartsshd(t, "image", "show", img)
	want := fmt.Sprintf("cartsshd: %s: unsquashfs: is needed to read a squashfs without root (try: apt-get install squashfs-tools)\n", img)
	if u.as != nil && (code != 1 || complaint != want) {
		t.Errorf("exit status %d, %s", code, complaint)
	}
}

// debugfs writes to such a name, if it can.
func TestANameThatLeadsOutOfAnImageLeadsNowhere(t *testing.T) {
	need.Root(t)
	mkfs := need.Tool(t, "mkfs.ext4", "e2fsprogs")
	dir := shelf(t)
	img := filepath.Join(dir, "evil.img")
	fine(t, os.Mkdir(filepath.Join(dir, "tree"), 0o755))
	fine(t, os.WriteFile(filepath.Join(dir, "tree/xx_xx_escaped"), []byte("evil"), 0o644))
	sh(t, mkfs+" -q -b 1024 -O ^metadata_csum,^dir_index -d "+dir+"/tree "+img+" 2M")
	data, err := os.ReadFile(img)
	fine(t, err)
	fine(t, os.WriteFile(img, bytes.ReplaceAll(data, []byte("xx_xx_escaped"), []byte("../../escaped")), 0o644))
	fine(t, os.Chmod(img, 0o644))
	u := users(t)[1]
	_, complaint, code := u.cartsshd(t, "image", "show", img) // and leaves nothing
	if code != 1 || !strings.Contains(complaint, "Permission denied") {
		t.Errorf("exit status %d, %s", code, complaint)
	}
}

func TestOfALoudToolTheLastWordIsHeard(t *testing.T) {
	w := lastWord{noise: "never mind"}
	var c io.Writer = &w
	for _, text := range []string{"debugfs 1.47\n", strings.Repeat("x", 1<<20), "\nit \x1b[2J", "broke\n\n", "a: never mind a\nnever mind b"} {
		n, err := io.WriteString(c, text)
		if n != len(text) || err != nil {
			t.Errorf("%d of %d, %v", n, len(text), err)
		}
	}
	if got := w.end(); got != "it ?[2Jbroke" || cap(w.line) > 2048 {
		t.Errorf("heard %q, and keeps %d bytes", got, cap(w.line))
	}
}

func TestAPathIsQuotedForYAMLWhereItHasTo(t *testing.T) {
	for path, want := range map[string]string{"/var/lib/cartsshd/tools.img": "/var/lib/cartsshd/tools.img", "/a b": `"/a b"`, "/a,b": `"/a,b"`, "/a\x1b": `"/a\x1b"`} {
		if got := yamlWord(path); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
}
