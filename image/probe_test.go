package image

import (
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

var update = flag.Bool("update", false, "write the matrix into docs/image.md")

// roots are the containers in which everything has to work.
var roots = []struct {
	name string
	make func(t *testing.T, b *box)
}{
	{"empty", func(*testing.T, *box) {}},
	{"busybox, musl", func(t *testing.T, b *box) { b.busybox(t) }},
	{"Debian 11", func(t *testing.T, b *box) { b.bullseye(t) }},
	{"hostile", func(t *testing.T, b *box) { b.poison(t) }},
	{"read-only", func(t *testing.T, b *box) { b.readOnly = true }},
	{"uid 1000", func(t *testing.T, b *box) { b.user = true }},
	{"user namespace", func(t *testing.T, b *box) { b.userns = true }},
}

// probe is a piece of a tool's real work.
type probe struct {
	tool, script, want string
	keys               string // typed at it; with them, it has a terminal
	await              string // what is to be on the screen before
	caps               bool   // a user without capabilities is refused by the kernel
	alone              bool   // on a network of its own, of which it has lo
}

// servers are what probes talk to.
type servers struct{ http, https, dns string }

func probes(s servers) []probe {
	httpPort, dnsPort := portOf(s.http), portOf(s.dns)
	const trace = `/app >/dev/null & p=$!; `
	return []probe{
		{tool: "sort", script: `printf '3\n1\n2\n' | sort | head -n 1`, want: "1\n"},
		{tool: "sha256sum", script: `echo hello | sha256sum`, want: "5891b5b522d5df08"},
		{tool: "grep, sed, awk", script: `printf 'a b\nc d\n' | grep c | sed s/c/x/ | awk '{print $2 $1}'`, want: "dx\n"},
		{tool: "gawk", script: `gawk 'BEGIN { print strftime("%Y", 0, 1), gensub(/b/, "X", "g", "abc") }'`, want: "1970 aXc\n"},
		{tool: "find, xargs", script: `echo x >/tmp/g; find /tmp -name g | xargs cat`, want: "x\n"},
		{tool: "diff", script: `printf 'a\nb\n' >/tmp/1; printf 'a\nc\n' >/tmp/2; diff /tmp/1 /tmp/2`, want: "< b\n---\n> c\n"},
		{tool: "date, TZ", script: `TZ=Europe/Paris date -d @1750000000 +%H:%M:%S%Z; TZ=America/New_York printf '%(%Z)T\n' 0`, want: "17:06:40CEST\nEST\n"},
		{tool: "a locale by name", script: `export LC_ALL=de_DE.UTF-8; x=äöü; echo ${#x}; echo äöü | sed s/./x/g`, want: "3\nxxx\n"},
		{tool: "whoami, id", script: `[ $UID = 1000 ] && echo root || whoami; id -u root; ls -ld /dev/crashcart | cut -d' ' -f3`, want: "root\n0\nroot\n"},
		{tool: "getent", script: `getent passwd root | cut -d: -f1; getent ahosts 127.0.0.1 | head -n 1`, want: "root\n127.0.0.1"},
		{tool: "tar czf", script: `mkdir -p /tmp/d; echo x >/tmp/d/f; tar czf /tmp/d.tgz -C /tmp d && tar tzf /tmp/d.tgz`, want: "d/f\n"},
		{tool: "tar -J, -j, --zstd", script: `mkdir -p /tmp/d; echo x >/tmp/d/f; for a in -J -j --zstd; do tar -c $a -f /tmp/d.t -C /tmp d; tar xOf /tmp/d.t d/f; done`, want: "x\nx\nx\n"},
		{tool: "gzip, pigz", script: `echo x | pigz | zcat; echo y | gzip | unpigz; echo z | gzip >/tmp/z.gz; zgrep z /tmp/z.gz`, want: "x\ny\nz\n"},
		{tool: "bzip2, xz, zstd", script: `echo x | bzip2 | bzcat; echo x | xz | xzcat; echo x | zstd -q | zstdcat`, want: "x\nx\nx\n"},
		{tool: "less", script: `less /dev/crashcart/packages.lock`, keys: "/gdb\nq", want: "bash-static"},
		{tool: "vim", script: `echo abc >/tmp/v; vim /tmp/v; cat /tmp/v; ls -A ~ /tmp 2>/dev/null | grep -c viminfo`, keys: ":s/b/X/\n:wq\n", want: "aXc\r\n0"},
		{tool: "vim, :!", script: `vim -c '!echo sh=$((40+2))' -c q`, keys: "\n", want: "sh=42"},
		{tool: "vim, help", script: `vim -c 'help tabstop'`, await: "Number of spaces", keys: ":qa\n", want: "tabstop"},
		{tool: "vim, colours", script: `vim -c 'set ft=c' -c 'redir! >/tmp/r' -c 'silent syntax list cComment' -c qa; grep -c ^cComment /tmp/r`, keys: "\n", want: "1\r\n"},
		{tool: "vi", script: `echo abc >/tmp/v; printf ':s/b/X/\n:wq\n' | vi -es /tmp/v; cat /tmp/v`, want: "aXc\n"},
		{tool: "nano", script: `nano /tmp/n; cat /tmp/n`, await: "New File", keys: "hello nano\x0f\r\x18", want: "hello nano\r\n"},
		{tool: "htop", script: `htop -d 2; ls -A ~/.config 2>&1 | grep -c '^htop$'`, await: "Load average", keys: "q", want: "0\r\n"},
		{tool: "top", script: `top -b -n 1 | head -n 1`, want: "load average"},
		{tool: "ps, pgrep", script: `ps -o pid=,args= -p $$ | grep -c bash; pgrep -c bash >/dev/null && echo found`, want: "1\nfound\n"},
		{tool: "pstree", script: `pstree -p $$; true`, want: "bash("},
		{tool: "lsof", script: `lsof -p $$ 2>/dev/null | grep crashcart/bin/bash`, want: "txt"},
		{tool: "fuser", script: `exec 7>/tmp/held; fuser /tmp/held 2>/dev/null | grep -wc $$`, want: "1\n"},
		{tool: "file", script: `file -L /dev/crashcart/bin/ls`, want: "interpreter /dev/crashcart/ld.so"},
		{tool: "readelf, nm, strings, size", script: `readelf -l /dev/crashcart/bin/ls | grep -o 'interpreter: .*]'; nm -D /dev/crashcart/lib/libz.so.1 | grep -c ' T crc32$'; strings /dev/crashcart/bin/ls | grep -c '^ls: ' >/dev/null; size -A /dev/crashcart/bin/ls | grep -c '^.text'`, want: "interpreter: /dev/crashcart/ld.so]\n1\n1\n"},
		{tool: "objdump", script: `objdump -d --no-show-raw-insn /dev/crashcart/bin/true | grep -c ret >/dev/null && echo ok`, want: "ok\n"},
		{tool: "strace, a command", script: `strace -e trace=execve true 2>&1`, want: `execve("/dev/crashcart/bin/true"`},
		{tool: "strace -p, of a musl process", script: trace + `timeout -s INT 3 strace -qq -p $p -e trace=write 2>&1 | head -n 2; kill $p`, want: `write(1, ".", 1)`},
		{tool: "gdb -p, of a musl process", script: trace + `gdb -q -batch -p $p -ex 'break spin' -ex continue -ex bt 2>&1; kill $p`, want: "in main ()"},
		{tool: "gdb, its shell", script: `gdb -q -batch -ex '!echo sh=$((40+2))'`, want: "sh=42"},
		{tool: "ltrace", script: `ltrace -e strlen+puts /dev/crashcart/bin/true 2>&1 | tail -n 1`, want: "exited (status 0)"},
		{tool: "ip", script: `ip -o addr show dev lo`, want: "127.0.0.1"},
		{tool: "ss", script: `ss -Hltn "sport = ` + httpPort + `"`, want: httpPort},
		{tool: "curl", script: `curl -s ` + s.http, want: "hello"},
		{tool: "curl, https", script: `curl -sS ` + s.https, want: "hello"},
		{tool: "curl, https, nobody vouches", script: `curl -s --cacert /dev/crashcart/C.utf8/LC_TIME ` + s.https + ` || echo refused`, want: "refused\n"},
		{tool: "wget, https", script: `wget -q -O - ` + s.https + `; ls -A ~ 2>/dev/null | grep -c hsts`, want: "hello0\n"},
		{tool: "openssl s_client", script: `openssl s_client -brief -connect ` + strings.TrimPrefix(s.https, "https://") + ` </dev/null 2>&1`, want: "Verification: OK"},
		{tool: "openssl x509", script: `openssl x509 -noout -subject -in /dev/crashcart/ca.crt`, want: "subject="},
		{tool: "dig", script: `dig +short @127.0.0.1 -p ` + dnsPort + ` web.example`, want: "192.0.2.7\n"},
		{tool: "host, nslookup", script: `host -p ` + dnsPort + ` web.example 127.0.0.1 | tail -n 1; nslookup -port=` + dnsPort + ` web.example 127.0.0.1 | grep -c 192.0.2.7`, want: "has address 192.0.2.7\n1\n"},
		{tool: "nc", script: `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 3 127.0.0.1 ` + httpPort + ` | tail -n 1`, want: "hello"},
		{tool: "socat", script: `printf 'GET / HTTP/1.0\r\n\r\n' | socat -t 3 - TCP:127.0.0.1:` + httpPort + ` | tail -n 1`, want: "hello"},
		{tool: "jq", script: `echo '{"a":[1,{"b":"x"}]}' | jq -c '.a[1].b'`, want: `"x"` + "\n"},
		{tool: "hexdump, column", script: `printf AB | hexdump -C | head -n 1; printf 'a bb\nccc d\n' | column -t`, want: "41 42"},
		{tool: "iconv", script: `printf 'ä' | iconv -f UTF-8 -t UTF-16LE | od -An -tx1`, want: "e4 00"},
		{tool: "man", script: `man tcpdump | grep -c 'dump traffic on a network'; man 7 pcap-filter | grep -q primitives && echo 7; man -k cap-filt; man nosuchtool 2>/dev/null || echo none`, want: "1\n7\npcap-filter(7)\nnone\n"},
		{tool: "man, in a pager", script: `man less`, await: "LESS(1)", keys: "q", want: "SYNOPSIS"},
		{tool: "terminals", script: `for t in xterm-256color xterm-kitty foot xterm-ghostty wezterm alacritty tmux-256color screen; do tput -T $t cols || echo no $t; done | sort -u`, want: "80\n"},
		{tool: "script", script: `script -qc 'tty' /dev/null`, want: "/dev/pts/"},
		{tool: "flock, timeout, watch", script: `flock /tmp/lock timeout 5 watch -t -n 1 -g true; echo $?`, keys: "\x03", want: ""},
		{tool: "findmnt, lsns", script: `findmnt -n -o FSTYPE -T /dev/crashcart; lsns -n -o TYPE -p $$ | grep -c mnt`, want: "squashfs\n1\n"},
		{tool: "ping", script: `ping -c 1 -W 3 127.0.0.1`, want: "1 received", alone: true, caps: true},
		{tool: "tracepath", script: `tracepath -n -m 2 127.0.0.1`, want: " 1:  127.0.0.1", alone: true},
		{tool: "traceroute", script: `traceroute -n -m 2 127.0.0.1`, want: " 1  127.0.0.1", alone: true},
		{tool: "mtr", script: `mtr -n -r -c 1 127.0.0.1`, want: "127.0.0.1", alone: true, caps: true},
		{tool: "ethtool", script: `ethtool -k lo | head -n 1`, want: "Features for lo", alone: true},
		{tool: "tcpdump", script: `
			coproc tcpdump -n -c 1 -i lo -w /tmp/p -U icmp 2>&1
			exec 5<&${COPROC[0]}
			while read -r -u 5 line && [[ $line != *listening* ]]; do :; done
			ping -c 1 127.0.0.1 >/dev/null
			wait $COPROC_PID; tcpdump -n -r /tmp/p 2>&1`, want: "127.0.0.1 > 127.0.0.1: ICMP echo request", alone: true, caps: true},
		{tool: "ngrep", script: `
			coproc timeout 10 ngrep -l -n 1 -d lo '' icmp 2>&1
			exec 5<&${COPROC[0]}; pid=$COPROC_PID
			for i in {1..20}; do kill -0 $pid 2>/dev/null && ping -c 1 -p 6e65656465 127.0.0.1 >/dev/null; done
			cat <&5`, want: "needen", alone: true, caps: true},
	}
}

func portOf(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }

// versionOf are the ways of commands to say something and succeed: arguments,
// or after "!" the whole.
var versionOf = map[string]string{
	"false": "--version || true", "true": "--version", "test": "a = a && echo yes", "[": "a = a ] && echo yes",
	"bridge": "-V", "clear": "-V", "getopt": "-V", "hostname": "-V", "infocmp": "-V", "ip": "-V", "killall": "-V", "fuser": "-V", "kill": "-V",
	"nstat": "-V", "rtacct": "-V", "ping": "-V", "pstree": "-V", "reset": "-V", "ss": "-V", "strace": "-V", "tc": "-V", "tput": "-V", "tracepath": "-V", "tset": "-V",
	"arping": "-V", "genl": "-V", "devlink": "-V", "rdma": "-V", "ngrep": "-V", "tabs": "-V", "nsupdate": "-V", "host": "-V",
	"nc": "-h", "nc.openbsd": "-h", "netcat": "-h", "mawk": "-W version", "awk": "-W version", "lsof": "-v", "getpcaps": "1", "capsh": "--print",
	"dig": "-v", "delv": "-v", "nslookup": "-version", "openssl": "version", "socat": "-V", "filan": "-h", "procan": "-h",
	"bzip2recover": "! ./bzip2recover 2>&1 | grep recover", "rtmon": "! ./rtmon help 2>&1 | grep rtmon",
	"lnstat": "! ./lnstat -V 2>&1 | grep Version", "ctstat": "! ./ctstat -V 2>&1 | grep Version", "rtstat": "! ./rtstat -V 2>&1 | grep Version",
	"mtr-packet": "! ./mtr-packet 2>&1 <<<'1 check-support feature ip-4' || true", "mandoc": "/dev/crashcart/share/man/man1/less.1.gz", "demandoc": "/dev/crashcart/share/man/man1/less.1.gz",
	"man": "tcpdump", "which": "bash", "pidof": "bash", "netstat": "! ./netstat -V | grep net-tools", "ifconfig": "! ./ifconfig -V | grep net-tools", "route": "! ./route -V | grep net-tools",
	"arp": "! ./arp -V 2>&1 | grep net-tools", "unzip": "-v", "lzcat": "--version", "compress": "! ./compress -V 2>&1", "uncompress": "! ./uncompress -V 2>&1", "lsattr": "-V", "chattr": "! ./chattr -V 2>&1 | grep -i usage", "xxd": "-v", "gcore": "! ./gcore 2>&1 | grep usage",
	"tmux": "-V", "ncat": "--version", "iperf3": "--version", "nft": "--version", "conntrack": "--version", "sar": "-V", "sadf": "-V",
	"mpstat": "-V", "iostat": "-V", "pidstat": "-V", "tapestat": "-V", "cifsiostat": "-V",
}

// started lists the commands that do not start in a box.
func (b *box) unstarted(t *testing.T) map[string]string {
	t.Helper()
	var script strings.Builder
	script.WriteString("cd " + Root + "/bin; export PAGER=cat\n")
	for _, name := range b.commands(t) {
		args, ok := versionOf[name]
		if !ok {
			args = "--version"
		}
		call, whole := strings.CutPrefix(args, "! ")
		if !whole {
			call = "./" + name + " " + args + " 2>&1 </dev/null"
		}
		fmt.Fprintf(&script, "out=$(%s); code=$?; [ $code = 0 ] && [ -n \"$out\" ] || echo \"FAILS %s $code: ${out:0:200}\"\n", call, name)
	}
	script.WriteString("echo all asked\n")
	out, code := b.bash(t, script.String())
	if code != 0 || !strings.HasSuffix(out, "all asked\n") {
		t.Fatalf("exit status %d: %s", code, out)
	}
	bad := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		if rest, ok := strings.CutPrefix(line, "FAILS "); ok && !strings.Contains(rest, "is not in the tools image") {
			name, why, _ := strings.Cut(rest, " ")
			bad[name] = why
		}
	}
	return bad
}

func (b *box) commands(t *testing.T) []string {
	t.Helper()
	out, _ := b.bash(t, "cd "+Root+"/bin; printf '%s\\n' *")
	names := strings.Fields(out)
	if len(names) < 100 {
		t.Fatalf("only %d commands: %q", len(names), names)
	}
	return names
}

func (b *box) try(t *testing.T, p probe) (out string, ok bool) {
	t.Helper()
	b.netns = p.alone
	if p.keys != "" {
		out = b.typedAfter(t, p.await, p.keys, Root+"/bin/bash", "-c", p.script)
	} else {
		out, _ = b.bash(t, p.script)
	}
	return out, strings.Contains(out, p.want)
}

func serveProbes(t *testing.T) (servers, []byte) {
	t.Helper()
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	web := httptest.NewServer(hello)
	t.Cleanup(web.Close)
	tls := httptest.NewUnstartedServer(hello)
	tls.Config.ErrorLog = log.New(io.Discard, "", 0) // the client's refusal is meant
	tls.StartTLS()
	t.Cleanup(tls.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw})
	return servers{http: web.URL, https: tls.URL, dns: nameServer(t)}, ca
}

// nameServer answers every question with 192.0.2.7, and returns its address.
func nameServer(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() { // ends with the socket
		buf := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 12 {
				continue
			}
			// RFC 1035: the head, the question as it was, and one A record that
			// points back to its name.
			end := 12
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5
			answer := append(slices.Clone(buf[:2]), 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0)
			answer = append(answer, buf[12:end]...)
			if buf[end-3] != 1 { // of another type there is none
				answer[7] = 0
			} else {
				answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7)
			}
			c.WriteTo(answer, from)
		}
	}()
	return c.LocalAddr().String()
}

// app is a program that writes, and sleeps, and does it again: linked to musl.
func (b *box) app(t *testing.T, flags string) {
	t.Helper()
	gcc := need.Tool(t, "musl-gcc", "musl-tools")
	src := filepath.Join(t.TempDir(), "app.c")
	must(t, os.WriteFile(src, []byte(`
		#include <unistd.h>
		__attribute__((noinline)) void spin(void) { usleep(10000); }
		int main(void) { for (;;) { write(1, ".", 1); spin(); } }`), 0o600))
	run(t, gcc+" -g "+flags+" -o "+b.root+"/app "+src)
}

// bundled has the image's certificates in the box, and this one.
func (b *box) bundled(t *testing.T, ca []byte) {
	t.Helper()
	bundle, _ := b.bash(t, "cat /dev/crashcart/share/ca-certificates.crt")
	if strings.Count(bundle, "BEGIN CERTIFICATE") < 50 {
		t.Fatalf("these are no certificates: %.100q", bundle)
	}
	b.write(t, "bundle.crt", bundle+string(ca))
}

// The matrix of docs/image.md is made of this.
func TestEveryToolWorksInEveryContainer(t *testing.T) {
	img := debianImage(t)
	with, ca := serveProbes(t)
	results := newMatrix(probes(with))
	for _, r := range roots {
		t.Run(r.name, func(t *testing.T) {
			b := newBox(t, img)
			b.app(t, "-static")
			b.bundled(t, ca)
			r.make(t, b)
			bad := b.unstarted(t)
			for name, why := range bad {
				t.Errorf("%s: exit status %s", name, why)
			}
			results.started(r.name, bad)
			for _, p := range probes(with) {
				out, ok := b.try(t, p)
				refused := p.caps && b.user
				if ok == refused {
					t.Errorf("%s: works: %v: %q, want %q", p.tool, ok, out, p.want)
				}
				results.worked(r.name, p, ok)
			}
			if exists(b.root + "/mark") {
				t.Error("code of the container ran")
			}
		})
	}
	results.compare(t)
}

// The machine's own tools, moved, are no worse where they are there.
func TestToolsOfTheMachineStartInEveryContainer(t *testing.T) {
	for _, r := range roots {
		if r.name != "empty" && r.name != "hostile" && r.name != "Debian 11" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			b := newBox(t, hostImage(t))
			r.make(t, b)
			for name, why := range b.unstarted(t) {
				t.Errorf("%s: exit status %s", name, why)
			}
			if exists(b.root + "/mark") {
				t.Error("code of the container ran")
			}
		})
	}
}
