package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

// suite writes a sources.list of a release of Debian.
func suite(dir, name string) (string, error) {
	list := filepath.Join(dir, name+".list")
	return list, os.WriteFile(list, []byte("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian "+name+" main\n"), 0o600)
}

var fromTrixie = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, "trixie.img")
	list, err := suite(shared, "trixie")
	if err != nil {
		return "", err
	}
	return out, Build(context.Background(), Options{Output: out, Sources: list})
})

var forARM64 = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, "arm64.img")
	return out, Build(context.Background(), Options{Output: out, Arch: "arm64"})
})

// Another C library, another make of everything.
func TestToolsOfDebian13Work(t *testing.T) {
	need.File(t, "/usr/share/keyrings/debian-archive-keyring.gpg", "apt-get install debian-archive-keyring")
	img, err := fromTrixie()
	must(t, err)
	with, ca := serveProbes(t)
	for _, r := range roots {
		if r.name != "empty" && r.name != "hostile" && r.name != "uid 1000" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			b := newBox(t, img)
			b.app(t, "-static")
			b.bundled(t, img, ca)
			r.make(t, b)
			for name, why := range b.unstarted(t) {
				t.Errorf("%s: exit status %s", name, why)
			}
			for _, p := range probes(with) {
				if out, ok := b.try(t, p); ok == (p.caps && b.user) {
					t.Errorf("%s: works: %v: %q, want %q", p.tool, ok, out, p.want)
				}
			}
			if exists(b.root + "/mark") {
				t.Error("code of the container ran")
			}
		})
	}
}

// Of arm64 there is no machine here: qemu-user runs single programs. What needs
// ptrace, or a network of its own, was not tried.
func TestToolsForARM64RunUnderQEMU(t *testing.T) {
	qemu := need.Tool(t, "qemu-aarch64-static", "qemu-user-static")
	img, err := forARM64()
	must(t, err)
	with, _ := serveProbes(t)
	b := newBox(t, img)
	code, err := os.ReadFile(qemu)
	must(t, err)
	b.write(t, "qemu", string(code))
	b.write(t, "tmp/x.json", `{"a": 1}`)
	b.write(t, "etc/ld.so.preload", "/nonexistent/preload.so\n")
	for command, want := range map[string]string{
		"bash -c 'x=äöü; LC_ALL=C.UTF-8; echo ${#x} $MACHTYPE'": "3 aarch64",
		"ls /dev/crashcart":          "packages.lock",
		"whoami":                     "root\n",
		"sed -n s/a/b/p /tmp/x.json": `{"b": 1}`,
		"jq .a /tmp/x.json":          "1\n",
		"curl -s " + with.http:       "hello",
		"dig +short @127.0.0.1 -p " + portOf(with.dns) + " web.example": "192.0.2.7\n",
		"file -L /dev/crashcart/bin/ls":                                 "ARM aarch64",
		"tar -cf - /tmp/x.json":                                         "tmp/x.json",
		"date -u -d @0 +%Y":                                             "1970",
		"strace -V":                                                     "strace -- version",
		"vim --version":                                                 "VIM - Vi IMproved",
		"tcpdump --version":                                             "libpcap",
	} {
		argv := []string{"/qemu", "-E", "LD_PRELOAD=/nonexistent/preload.so", "-E", "LD_AUDIT=/nonexistent/audit.so", "-E", "LD_LIBRARY_PATH=/nonexistent", "-E", "PATH=" + Root + "/bin"}
		words := strings.Fields(command)
		if name, script, ok := strings.Cut(command, " -c '"); ok {
			words = []string{name, "-c", strings.TrimSuffix(script, "'")}
		}
		argv = append(append(argv, Root+"/bin/"+words[0]), words[1:]...)
		out, status := b.run(t, argv...)
		if status != 0 || !strings.Contains(out, want) || strings.Contains(out, "preload.so") {
			t.Errorf("%s: exit status %d, %q, want %q", command, status, out, want)
		}
	}
}

// The proof of above must be able to fail: Debian's own loader complains.
func TestDebiansOwnLoaderForARM64Complains(t *testing.T) {
	qemu := need.Tool(t, "qemu-aarch64-static", "qemu-user-static")
	b, err := newBuild(Options{Output: "x", Arch: "arm64"})
	must(t, err)
	s, err := b.source(t.Context())
	must(t, err)
	out := run(t, qemu+" -E LD_PRELOAD=/nonexistent/preload.so -L "+s.root+" "+s.root+"/bin/true 2>&1")
	if !strings.Contains(out, "preload.so") {
		t.Errorf("it says %q", out)
	}
}
