package image

import (
	"bytes"
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
			b.bundled(t, ca)
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

var fromFull = sync.OnceValues(func() (string, error) {
	out := filepath.Join(shared, "full.img")
	return out, Build(context.Background(), Options{Output: out, Profile: "full", FS: "erofs", Log: &fullLog})
})

var fullLog bytes.Buffer

// What full has besides std.
func TestToolsOfFullWork(t *testing.T) {
	img, err := fromFull()
	must(t, err)
	if strings.Contains(fullLog.String(), "left out") {
		t.Error(fullLog.String())
	}
	with, ca := serveProbes(t)
	more := []probe{
		{tool: "python3", script: `python3 -c 'import ssl, json, sqlite3, ctypes, bz2, lzma, zlib, curses, readline, asyncio, decimal; print(sum(range(10)))'`, want: "45\n"},
		{tool: "python3, https", script: `python3 -c 'import urllib.request as u; print(u.urlopen("` + with.https + `").read())'`, want: "hello"},
		{tool: "gdb, Python", script: `gdb -q -batch -ex 'python print(6*7)'`, want: "42\n"},
		{tool: "tmux", script: `tmux new-session -d 'echo in tmux >/tmp/t; tmux wait-for -S done' \; wait-for done; cat /tmp/t; tmux kill-server 2>/dev/null; true`, want: "in tmux\n"},
		{tool: "nmap", script: `nmap -sT -n -Pn -sV --version-light -p ` + portOf(with.http) + ` 127.0.0.1`, want: "open"},
		{tool: "ncat", script: `printf 'GET / HTTP/1.0\r\n\r\n' | ncat 127.0.0.1 ` + portOf(with.http), want: "hello"},
		{tool: "iperf3", script: `coproc iperf3 -s -1 -p 5299 --forceflush 2>&1; exec 5<&${COPROC[0]}; while read -r -u 5 line && [[ $line != *listening* ]]; do :; done; iperf3 -c 127.0.0.1 -p 5299 -n 1M`, want: "iperf Done.", alone: true},
		{tool: "tshark", script: `
			coproc tshark -l -n -i lo -c 1 -f icmp 2>&1
			exec 5<&${COPROC[0]}; pid=$COPROC_PID
			for i in {1..40}; do kill -0 $pid 2>/dev/null && ping -c 2 -i 0.2 127.0.0.1 >/dev/null; done
			cat <&5`, want: "Echo (ping) request", alone: true, caps: true},
		{tool: "nft", script: `nft add table inet t && nft list ruleset`, want: "table inet t", alone: true, caps: true},
		{tool: "conntrack", script: `conntrack --version`, want: "conntrack v"},
		{tool: "iostat, mpstat, pidstat", script: `iostat | head -n 1; mpstat | head -n 1; pidstat -p $$ | head -n 1`, want: "Linux"},
		{tool: "psql", script: `psql -h 127.0.0.1 -p 1 -c 'select 1' 2>&1`, want: "Connection refused"},
		{tool: "redis-cli", script: `redis-cli -h 127.0.0.1 -p 1 ping 2>&1`, want: "Connection refused"},
	}
	for _, r := range roots {
		if r.name != "empty" && r.name != "hostile" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			b := newBox(t, img)
			b.bundled(t, ca)
			r.make(t, b)
			for name, why := range b.unstarted(t) {
				t.Errorf("%s: exit status %s", name, why)
			}
			for _, p := range more {
				if out, ok := b.try(t, p); !ok {
					t.Errorf("%s: %q, want %q", p.tool, out, p.want)
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
	s, done, err := b.source(t.Context())
	defer func() {
		if err == nil {
			done()
		}
	}()
	must(t, err)
	out := run(t, qemu+" -E LD_PRELOAD=/nonexistent/preload.so -L "+s.root+" "+s.root+"/bin/true 2>&1")
	if !strings.Contains(out, "preload.so") {
		t.Errorf("it says %q", out)
	}
}
