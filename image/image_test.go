package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fromHost is an image of this machine's programs, built once for all tests.
var fromHost = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, "host.img")
	return out, Build(context.Background(), Options{Output: out, FromHost: true, Profile: "std", FS: "erofs"})
})

// fromDebian is one of Debian's packages. The downloads of an earlier build
// serve it, so that tests need no network.
var fromDebian = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, "debian.img")
	return out, Build(context.Background(), Options{Output: out, Log: &debianLog})
})

var debianLog bytes.Buffer

func hostImage(t testing.TB) string {
	t.Helper()
	need.Tool(t, "mksquashfs", "squashfs-tools")
	path, err := fromHost()
	must(t, err)
	return path
}

func debianImage(t testing.TB) string {
	t.Helper()
	b, err := newBuild(Options{Output: "x"})
	must(t, err)
	dir, err := b.cache()
	must(t, err)
	need.File(t, filepath.Join(dir, "updated"), "cartsshd image build, once and with a network")
	path, err := fromDebian()
	must(t, err)
	return path
}

func TestTheSameInputIsTheSameImageBitForBit(t *testing.T) {
	for _, fs := range []string{"squashfs", "erofs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			f, err := filesystemOf(fs)
			must(t, err)
			need.Tool(t, f.tool, f.pkg)
			var images [2][]byte
			for i := range images {
				out := filepath.Join(t.TempDir(), "tools.img")
				must(t, Build(t.Context(), Options{Output: out, FS: fs, FromHost: true}))
				images[i], err = os.ReadFile(out)
				must(t, err)
			}
			if !bytes.Equal(images[0], images[1]) {
				t.Error("they differ")
			}
		})
	}
}

func TestDebianHasAllThatIsOnTheList(t *testing.T) {
	debianImage(t)
	if log := debianLog.String(); strings.Contains(log, "left out") || strings.Contains(log, "nothing taken") {
		t.Error(log)
	}
}

func TestDebianPackagesAreTheSameImageBitForBit(t *testing.T) {
	first, err := os.ReadFile(debianImage(t))
	must(t, err)
	out := filepath.Join(t.TempDir(), "tools.img")
	must(t, Build(t.Context(), Options{Output: out}))
	second, err := os.ReadFile(out)
	must(t, err)
	if !bytes.Equal(first, second) {
		t.Error("they differ")
	}
}

func TestAFailedBuildLeavesTheOldImageAndNothingElse(t *testing.T) {
	need.Tool(t, "mksquashfs", "squashfs-tools")
	dir := t.TempDir()
	out := filepath.Join(dir, "tools.img")
	must(t, os.WriteFile(out, []byte("the old one"), 0o644))

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Build(cancelled, Options{Output: out, FromHost: true}); err == nil {
		t.Error("a cancelled build succeeded")
	}
	if err := Build(t.Context(), Options{Output: out, FromHost: true, Packages: []string{"sed: sed"}}); err == nil {
		t.Error("an image without a shell was built")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	b, err := os.ReadFile(out)
	must(t, err)
	if len(entries) != 1 || string(b) != "the old one" {
		t.Errorf("left: %v, %q", entries, b)
	}
}

func TestWhatTheMachineLacksIsReported(t *testing.T) {
	need.Tool(t, "mksquashfs", "squashfs-tools")
	var log bytes.Buffer
	err := Build(t.Context(), Options{
		Output: filepath.Join(t.TempDir(), "tools.img"), FromHost: true, Log: &log,
		Packages: []string{"bash: bash", "nowhere: no-such-tool"},
	})
	must(t, err)
	if want := "left out, not found: no-such-tool\n"; !strings.Contains(log.String(), want) {
		t.Errorf("log is %q, want it to have %q", &log, want)
	}
}

// Whichever program is the first, and whichever of them are static.
func TestEveryOrderIsProven(t *testing.T) {
	need.Tool(t, "mksquashfs", "squashfs-tools")
	for _, list := range [][]string{{"sed: sed", "bash: bash"}, {"bash: bash", "sed: sed"}, {"x: bash=bash-static"}, {"sed: sed", "x: bash=bash-static"}} {
		if err := Build(t.Context(), Options{Output: filepath.Join(t.TempDir(), "tools.img"), FromHost: true, Packages: list}); err != nil {
			t.Errorf("%s: %v", list, err)
		}
	}
}

func TestErrorsNameTheWayOut(t *testing.T) {
	out := filepath.Join(t.TempDir(), "tools.img")
	for want, o := range map[string]Options{
		"image: no output file named":                                           {},
		`image: file system "ntfs": not one of squashfs, erofs, ext4`:           {Output: out, FS: "ntfs"},
		`image: architecture "vax": not one of amd64, arm64`:                    {Output: out, Arch: "vax"},
		`image: packages:1: "bash": not of the form "package: command command"`: {Output: out, Packages: []string{"bash"}},
		`image: packages:2: "/bin/sh": not the name of a command`:               {Output: out, Packages: []string{"", "bash: /bin/sh"}},
		`image: packages:1: "-o=x": not of the form "package: command command"`: {Output: out, Packages: []string{"-o=x"}},
	} {
		if err := Build(t.Context(), o); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func TestWithoutToolsOfDebianItSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Build(t.Context(), Options{Output: filepath.Join(t.TempDir(), "tools.img"), CacheDir: t.TempDir()})
	if want := "image: apt-get: not found: this is no Debian (try: --from-host)"; err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

func TestWithoutANetworkItSaysSoAndDoesNotTakeTheHosts(t *testing.T) {
	need.Tool(t, "apt-get", "apt")
	t.Setenv("http_proxy", "http://127.0.0.1:1") // nobody listens there
	t.Setenv("https_proxy", "http://127.0.0.1:1")
	out := filepath.Join(t.TempDir(), "tools.img")
	err := Build(t.Context(), Options{Output: out, CacheDir: t.TempDir()})
	if err == nil {
		t.Fatal("built")
	}
	if msg := err.Error(); strings.Contains(msg, "\n") || !strings.Contains(msg, "--from-host") {
		t.Errorf("%q is not one line that names --from-host", msg)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an image: %v", err)
	}
}

func TestWithoutMksquashfsItSaysSo(t *testing.T) {
	bash := need.Tool(t, "bash", "bash")
	dir := t.TempDir()
	must(t, os.Symlink(bash, filepath.Join(dir, "bash")))
	t.Setenv("PATH", dir)
	err := Build(t.Context(), Options{Output: filepath.Join(t.TempDir(), "tools.img"), FromHost: true, Packages: []string{"bash: bash"}})
	if want := "image: mksquashfs: not found (try: apt-get install squashfs-tools)"; err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

func TestTheDefaultListIsWellFormed(t *testing.T) {
	list, err := parseList(strings.Split(defaultList, "\n"), "full")
	must(t, err)
	commands := map[string]bool{}
	for _, p := range list {
		for _, c := range p.commands {
			if commands[c.name] {
				t.Errorf("%s is named twice", c.name)
			}
			commands[c.name] = true
		}
	}
	if len(commands) < 60 {
		t.Errorf("only %d commands", len(commands))
	}
}

// A loader of another make must stop the build, not become half private.
func TestALoaderOfAnotherMakeIsRefused(t *testing.T) {
	a, data := hostLoader(t)
	for what, pattern := range map[string]string{
		"the table of system directories": systemDirs(a).old,
		"the cache file":                  "/etc/ld.so.cache\x00",
		"the preload file":                "/etc/ld.so.preload\x00",
		"the search for LD_ variables":    "\x80\x38\x4c\x75",
	} {
		broken := bytes.ReplaceAll(data, []byte(pattern), bytes.Repeat([]byte("x"), len(pattern)))
		o, err := parseObject(broken, a)
		must(t, err)
		err = o.relocateLoader(a)
		if err == nil || !strings.HasPrefix(err.Error(), what+": found 0 times") {
			t.Errorf("without %s: %v", what, err)
		}
	}
}

// So must a static bash.
func TestAStaticBashOfAnotherMakeIsRefused(t *testing.T) {
	a, err := archOf("amd64")
	must(t, err)
	bash := program(t, "bash-static")
	for what, pattern := range map[string]string{
		"the table of system directories": systemDirs(a).old,
		"the cache file":                  "/etc/ld.so.cache\x00",
		"LD_LIBRARY_PATH":                 "LD_LIBRARY_PATH\x00",
		"GCONV_PATH":                      "GCONV_PATH\x00",
		"the modules of nsswitch.conf":    "libnss_%s.so%s\x00",
		"the directory of gconv":          "/usr/lib/x86_64-linux-gnu/gconv",
		"the directory of locales":        "/usr/lib/locale",
		"the directory of translations":   "/usr/share/locale",
		"nscd's socket":                   "/var/run/nscd/so",
	} {
		src := t.TempDir()
		must(t, os.WriteFile(filepath.Join(src, "bash"), []byte(strings.ReplaceAll(bash, pattern, strings.Repeat("x", len(pattern)))), 0o755))
		tree := newTree(t.TempDir(), a)
		err := tree.addCommand(&source{root: src, bins: []string{"/"}}, command{name: "bash"})
		if err == nil || !strings.HasPrefix(err.Error(), what+": found 0 times") {
			t.Errorf("without %s: %v", what, err)
		}
	}
}

func TestAStaticProgramOfAnotherLibraryIsLeftAlone(t *testing.T) {
	a, err := archOf("amd64")
	must(t, err)
	gcc := need.Tool(t, "gcc", "gcc")
	src := t.TempDir()
	run(t, "echo 'void _start(void){for(;;);}' | "+gcc+" -x c - -static -nostdlib -o "+src+"/tool")
	tree := newTree(t.TempDir(), a)
	s := &source{root: src, bins: []string{"/"}}
	must(t, tree.addCommand(s, command{name: "tool"}))
	if err := tree.addCommand(s, command{name: "bash", of: "tool"}); err != nil {
		t.Errorf("an alias of what is there: %v", err)
	}
	must(t, os.Rename(src+"/tool", src+"/bash"))
	tree = newTree(t.TempDir(), a)
	if err := tree.addCommand(s, command{name: "bash"}); err == nil || !strings.Contains(err.Error(), "not a static program that can be made private") {
		t.Errorf("a shell that nothing is known of: %v", err)
	}
}

func TestAnAliasIsWhatItStandsForElseItself(t *testing.T) {
	a, err := archOf("amd64")
	must(t, err)
	src := t.TempDir()
	s := &source{root: src, bins: []string{"/"}}
	for _, c := range []struct{ there, want string }{{"bash", "bash"}, {"bash-static", "bash-static"}} {
		must(t, os.WriteFile(filepath.Join(src, c.there), []byte("#!/bin/sh\n# "+c.there+"\n"), 0o755))
		tree := newTree(t.TempDir(), a)
		must(t, tree.addCommand(s, command{name: "bash", of: "bash-static"}))
		must(t, tree.addCommand(s, command{name: "sh", of: "bash"}))
		got, err := os.ReadFile(filepath.Join(tree.root, "bin/bash"))
		must(t, err)
		if to, _ := os.Readlink(filepath.Join(tree.root, "bin/sh")); !strings.HasSuffix(string(got), "# "+c.want+"\n") || to != "bash" {
			t.Errorf("bash is %q, and sh leads to %q", got, to)
		}
	}
}

// The proof must be able to fail.
func TestALoaderThatIsNotPrivateIsFoundOut(t *testing.T) {
	a, data := hostLoader(t)
	s, err := hostSource(a)
	must(t, err)
	tree := newTree(t.TempDir(), a)
	must(t, tree.addCommand(s, command{name: "bash"}))
	must(t, tree.addLibraries(s))
	must(t, tree.write("ld.so", data, 0o755))
	if err := tree.prove(t.Context()); err == nil || !strings.Contains(err.Error(), "not private") {
		t.Errorf("prove: %v", err)
	}
}

func hostLoader(t *testing.T) (arch, []byte) {
	t.Helper()
	a, err := archOf("amd64")
	must(t, err)
	const path = "/lib64/ld-linux-x86-64.so.2"
	need.File(t, path, "apt-get install libc6")
	data, err := os.ReadFile(path)
	must(t, err)
	return a, data
}

func TestEditsKeepTheSizeAndTouchWholeStringsOnly(t *testing.T) {
	for _, c := range []struct {
		edit     edit
		in, want string
		n        int
	}{
		{blank("/etc/profile"), "a\x00/etc/profile\x00b", "a\x00\x00etc/profile\x00b", 1},
		{blank("/etc/a"), "\x00/etc/a\x00/etc/a\x00", "\x00\x00etc/a\x00\x00etc/a\x00", 2},
		{blank("/etc/profile"), "a\x00/etc/profile.d\x00", "a\x00/etc/profile.d\x00", 0},
		{blank("/etc/profile"), "a\x00/my/etc/profile\x00", "a\x00/my/etc/profile\x00", 0},
		{whole("12345", "abc"), "\x0012345\x0012345\x00", "\x00abc\x00\x00\x00abc\x00\x00\x00", 2},
		{prefix("/usr/lib/", "/x/lib"), "/usr/lib/a:/usr/lib/b", "/x/lib///a:/x/lib///b", 2},
	} {
		b := []byte(c.in)
		if n := c.edit.apply(b); n != c.n || string(b) != c.want {
			t.Errorf("%q: %q, %d edits; want %q, %d", c.in, b, n, c.want, c.n)
		}
	}
}

// Names of files that make a program load or run something must not be the
// container's, in any program or library of either image.
func TestNoProgramNamesCodeOfTheContainer(t *testing.T) {
	for name, img := range map[string]string{"host": hostImage(t), "debian": debianImage(t)} {
		forbidden := []string{
			"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/share/locale", "/usr/lib/locale", "/usr/lib/sasl2",
			"/usr/lib/ssl", "/etc/ssl", "/etc/gss/", "/etc/krb5.conf", "/etc/pkcs11", "/usr/share/p11-kit", "/etc/bash.bashrc",
			"/etc/inputrc", "/etc/vim/vimrc", "/etc/terminfo", "/etc/ld.so", "/usr/lib/tc",
		}
		for _, file := range objects(t, unpacked(t, img)) {
			data, err := os.ReadFile(file)
			must(t, err)
			o, err := parseObject(data, arches[0])
			must(t, err)
			for _, part := range o.constants() {
				for _, f := range forbidden {
					for _, begin := range []string{"\x00", ":"} { // of a string, or of one of its paths
						if bytes.Contains(part, []byte(begin+f)) {
							t.Errorf("%s: %s: %q", name, filepath.Base(file), f)
						}
					}
				}
			}
			if in := o.interp(); in != "" && in != Root+"/ld.so" {
				t.Errorf("%s: %s: its loader is %s", name, filepath.Base(file), in)
			}
			if dirs := strings.Join(append(o.dyn(elf.DT_RPATH), o.dyn(elf.DT_RUNPATH)...), ""); dirs != "" {
				t.Errorf("%s: %s: it looks for libraries in %s", name, filepath.Base(file), dirs)
			}
		}
	}
}

func (o *object) dyn(tag elf.DynTag) []string {
	values, _ := o.elf.DynString(tag)
	return values
}

func TestARunpathIsDropped(t *testing.T) {
	gcc := need.Tool(t, "gcc", "gcc")
	out := filepath.Join(t.TempDir(), "a")
	run(t, "echo 'int main(){return 0;}' | "+gcc+" -x c - -Wl,-rpath,/opt/evil -o "+out)
	data, err := os.ReadFile(out)
	must(t, err)
	o, err := parseObject(data, arches[0])
	must(t, err)
	if got := o.dyn(elf.DT_RUNPATH); !slices.Equal(got, []string{"/opt/evil"}) {
		t.Fatalf("the compiler made %q", got)
	}
	must(t, o.relocate(arches[0]))
	if got := strings.Join(o.dyn(elf.DT_RUNPATH), ""); got != "" {
		t.Errorf("left: %q", got)
	}
}

func TestNothingInTheImageIsSetuidOrSomebodyElses(t *testing.T) {
	need.Root(t) // unsquashfs keeps modes and owners for root only
	for _, img := range []string{hostImage(t), debianImage(t)} {
		out := run(t, "find "+unpacked(t, img)+` \( -perm /7000 -o -perm /022 ! -type l -o ! -uid 0 -o ! -gid 0 \) -print`)
		if out != "" {
			t.Errorf("%s:\n%s", img, out)
		}
	}
}

// One's own binaries: a dynamic one with a library of its own, a script, and a
// file that takes the place of one of the image's.
func TestAFolderOfOnesOwnIsLaidOverTheImage(t *testing.T) {
	need.Tool(t, "mksquashfs", "squashfs-tools")
	gcc := need.Tool(t, "gcc", "gcc")
	dir := t.TempDir()
	run(t, `mkdir -p `+dir+`/bin `+dir+`/lib `+dir+`/share/own && cd `+dir+` &&
		echo 'int answer(void) { return 42; }' | `+gcc+` -x c - -shared -fPIC -Wl,-soname,libanswer.so.1 -o lib/libanswer.so.1 &&
		echo '#include <stdio.h>
		int answer(void); int main(void) { printf("%d", answer()); return 0; }' | `+gcc+` -x c - -x none lib/libanswer.so.1 -o bin/answer &&
		printf '#!/bin/sh -e\nanswer\nfalse\necho not here\n' >bin/ask && chmod +x bin/ask &&
		echo own >share/own/file && printf '#!/bin/sh\necho own vi\n' >bin/vi && chmod +x bin/vi`)
	out := filepath.Join(t.TempDir(), "tools.img")
	list := []string{"bash: bash", "coreutils: cat ls", "vim: vim vi=vim"}
	must(t, Build(t.Context(), Options{Output: out, FromHost: true, Packages: list, Files: dir}))
	b := newBox(t, out)
	b.want(t, "answer", "42")
	b.want(t, "ask || vi; cat /dev/crashcart/share/own/file", "42own vi\nown\n")

	for _, c := range [][2]string{
		{"cp bin/answer ld.so", "the image has to have its own"},
		{"rm ld.so; ln -s /nowhere share/passwd", "leads to nothing in the folder"},
		{"rm share/passwd; mkfifo bin/pipe", "bin/pipe: is not a file"},
		{"rm bin/pipe; mkdir sbin; cp bin/answer sbin/bash", "the image has to have its own"},
		{"rm -r sbin; printf '#!/usr/bin/perl\n' >bin/ask", "a script of an interpreter that is not in the image"},
		{"rm -r " + dir, "no such file or directory"},
	} {
		run(t, "cd "+dir+"; "+c[0])
		err := Build(t.Context(), Options{Output: out, FromHost: true, Packages: list, Files: dir})
		if err == nil || !strings.HasPrefix(err.Error(), "image: --files: ") || !strings.Contains(err.Error(), c[1]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c[0], err)
		}
	}
}

// At another time, by another user with another umask, of another cache that
// has the downloads only, without a network.
func TestALockMakesTheSameImageAgain(t *testing.T) {
	need.Root(t)
	b, err := newBuild(Options{Output: "x"})
	must(t, err)
	cache, err := b.cache()
	must(t, err)
	debianImage(t)
	list := []string{"bash-static: bash=bash-static", "coreutils: ls cat", "jq: jq", "vim: vim=vim.basic", "ncurses-base:", "tzdata:"}
	for _, fs := range []string{"squashfs", "erofs"} {
		first := filepath.Join(t.TempDir(), "tools.img")
		must(t, Build(t.Context(), Options{Output: first, FS: fs, Packages: list, Add: []string{"file"}}))
		lock := filepath.Join(shared, "lock-"+fs)
		tree := newBox(t, first)
		text, _ := tree.bash(t, "cat /dev/crashcart/packages.lock")
		must(t, os.WriteFile(lock, []byte(text), 0o644))

		theirs, err := os.MkdirTemp("", "image-test-")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(theirs) })
		run(t, "mkdir -p "+theirs+"/amd64/archives && cp "+cache+"/archives/*.deb "+theirs+"/amd64/archives/ && chown -R 65534:65534 "+theirs+" && chmod 755 "+shared)
		second := filepath.Join(theirs, "tools.img")
		o, err := json.Marshal(Options{Output: second, FS: fs, Packages: list, Add: []string{"file"}, Lock: lock, CacheDir: theirs})
		must(t, err)
		c := exec.CommandContext(t.Context(), "/proc/self/exe")
		c.Env = []string{buildEnv + "=" + string(o), "PATH=" + os.Getenv("PATH"), "http_proxy=http://127.0.0.1:1", "TZ=Asia/Tokyo"}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", fs, err, out)
		}
		x, err := os.ReadFile(first)
		must(t, err)
		y, err := os.ReadFile(second)
		must(t, err)
		if !bytes.Equal(x, y) {
			t.Errorf("%s: they differ", fs)
		}
	}
}

func TestALockThatIsNoneIsRefused(t *testing.T) {
	_, o := newArchive(t)
	o.Lock = filepath.Join(t.TempDir(), "packages.lock")
	sum := strings.Repeat("0", 64)
	for text, want := range map[string]string{
		"":                              "no such file or directory",
		"bash-static 1\n":               "packages.lock:1: not of the form \"package version sha256\"",
		"# from a machine\n":            "names no package: an image of this machine's programs has no lock",
		"-o x " + sum + "\n":            "packages.lock:1: not of the form",
		"bash-static 0.1 " + sum + "\n": "Version '0.1' for 'bash-static' was not found",
	} {
		if text != "" {
			must(t, os.WriteFile(o.Lock, []byte(text), 0o600))
		}
		fails(t, o, want)
		os.Remove(o.Lock)
	}
}
