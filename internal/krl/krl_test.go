package krl_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"go/parser"
	"go/token"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/krl"
)

// A bench has keys, authorities and certificates of ssh-keygen's making.
type bench struct {
	t   *testing.T
	dir string
}

func newBench(t *testing.T) *bench {
	b := &bench{t, t.TempDir()}
	for _, name := range []string{"ca", "other", "alice", "bob"} {
		b.keygen("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", b.path(name))
	}
	b.keygen("-q", "-t", "ecdsa", "-N", "", "-C", "ecdsa", "-f", b.path("ecdsa"))
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) keygen(args ...string) {
	b.t.Helper()
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
}

func (b *bench) write(name, text string) string {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// cert makes a certificate, and returns the name of its file.
func (b *bench) cert(ca, key, id string, serial uint64) string {
	b.t.Helper()
	b.keygen("-q", "-s", b.path(ca), "-I", id, "-n", "x", "-z", fmt.Sprint(serial), b.path(key+".pub"))
	name := fmt.Sprintf("%s-%s-%s-%d.pub", ca, key, id, serial)
	if err := os.Rename(b.path(key+"-cert.pub"), b.path(name)); err != nil {
		b.t.Fatal(err)
	}
	return name
}

func (b *bench) key(name string) ssh.PublicKey {
	b.t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(b.read(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return key
}

// list makes one of a specification, with ca as the authority of its serial
// numbers and key IDs; "none": any.
func (b *bench) list(name, ca, spec string) {
	b.t.Helper()
	if ca != "none" {
		ca = b.path(ca + ".pub")
	}
	b.keygen("-q", "-k", "-f", b.path(name), "-s", ca, b.write(name+".spec", spec))
}

func (b *bench) parse(name string) *krl.List {
	b.t.Helper()
	l, err := krl.Parse(name, b.read(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

// revoked is what ssh-keygen says.
func (b *bench) revoked(list, name string) bool {
	b.t.Helper()
	out, err := exec.Command("ssh-keygen", "-Q", "-f", b.path(list), b.path(name)).CombinedOutput()
	if (err != nil) != bytes.Contains(out, []byte("REVOKED")) {
		b.t.Fatalf("ssh-keygen -Q: %v\n%s", err, out)
	}
	return err != nil
}

func TestItIsRevokedIfSSHKeygenSaysSo(t *testing.T) {
	b := newBench(t)
	names := []string{"ca.pub", "alice.pub", "bob.pub", "ecdsa.pub"}
	for _, ca := range []string{"ca", "other"} {
		for _, serial := range []uint64{0, 1, 2, 4, 5, 9, 10, 11, 63, 64, 65, 1000, math.MaxUint64} {
			names = append(names, b.cert(ca, "alice", "alice@corp", serial))
		}
		names = append(names, b.cert(ca, "bob", "bob@corp", 7), b.cert(ca, "ecdsa", "ci", 8))
	}
	line := func(name string) string { return strings.TrimSpace(string(b.read(name))) }
	lists := map[string]struct{ ca, spec string }{
		"nothing":     {"none", ""},
		"serial":      {"ca", "serial: 1\n"},
		"list":        {"ca", "serial: 1\nserial: 1000\nserial: 70000\n"},
		"range":       {"ca", "serial: 5-10\n"},
		"long range":  {"ca", "serial: 2-100000\n"},
		"bitmap":      {"ca", "serial: 1\nserial: 4\nserial: 9\nserial: 11\nserial: 63\nserial: 65\nserial: 67\nserial: 71\n"},
		"top":         {"ca", "serial: 18446744073709551615\n"},
		"to the top":  {"ca", "serial: 11-18446744073709551615\n"},
		"id":          {"ca", "id: alice@corp\n"},
		"id of any":   {"none", "id: alice@corp\n"},
		"serial, any": {"none", "serial: 5-10\n"},
		"key":         {"none", "key: " + line("alice.pub") + "\n"},
		"keys":        {"none", line("alice.pub") + "\n" + line("ecdsa.pub") + "\n"},
		"sha1":        {"none", "sha1: " + line("bob.pub") + "\n"},
		"sha256":      {"none", "sha256: " + line("bob.pub") + "\nsha256: " + line("ecdsa.pub") + "\n"},
		"hash":        {"none", "hash: " + ssh.FingerprintSHA256(b.key("ecdsa.pub")) + "\n"},
		"authority":   {"none", "key: " + line("ca.pub") + "\n"},
		"by hash":     {"none", "sha1: " + line("other.pub") + "\n"},
		"mixed":       {"other", "serial: 1-4\nid: ci\nkey: " + line("bob.pub") + "\nsha256: " + line("ca.pub") + "\n"},
	}
	yes := 0
	for list, how := range lists {
		b.list(list, how.ca, how.spec)
		l := b.parse(list)
		for _, name := range names {
			want, why := b.revoked(list, name), l.Revokes(b.key(name))
			if (why != "") != want {
				t.Errorf("%s: %s: ssh-keygen says %v, we say %q", list, name, want, why)
			}
			if want {
				yes++
			}
		}
	}
	if yes < 60 {
		t.Errorf("only %d were revoked at all", yes)
	}
}

func TestTheReasonNamesWhatIsRevoked(t *testing.T) {
	b := newBench(t)
	cert := b.key(b.cert("ca", "alice", "alice@corp", 7))
	line := func(name string) string { return string(b.read(name)) }
	for spec, want := range map[string]string{
		"serial: 7\n":      "the certificate with the serial number 7 is revoked",
		"id: alice@corp\n": `certificates with the key ID "alice@corp" are revoked`,
		line("alice.pub"):  "key " + ssh.FingerprintSHA256(b.key("alice.pub")) + " is revoked",
		line("ca.pub"):     "authority " + ssh.FingerprintSHA256(b.key("ca.pub")) + " is revoked",
		line("bob.pub"):    "",
	} {
		b.list("list", "ca", spec)
		if got := b.parse("list").Revokes(cert); got != want {
			t.Errorf("%q: %q, want %q", spec, got, want)
		}
		os.Remove(b.path("list"))
	}
}

func TestAPlainFileHasAKeyALine(t *testing.T) {
	b := newBench(t)
	text := "# gone since May\n\n" + string(b.read("alice.pub")) + "\t" + ssh.FingerprintSHA256(b.key("bob.pub")) + " bob's\r\n"
	b.write("plain", text)
	l := b.parse("plain")
	for name, want := range map[string]bool{"alice.pub": true, "bob.pub": true, "ca.pub": false, b.cert("ca", "alice", "x", 0): true} {
		if got := l.Revokes(b.key(name)); (got != "") != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	b.write("authority", string(b.read("ca.pub")))
	if b.parse("authority").Revokes(b.key(b.cert("ca", "bob", "x", 1))) == "" {
		t.Error("what a revoked authority signed is believed")
	}
	b.write("empty", "#\n")
	if got := b.parse("empty").Revokes(b.key("alice.pub")); got != "" {
		t.Errorf("an empty file: %q", got)
	}
}

func TestEachBadLineIsAProblemOfItsOwn(t *testing.T) {
	b := newBench(t)
	cert := string(b.read(b.cert("ca", "alice", "x", 1)))
	text := "hello\n# fine\nssh-ed25519 AA!A\nssh-rsa " + strings.Fields(string(b.read("bob.pub")))[1] + "\nSHA256:abc\n" + cert
	_, err := krl.Parse("/etc/revoked", []byte(text))
	const line = "neither a public key nor a fingerprint (SHA256:…), and no list that ssh-keygen -k made"
	want := "/etc/revoked:1:1: " + line + "\n/etc/revoked:3:1: " + line + "\n/etc/revoked:4:1: " + line +
		"\n/etc/revoked:5:1: a damaged fingerprint: copy all that ssh-keygen -l prints of it" +
		"\n/etc/revoked:6:1: a certificate: write its key, or have ssh-keygen -k revoke it by its serial number"
	if fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// What follows makes lists that ssh-keygen does not.

func header(flags uint64) []byte {
	b := []byte("SSHKRL\n\x00")
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, 3)
	b = binary.BigEndian.AppendUint64(b, 1700000000)
	b = binary.BigEndian.AppendUint64(b, flags)
	return append(append(b, str("")...), str("a comment")...)
}

func str[T string | []byte](s T) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

func section(kind byte, parts ...[]byte) []byte {
	return append([]byte{kind}, str(bytes.Join(parts, nil))...)
}

func numbers(list ...uint64) (b []byte) {
	for _, n := range list {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// certs is a section of certificates of any authority.
func certs(parts ...[]byte) []byte {
	return section(1, append([][]byte{str(""), str("")}, parts...)...)
}

func with(sections ...[]byte) []byte { return append(header(0), bytes.Join(sections, nil)...) }

func TestWhatIsNoListIsRefused(t *testing.T) {
	key := publicKey().Marshal()
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "is empty: write a # if nothing is revoked"},
		{"only the magic", []byte("SSHKRL\n\x00"), "is cut short"},
		{"another format", append([]byte("SSHKRL\n\x00"), 0, 0, 0, 2), "is of format 2, and only 1 is read"},
		{"flags", header(1), "has flags 0x1, and none are known"},
		{"unknown section", with(section(6)), "section 6 is of a kind that is not known"},
		{"signature", with(append(section(4, key), str("x")...)), "section 4 is a signature, and those are not checked: make the list without, as ssh-keygen -k does"},
		{"section cut short", with(section(2, str(key)))[:60], "section 2 is cut short"},
		{"section without data", with([]byte{2}), "section 2 is cut short"},
		{"key cut short", with(section(2, str(key)[:20])), "section 2 is cut short"},
		{"endless string", with(section(2, []byte{255, 255, 255, 255, 0})), "section 2 is cut short"},
		{"short hash", with(section(3, str("0123456789"))), "section 3 has a hash of 10 bytes, and 20 are one"},
		{"SHA1 for SHA256", with(section(5, str(strings.Repeat("x", 20)))), "section 5 has a hash of 20 bytes, and 32 are one"},
		{"critical extension", with(section(255, str("x@y"), []byte{1}, str(""))), `section 255 is the critical extension "x@y", which is not known`},
		{"long extension", with(section(255, str("x@y"), []byte{0}, str(""), []byte{0})), "section 255 has more in it than it should"},
		{"short extension", with(section(255, str("x@y"))), "section 255 is cut short"},
		{"no authority", with(section(1)), "section 1 is cut short"},
		{"bad authority", with(section(1, str("key"), str(""))), "section 1 names an authority that is no key"},
		{"unknown part", with(certs(section(0x24))), "section 1 of certificates: part 0x24 is of a kind that is not known"},
		{"half a serial", with(certs(section(0x20, numbers(1), []byte{1}))), "section 1 of certificates: part 0x20 is cut short"},
		{"serial 0", with(certs(section(0x20, numbers(0)))), "part 0x20 has the serial numbers 0 to 0, and those are none"},
		{"backward range", with(certs(section(0x21, numbers(5, 4)))), "part 0x21 has the serial numbers 5 to 4, and those are none"},
		{"range of three", with(certs(section(0x21, numbers(4, 5, 6)))), "part 0x21 has more in it than it should"},
		{"range of one", with(certs(section(0x21, numbers(4)))), "part 0x21 is cut short"},
		{"negative bitmap", with(certs(section(0x22, numbers(1), str("\x80")))), "part 0x22 has a negative bitmap"},
		{"bitmap with 0", with(certs(section(0x22, numbers(0), str("\x01")))), "part 0x22 has the serial number 0, which is none"},
		{"bitmap off the end", with(certs(section(0x22, numbers(math.MaxUint64-2), str("\x08")))), "part 0x22 has a bitmap beyond the largest serial number"},
		{"critical part", with(certs(section(0x39, str("x@y"), []byte{1}, str("")))), `part 0x39 is the critical extension "x@y", which is not known`},
	} {
		l, err := krl.Parse("f", test.data)
		if l != nil || err == nil || !strings.HasPrefix(err.Error(), "f:1:1: revocation list: ") || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%s: %v, %v", test.name, l, err)
		}
	}
}

func TestWhatMayBePassedOverIs(t *testing.T) {
	data := with(section(255, str("x@y"), []byte{0}, str("body")),
		certs(section(0x39, str("x@y"), []byte{0}, str("")), section(0x20, numbers(7, 9, 8)), section(0x22, numbers(math.MaxUint64-2), str("\x00\x07")), section(0x22, numbers(100), str(""))))
	l, err := krl.Parse("f", data)
	if err != nil {
		t.Fatal(err)
	}
	for serial, want := range map[uint64]bool{0: false, 6: false, 7: true, 8: true, 9: true, 10: false, 100: false, math.MaxUint64: true, math.MaxUint64 - 2: true, math.MaxUint64 - 3: false} {
		cert := &ssh.Certificate{Key: publicKey(), SignatureKey: publicKey(), Serial: serial}
		if got := l.Revokes(cert); (got != "") != want {
			t.Errorf("%d: %q", serial, got)
		}
	}
}

func TestNoListRevokesNothing(t *testing.T) {
	for _, l := range []*krl.List{nil, {}} {
		for _, key := range []ssh.PublicKey{nil, publicKey(), &ssh.Certificate{Key: publicKey(), SignatureKey: publicKey(), Serial: 1}} {
			if got := l.Revokes(key); got != "" {
				t.Errorf("%v: %q", key, got)
			}
		}
	}
}

func publicKey() ssh.PublicKey {
	seed := sha256.Sum256([]byte("key"))
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		panic(err)
	}
	return key
}

// Whatever the bytes are, there is a list or a problem with a place.
func FuzzParse(f *testing.F) {
	key := publicKey().Marshal()
	f.Add([]byte("# comment\n\nssh-ed25519 AAAA x\nSHA256:x\n"))
	f.Add(ssh.MarshalAuthorizedKey(publicKey()))
	f.Add(with(section(2, str(key)), section(3, str(strings.Repeat("x", 20))), section(5, str(strings.Repeat("x", 32)))))
	f.Add(with(section(1, str(key), str(""), section(0x20, numbers(1, 3)), section(0x21, numbers(5, 9)), section(0x22, numbers(1), str("\x7f\x01")), section(0x23, str("id")))))
	f.Add(with(section(255, str("x@y"), []byte{0}, str("body")), section(4, key)))
	cert := &ssh.Certificate{Key: publicKey(), SignatureKey: publicKey(), Serial: 7, KeyId: "id"}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := krl.Parse("f", data)
		if (l == nil) != (err != nil) {
			t.Fatalf("%v and %v", l, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "f:") {
			t.Fatal(err)
		}
		l.Revokes(publicKey())
		l.Revokes(cert)
	})
}

// It is a room: the others know it as a func.
func TestItKnowsNoOtherRoom(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			_, ours, ok := strings.Cut(i.Path.Value, "/internal/")
			if ok && ours != `strictyaml"` && ours != `krl"` {
				t.Errorf("%s imports %s", file, i.Path.Value)
			}
		}
	}
}
