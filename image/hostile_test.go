package image

import (
	"os"
	"path/filepath"
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

// poison makes the box's root an enemy's: every file by which a dynamically
// linked program, a shell, an editor or a TLS library can be steered.
func (b *box) poison(t *testing.T) {
	t.Helper()
	gcc := need.Tool(t, "gcc", "gcc")
	src := filepath.Join(t.TempDir(), "evil.c")
	must(t, os.WriteFile(src, []byte(evil), 0o600))
	run(t, gcc+" -shared -fPIC -nostdlib -o "+b.root+"/evil.so "+src)
	code, err := os.ReadFile(b.root + "/evil.so")
	must(t, err)

	for _, dir := range []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib", "lib64"} {
		for _, lib := range []string{
			"libc.so.6", "libtinfo.so.6", "libselinux.so.1", "libcrypto.so.3", "libnss_evil.so.2", "libz.so.1", "libm.so.6", "libcap.so.2", "libpcre2-8.so.0",
			"glibc-hwcaps/x86-64-v2/libc.so.6", "tls/libc.so.6", "gconv/EVIL.so", "engines-3/evil.so", "ossl-modules/evil.so",
			"sasl2/libevil.so", "gss/evil.so", "pkcs11/evil.so", "krb5/plugins/preauth/evil.so", "tc/q_evil.so", "ip/link_evil.so",
		} {
			b.write(t, dir+"/"+lib, string(code))
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
