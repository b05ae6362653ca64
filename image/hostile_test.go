package image

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

// evil is a library that leaves a mark when it is loaded, whatever for. It
// needs no other.
const evil = `
static void mark(void)
{
	long ret;
	__asm__ volatile("syscall" : "=a"(ret) : "0"(2L), "D"("/mark"), "S"(0101L), "d"(0666L) : "rcx", "r11", "memory");
}
__attribute__((constructor)) static void load(void) { mark(); }
unsigned la_version(unsigned v) { mark(); return v; }
`

func evilLibrary(t *testing.T) string {
	t.Helper()
	gcc := need.Tool(t, "gcc", "gcc")
	dir := t.TempDir()
	src, out := filepath.Join(dir, "evil.c"), filepath.Join(dir, "evil.so")
	must(t, os.WriteFile(src, []byte(evil), 0o600))
	run(t, gcc+" -shared -fPIC -nostdlib -o "+out+" "+src)
	code, err := os.ReadFile(out)
	must(t, err)
	return string(code)
}

// poison makes the box's root an enemy's: every file by which a dynamically
// linked program, a shell, an editor or a TLS library can be steered.
func (b *box) poison(t *testing.T) {
	t.Helper()
	code := evilLibrary(t)
	b.write(t, "evil.so", code)

	for _, dir := range []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib", "lib64"} {
		for _, lib := range []string{
			"libc.so.6", "libtinfo.so.6", "libselinux.so.1", "libcrypto.so.3", "libnss_evil.so.2", "libz.so.1", "libm.so.6", "libcap.so.2", "libpcre2-8.so.0",
			"glibc-hwcaps/x86-64-v2/libc.so.6", "tls/libc.so.6", "gconv/EVIL.so", "engines-3/evil.so", "ossl-modules/evil.so",
			"sasl2/libevil.so", "gss/evil.so", "pkcs11/evil.so", "krb5/plugins/preauth/evil.so", "tc/q_evil.so", "ip/link_evil.so",
		} {
			b.write(t, dir+"/"+lib, code)
		}
		b.write(t, dir+"/gconv/gconv-modules", "module UTF-8// INTERNAL EVIL 1\nmodule EVIL// INTERNAL EVIL 1\nmodule INTERNAL EVIL// EVIL 1\n")
	}
	b.write(t, "etc/ld.so.preload", "/evil.so\n")
	if cache, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		b.write(t, "etc/ld.so.cache", string(cache))
	}
	b.write(t, "etc/nsswitch.conf", "passwd: evil files\nhosts: evil files dns\n")
	b.write(t, "etc/gss/mech", "evil 1.2.3.4 /evil.so\n")
	b.write(t, "etc/gss/mech.d/evil.conf", "evil 1.2.3.4 /evil.so\n")
	b.write(t, "etc/pkcs11/modules/evil.module", "module: /evil.so\ncritical: yes\n")
	b.write(t, "usr/share/p11-kit/modules/evil.module", "module: /evil.so\ncritical: yes\n")
	b.write(t, "usr/lib/ssl/openssl.cnf", `openssl_conf = init
[init]
engines = engines
[engines]
evil = evil
[evil]
engine_id = evil
dynamic_path = /evil.so
init = 1
`)
	for _, rc := range []string{"etc/bash.bashrc", "etc/profile", "root/.bashrc", "root/.profile", "root/.bash_profile", ".bashrc", ".profile"} {
		b.write(t, rc, ": >/mark\n")
	}
	for _, rc := range []string{"etc/vim/vimrc", "etc/vim/vimrc.tiny", "usr/share/vim/vimrc", "usr/share/vim/vimrc.tiny"} {
		b.write(t, rc, ":!touch /mark\n:w! /mark\n")
	}
	b.write(t, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	for _, rc := range []string{"root/.curlrc", ".curlrc"} {
		b.write(t, rc, "url = file:///etc/passwd\noutput = /mark\n")
	}
	for _, rc := range []string{"etc/topdefaultrc", "etc/toprc", "root/.toprc", "root/.config/procps/toprc"} {
		b.write(t, rc, "pipe\tlogs\t: >/mark\n")
	}
	b.env = append(b.env, "LD_PRELOAD=/evil.so", "LD_AUDIT=/evil.so", "LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu")
}

// Without this the hostile root might simply be harmless.
func TestTheHostileRootHurtsAnOrdinaryProgram(t *testing.T) {
	b := newBox(t, hostImage(t))
	b.poison(t)
	for from, to := range map[string]string{"/lib64/ld-linux-x86-64.so.2": "plain/ld.so", "/lib/x86_64-linux-gnu/libc.so.6": "plain/libc.so.6", "/bin/true": "plain/true"} {
		data, err := os.ReadFile(from)
		must(t, err)
		b.write(t, to, string(data))
	}
	poisoned := b.env
	for _, c := range []struct {
		what    string
		env     []string
		preload string
		marks   bool
	}{
		{"LD_PRELOAD", []string{"LD_PRELOAD=/evil.so"}, "", true},
		{"LD_AUDIT", []string{"LD_AUDIT=/evil.so"}, "", true},
		{"preload file", nil, "/evil.so\n", true},
		{"nothing", nil, "", false},
	} {
		os.Remove(b.root + "/mark")
		b.write(t, "etc/ld.so.preload", c.preload)
		b.env = c.env
		b.run(t, "/plain/ld.so", "--library-path", "/plain", "/plain/true")
		if _, err := os.Stat(b.root + "/mark"); (err == nil) != c.marks {
			t.Errorf("%s: mark: %v, want one: %v", c.what, err, c.marks)
		}
	}
	b.env = poisoned
	if out, code := b.run(t, "/plain/ld.so", "/plain/true"); code == 0 {
		t.Errorf("it found a C library that is not the hostile one: %s", out)
	}
}

// attack is a way of a container into a bash of somebody else's.
type attack struct {
	name string
	set  func(t *testing.T, b *box)
	env  []string
	args []string // of bash
	keys string   // what is typed; with it, bash gets a terminal
}

// attacks leave a mark, or print EVIL.
func attacks(evil string) []attack {
	file := func(name, text string) func(*testing.T, *box) {
		return func(t *testing.T, b *box) { b.write(t, name, text) }
	}
	// A name that is in no file makes glibc ask every module.
	const who = `echo ~nosuchuser; name='\u'; echo "${name@P}"`
	module := func(dir string) func(*testing.T, *box) {
		return func(t *testing.T, b *box) {
			b.write(t, "etc/nsswitch.conf", "passwd: evil files\n")
			b.write(t, dir+"/libnss_evil.so.2", evil)
		}
	}
	converter := func(dir, list string) func(*testing.T, *box) {
		return func(t *testing.T, b *box) {
			b.write(t, dir+"/"+list, "module UTF-8// ANSI_X3.4-1968// EVIL 1\n")
			b.write(t, dir+"/EVIL.so", evil)
		}
	}
	const (
		multiarch = "lib/x86_64-linux-gnu"
		euro      = `printf '\u20ac'`
		isUTF8    = `x=$'\xc3\xa4'; [ ${#x} = 2 ] || echo EVIL`
	)
	command := func(script string) []string { return []string{"-c", script} }

	return []attack{
		{name: "module in /lib/multiarch", set: module(multiarch), args: command(who)},
		{name: "module in /usr/lib/multiarch", set: module("usr/" + multiarch), args: command(who)},
		{name: "module in /lib", set: module("lib"), args: command(who)},
		{name: "module in /usr/lib", set: module("usr/lib"), args: command(who)},
		{name: "module in the cache", set: cached(module("opt")), args: command(who)},
		{name: "LD_LIBRARY_PATH", set: module("opt"), env: []string{"LD_LIBRARY_PATH=/opt"}, args: command(who)},
		{name: "nscd", set: nscdOf, args: command(who)},

		{name: "gconv", set: converter("usr/"+multiarch+"/gconv", "gconv-modules"), args: command(euro)},
		{name: "gconv.d", set: converter("usr/"+multiarch+"/gconv", "gconv-modules.d/evil.conf"), args: command(euro)},
		{name: "GCONV_PATH", set: converter("opt", "gconv-modules"), env: []string{"GCONV_PATH=/opt"}, args: command(euro)},
		{name: "locale", set: locale("usr/lib/locale/xx_XX.utf8"), env: []string{"LC_ALL=xx_XX.UTF-8"}, args: command(isUTF8)},
		{name: "translation", set: translation, env: []string{"LC_ALL=C.UTF-8", "LANGUAGE=xx"}, args: command("nosuchcommand; true")},

		{name: "bash.bashrc", set: file("etc/bash.bashrc", ": >/mark"), args: []string{"-i", "-c", ":"}},
		{name: ".bashrc", set: file("root/.bashrc", ": >/mark"), args: []string{"-i", "-c", ":"}},
		{name: "profile", set: file("etc/profile", ": >/mark"), args: []string{"-l", "-c", ":"}},
		{name: ".bash_profile", set: file("root/.bash_profile", ": >/mark"), args: []string{"-l", "-c", ":"}},
		{name: ".bash_login", set: file("root/.bash_login", ": >/mark"), args: []string{"-l", "-c", ":"}},
		{name: ".profile", set: file("root/.profile", ": >/mark"), args: []string{"-l", "-c", ":"}},
		{name: ".bash_logout", set: file("root/.bash_logout", ": >/mark"), args: []string{"-l", "-c", "exit"}},
		{name: "bash.bash_logout", set: file("etc/bash.bash_logout", ": >/mark"), args: []string{"-l", "-c", "exit"}},
		{name: "inputrc", set: file("etc/inputrc", `"\C-x": "EVIL"`+"\n"), args: command("bind -s")},
		{name: ".inputrc", set: file("root/.inputrc", `"\C-x": "EVIL"`+"\n"), args: command("bind -s")},
		{name: "inputrc, at a prompt", set: file("etc/inputrc", `"y": ": >/mark\n"`+"\n"), args: []string{"-i"}, keys: "y\nexit\n"},
		{name: "terminfo in /usr/share", set: terminal("usr/share/terminfo"), env: []string{"TERM=evil"}, args: []string{"-i"}, keys: "\fexit\n"},
		{name: "terminfo in /lib", set: terminal("lib/terminfo"), env: []string{"TERM=evil"}, args: []string{"-i"}, keys: "\fexit\n"},
		{name: "terminfo in /etc", set: terminal("etc/terminfo"), env: []string{"TERM=evil"}, args: []string{"-i"}, keys: "\fexit\n"},
		{name: ".terminfo", set: terminal("root/.terminfo"), env: []string{"TERM=evil"}, args: []string{"-i"}, keys: "\fexit\n"},
	}
}

// Debian's own bash shows that each attack works, and that it would be seen.
func TestNothingOfTheContainerReachesTheShell(t *testing.T) {
	evil := evilLibrary(t)
	ordinary := program(t, "bash-static")
	for from, img := range map[string]string{"host": hostImage(t), "debian": debianImage(t)} {
		for _, a := range attacks(evil) {
			t.Run(from+"/"+a.name, func(t *testing.T) {
				b := newBox(t, img)
				b.write(t, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
				b.write(t, "plain/bash", ordinary)
				b.env = append([]string{"PATH=" + Root + "/bin", "HOME=/root", "TERM=dumb"}, a.env...)
				a.set(t, b)
				if out, marked := b.suffers(t, a, "/plain/bash"); !marked {
					t.Errorf("it does Debian's bash no harm: %q", out)
				}
				if out, marked := b.suffers(t, a, Root+"/bin/bash"); marked {
					t.Errorf("it got in: %q", out)
				}
			})
		}
	}
}

// A path that is edited short must not leave the root behind it: a list of
// directories is as long as it was.
func TestALocaleInTheRootIsNoneOfTheShells(t *testing.T) {
	for _, img := range []string{hostImage(t), debianImage(t)} {
		b := newBox(t, img)
		locale("xx_XX.utf8")(t, b)
		b.env = append(b.env, "LC_ALL=xx_XX.UTF-8")
		b.want(t, `x=$'\xc3\xa4'; echo ${#x}`, "2\n")
		b.want(t, `printf 'ä' | wc -m`, "2\n")
	}
}

func TestNoProgramAsksTheContainersNscd(t *testing.T) {
	b := newBox(t, debianImage(t))
	nscdOf(t, b)
	b.bash(t, "id root; ls -l /; curl -s http://nosuchhost.example; ps -ef")
	if _, err := os.Stat(b.root + "/mark"); err == nil {
		t.Error("one did")
	}
}

func TestNoToolReadsAStartUpFileOfTheContainers(t *testing.T) {
	for _, img := range []string{hostImage(t), debianImage(t)} {
		b := newBox(t, img)
		b.poison(t)
		b.bash(t, "curl -s file:///etc/passwd; env -u HOME curl -s file:///etc/passwd")
		for _, env := range []string{"", "-u HOME ", "HOME=/root "} {
			opened, _ := b.bash(t, "strace -e trace=open,openat env "+env+"top -b -n 1 2>&1 >/dev/null | grep rc")
			if strings.Contains(opened, "toprc") || strings.Contains(opened, "topdefaultrc") {
				t.Errorf("env %stop: %s", env, opened)
			}
		}
		if _, err := os.Stat(b.root + "/mark"); err == nil {
			t.Error("one did")
		}
	}
}

// suffers says what a bash printed, and whether that or the mark is the enemy's.
func (b *box) suffers(t *testing.T, a attack, bash string) (string, bool) {
	t.Helper()
	os.Remove(b.root + "/mark")
	argv := append([]string{bash}, a.args...)
	var out string
	if a.keys != "" {
		out = b.typed(t, a.keys, argv...)
	} else {
		out, _ = b.run(t, argv...)
	}
	_, err := os.Stat(b.root + "/mark")
	return out, err == nil || strings.Contains(out, "EVIL")
}

// cached is what ldconfig(8) finds of it.
func cached(set func(*testing.T, *box)) func(*testing.T, *box) {
	return func(t *testing.T, b *box) {
		set(t, b)
		b.write(t, "etc/ld.so.conf", "/opt\n")
		run(t, need.Tool(t, "ldconfig", "libc-bin")+" -X -r "+b.root)
	}
}

// nscdOf listens where glibc asks for users before it reads /etc/passwd.
func nscdOf(t *testing.T, b *box) {
	dir := filepath.Join(b.root, "var/run/nscd")
	must(t, os.MkdirAll(dir, 0o755))
	t.Chdir(dir) // a socket's path is short
	l, err := net.Listen("unix", "socket")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			os.WriteFile(b.root+"/mark", nil, 0o600)
			c.Close()
		}
	}()
}

// locale is one in UTF-8, whatever its name.
func locale(dir string) func(*testing.T, *box) {
	return func(t *testing.T, b *box) {
		must(t, os.MkdirAll(filepath.Join(b.root, filepath.Dir(dir)), 0o755))
		run(t, "cp -r /usr/lib/locale/C.utf8 "+filepath.Join(b.root, dir))
	}
}

// translation is a catalog of gettext's with one sentence of bash in it.
func translation(t *testing.T, b *box) {
	locale("usr/lib/locale/C.utf8")(t, b)
	texts := []string{"", "Content-Type: text/plain; charset=UTF-8\n", "%s: command not found", "EVIL %s"}
	const head = 28
	var tables, text []byte
	at := head + 16*len(texts)/2
	for _, i := range []int{0, 2, 1, 3} {
		tables = binary.LittleEndian.AppendUint32(tables, uint32(len(texts[i])))
		tables = binary.LittleEndian.AppendUint32(tables, uint32(at+len(text)))
		text = append(append(text, texts[i]...), 0)
	}
	catalog := []byte{}
	for _, word := range []uint32{0x950412de, 0, 2, head, head + 16, 0, uint32(at)} {
		catalog = binary.LittleEndian.AppendUint32(catalog, word)
	}
	b.write(t, "usr/share/locale/xx/LC_MESSAGES/bash.mo", string(catalog)+string(tables)+string(text))
}

// terminal is the description of one that is cleared by the enemy's text.
func terminal(dir string) func(*testing.T, *box) {
	return func(t *testing.T, b *box) {
		src := filepath.Join(t.TempDir(), "evil.ti")
		must(t, os.WriteFile(src, []byte("evil|x,\n\tam, cols#80, lines#24, clear=EVIL, cr=\\r, cud1=\\n, el=\\E[K, cuu1=\\E[A,\n"), 0o600))
		dir := filepath.Join(b.root, dir)
		must(t, os.MkdirAll(dir, 0o755)) // or tic writes to ~/.terminfo
		run(t, need.Tool(t, "tic", "ncurses-bin")+" -x -o "+dir+" "+src)
	}
}

// program is one of Debian's packages, as it is there.
func program(t *testing.T, name string) string {
	t.Helper()
	debianImage(t)
	b, err := newBuild(Options{Output: "x"})
	must(t, err)
	s, done, err := b.source(t.Context())
	defer func() {
		if err == nil {
			done()
		}
	}()
	must(t, err)
	real, err := s.program(name)
	must(t, err)
	data, err := os.ReadFile(s.host(real))
	must(t, err)
	return string(data)
}

// evilProgram leaves the mark, and needs nothing.
const evilProgram = `
void _start(void)
{
	long ret;
	__asm__ volatile("syscall" : "=a"(ret) : "0"(2L), "D"("/mark"), "S"(0101L), "d"(0666L) : "rcx", "r11", "memory");
	__asm__ volatile("syscall" : "=a"(ret) : "0"(60L), "D"(0L) : "rcx", "r11", "memory");
}
`

// Programs run others: to mount, to unpack, to page, to reach another machine.
func TestNoToolRunsAProgramOfTheContainerUnasked(t *testing.T) {
	gcc := need.Tool(t, "gcc", "gcc")
	src := filepath.Join(t.TempDir(), "evil")
	must(t, os.WriteFile(src+".c", []byte(evilProgram), 0o600))
	run(t, gcc+" -static -nostdlib -o "+src+" "+src+".c")
	code, err := os.ReadFile(src)
	must(t, err)
	trixie, err := fromTrixie()
	must(t, err)
	full, err := fromFull()
	must(t, err)
	for from, img := range map[string]string{"debian": debianImage(t), "trixie": trixie, "full": full} {
		b := newBox(t, img)
		b.env = append(b.env, "PATH="+Root+"/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
		for _, name := range []string{
			"sbin/mount.tmpfs", "sbin/umount.tmpfs", "sbin/mount.nfs", "sbin/fs.d/mount.tmpfs", "usr/bin/lzip", "usr/bin/lzop", "usr/bin/compress", "usr/bin/uncompress", "usr/bin/lzma",
			"usr/bin/lrzip", "usr/bin/brotli", "usr/bin/unzip", "usr/bin/rsh", "usr/sbin/rmt", "usr/bin/pr", "usr/bin/vi", "usr/bin/editor", "bin/bash", "bin/sh", "bin/ex", "usr/bin/less", "usr/bin/groff",
			"usr/lib/sysstat/sadc", "usr/bin/pager", "usr/bin/more",
		} {
			b.write(t, name, string(code))
		}
		b.write(t, "etc/hosts", "127.0.0.1 host\n")
		b.write(t, "tmp/lzip.tar", "LZIP\x01\x0c"+strings.Repeat("x", 600))
		b.write(t, "tmp/lzop.tar", "\x89LZO\x00\x0d\x0a\x1a\x0a"+strings.Repeat("x", 600))
		b.write(t, "tmp/z.tar", "\x1f\x9d\x90"+strings.Repeat("x", 600))
		b.write(t, "tmp/a", "a\n")
		b.write(t, "tmp/b", "b\n")
		b.write(t, "root/.local/lib/python3.11/site-packages/usercustomize.py", "open('/mark', 'w')\n")
		b.write(t, "work/json.py", "open('/mark', 'w')\n")
		b.write(t, "usr/share/wireshark/init.lua", "io.open('/mark', 'w')\n")
		b.write(t, "etc/postgresql-common/psqlrc", "\\! /bin/sh\n")
		for _, script := range []string{
			"mount -t tmpfs none /mnt", "mount -t tmpfs none /tmp && umount /tmp", "mount host:/x /mnt",
			"tar tf /tmp/lzip.tar", "tar tf /tmp/lzop.tar", "tar tf /tmp/z.tar", "file -z /tmp/lzip.tar", "tar -cf host:x /tmp/a", "tar --lzip -tf /tmp/a",
			"diff -l /tmp/a /tmp/b", "capsh -- -c id", "gdb -q -batch -ex 'edit main'", "gdb -q -batch -ex '!true'", "man ls",
			"cd /work; [ -e /dev/crashcart/bin/python3 ] && python3 -c 'import json'", "cd /work; PYTHONPATH=/work gdb -q -batch -ex 'python import json'",
			"[ -e /dev/crashcart/bin/tshark ] && tshark -v", "unset EDITOR; [ -e /dev/crashcart/bin/psql ] && psql -h 127.0.0.1 -p 1",
		} {
			os.Remove(b.root + "/mark")
			out, _ := b.bash(t, "mkdir -p /mnt; "+script+" </dev/null")
			if exists(b.root + "/mark") {
				t.Errorf("%s: %s: a program of the container ran: %q", from, script, out)
			}
		}
		if out, _ := b.bash(t, "/usr/bin/pr"); !exists(b.root + "/mark") {
			t.Errorf("this test sees nothing: %s", out)
		}
	}
}
