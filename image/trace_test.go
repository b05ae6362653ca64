package image

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// meant are the files of a container that tools are there to read: who people
// are, how names are looked up, what time it is, what its kernel says.
var meant = []string{
	"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
	"/etc/localtime", "/etc/os-release", "/etc/mtab", "/etc/fstab", "/var/run/utmp", "/run/utmp", "/etc/iproute2/",
	"/proc", "/sys", "/dev", "/tmp", "mandoc.db", // which is the image's
}

var opened = regexp.MustCompile(`(?m)(?:open|openat|openat2|execve|creat)\((?:AT_FDCWD, )?"([^"]*)"`)

// strangers are the files of the container that a command opened, or would
// have if they had been there, and was not meant to.
func (b *box) strangers(t *testing.T, keys, await, command string) []string {
	t.Helper()
	script := "strace -f -qq -e trace=open,openat,openat2,execve,creat -o /tmp/trace " + command
	var seen string
	if await != "" {
		seen = b.typedAfter(t, await, keys, Root+"/bin/bash", "-c", script)
	} else {
		seen, _ = b.bash(t, script)
	}
	trace, _ := b.bash(t, "cat /tmp/trace")
	all := opened.FindAllStringSubmatch(trace, -1)
	if len(all) < 2 {
		t.Fatalf("%s: no trace: %q; it said %q", command, trace, seen)
	}
	var strange []string
	for _, m := range all {
		ok := slices.ContainsFunc(meant, func(p string) bool { return m[1] == p || strings.HasPrefix(m[1], strings.TrimSuffix(p, "/")+"/") })
		if !ok && m[1] != "" && m[1] != "." && !strings.HasSuffix(m[1], "/") { // a folder is no file
			strange = append(strange, m[1])
		}
	}
	slices.Sort(strange)
	return slices.Compact(strange)
}

// The processes of a container are in another mount namespace than a session.
func TestGDBNamesFunctionsOfAContainersProcess(t *testing.T) {
	b := newBox(t, debianImage(t))
	b.busybox(t) // and the program is linked to musl, dynamically
	c, send := b.command(t, []string{"/app"})
	must(t, c.Start())
	send()
	defer c.Process.Kill()
	b.want(t, fmt.Sprintf(`while [[ $(</proc/%[1]d/comm) != app ]]; do :; done
		setpriv --bounding-set=-sys_admin gdb -q -batch /app -p %[1]d -ex 'break spin' -ex continue -ex bt 2>&1`, c.Process.Pid), "in main ()")
}

func TestNoToolOpensAFileOfTheContainerUnasked(t *testing.T) {
	with, _ := serveProbes(t)
	b := newBox(t, debianImage(t))
	b.poison(t)
	b.write(t, "tmp/x.json", "{}\n")
	b.env = append(b.env, "LESSHISTFILE=-") // as sessions have it
	for _, c := range []struct{ command, await, keys string }{
		{"bash -i", ":/# ", "exit\r"},
		{"bash -li", ":/# ", "exit\r"},
		{"ls -l /tmp", "", ""},
		{"ps aux", "", ""},
		{"top -b -n 1", "", ""},
		{"htop", "Load average", "q"},
		{"less /tmp/x.json", "{}", "q"},
		{"vim /tmp/x.json", "{}", ":q\r"},
		{"nano /tmp/x.json", "Read 1 line", "\x18"},
		{"gdb -q -batch -ex 'info os'", "", ""},
		{"gdb -q -batch -ex '!true'", "", ""},
		{"strace -o /dev/null true", "", ""},
		{"ltrace -o /dev/null true", "", ""},
		{"tcpdump -D", "", ""},
		{"curl -s " + with.http, "", ""},
		{"curl -s " + with.https, "", ""},
		{"wget -q -O /dev/null " + with.http, "", ""},
		{"openssl s_client -connect " + strings.TrimPrefix(with.https, "https://"), "", ""},
		{"dig @127.0.0.1 -p " + portOf(with.dns) + " web.example", "", ""},
		{"host -p " + portOf(with.dns) + " web.example 127.0.0.1", "", ""},
		{"jq . /tmp/x.json", "", ""},
		{"gawk 'BEGIN { print 1 }'", "", ""},
		{"ip addr", "", ""},
		{"ss -tln", "", ""},
		{"lsof -p 1", "", ""},
		{"tar czf /tmp/a.tgz /tmp/x.json", "", ""},
		{"file /tmp/x.json", "", ""},
		{"date", "", ""},
		{"env TZ=Europe/Paris date", "", ""},
		{"env LC_ALL=de_DE.UTF-8 ls", "", ""},
		{"iconv -f UTF-16 -t UTF-8 /tmp/x.json", "", ""},
		{"man less", "LESS", "q"},
		{"id root", "", ""},
		{"socat -V", "", ""},
		{"mtr --version", "", ""},
		{"xz --version", "", ""},
		{"script -qc true /dev/null", "", ""},
		{"objdump -f /dev/crashcart/bin/true", "", ""},
	} {
		if strange := b.strangers(t, c.keys, c.await, c.command); strange != nil {
			t.Errorf("%s: opened %q", c.command, strange)
		}
	}
	if exists(b.root + "/mark") {
		t.Error("code of the container ran")
	}
}
