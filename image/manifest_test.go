package image

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
)

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func sample() *Manifest {
	return &Manifest{
		Profile: "custom", Arch: "amd64", From: "Debian GNU/Linux 12 (bookworm)",
		Inputs: []string{"--add nmap", "--remove vim, and this: too"},
		Files: []File{
			{Name: ".crashcartrc", SHA256: digest("rc"), Size: 2},
			{Name: "bin/bash", SHA256: digest("bash"), Package: "bash-static", Size: 4, Exec: true},
			{Name: "bin/sh", Link: "bash", Package: "bash-static"},
			{Name: "share/a name of ours", SHA256: digest(""), Size: 0},
		},
	}
}

func TestAManifestIsReadAsItWasWritten(t *testing.T) {
	for _, m := range []*Manifest{sample(), {Profile: "min", Arch: "arm64", From: "the machine that built it: Arch Linux"}} {
		text, err := m.Text()
		must(t, err)
		got, err := ParseManifest(text)
		must(t, err)
		if !reflect.DeepEqual(got, m) {
			t.Errorf("\n got %+v\nwant %+v\n%s", got, m, text)
		}
	}
}

func TestAManifestSaysWhereLicencesAndSourcesAre(t *testing.T) {
	text, err := sample().Text()
	must(t, err)
	for _, want := range []string{"\nlicences: share/doc/PACKAGE/copyright\n", "\nsources: apt-get source PACKAGE=VERSION", "snapshot.debian.org"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in it:\n%s", want, text)
		}
	}
}

func TestTheOrderOfFilesDoesNotMatterToTheWriter(t *testing.T) {
	m := sample()
	want, err := m.Text()
	must(t, err)
	m.Files[0], m.Files[2] = m.Files[2], m.Files[0]
	got, err := m.Text()
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// The command in the documentation.
func TestSha256sumChecksAManifest(t *testing.T) {
	need.Tool(t, "sha256sum", "coreutils")
	text, err := sample().Text()
	must(t, err)
	dir := t.TempDir()
	for name, content := range map[string]string{"MANIFEST": string(text), ".crashcartrc": "rc", "bin/bash": "bash", "share/a name of ours": ""} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	out := run(t, "cd "+dir+` && sed -nE 's/^([0-9a-f]{64}) +[x-] +[0-9]+ +[^ ]+ +/\1  /p' MANIFEST | sha256sum -c`)
	if want := ".crashcartrc: OK\nbin/bash: OK\nshare/a name of ours: OK\n"; out != want {
		t.Errorf("\n got %s\nwant %s", out, want)
	}
}

func TestNothingIsWrittenThatWouldNotBeRead(t *testing.T) {
	for what, spoil := range map[string]func(m *Manifest){
		"a newline in a name":        func(m *Manifest) { m.Files[0].Name = "a\nb" },
		"an escape in a name":        func(m *Manifest) { m.Files[0].Name = "a\x1b[2J" },
		"a name that is no UTF-8":    func(m *Manifest) { m.Files[0].Name = "a\xff" },
		"a name that leads out":      func(m *Manifest) { m.Files[0].Name = "../a" },
		"an absolute name":           func(m *Manifest) { m.Files[0].Name = "/a" },
		"a name like a link's line":  func(m *Manifest) { m.Files[0].Name = "a -> b" },
		"a name that ends in blank":  func(m *Manifest) { m.Files[0].Name = "a " },
		"itself":                     func(m *Manifest) { m.Files[0].Name = "MANIFEST" },
		"a name twice":               func(m *Manifest) { m.Files[0].Name = "bin/sh" },
		"no digest":                  func(m *Manifest) { m.Files[0].SHA256 = "" },
		"a digest in capitals":       func(m *Manifest) { m.Files[0].SHA256 = strings.ToUpper(digest("rc")) },
		"a link with a digest":       func(m *Manifest) { m.Files[2].SHA256 = digest("x") },
		"a link with a newline":      func(m *Manifest) { m.Files[2].Link = "a\nb" },
		"a size below zero":          func(m *Manifest) { m.Files[0].Size = -1 },
		"a size of nothing real":     func(m *Manifest) { m.Files[0].Size = 1 << 50 },
		"a package with a blank":     func(m *Manifest) { m.Files[0].Package = "a b" },
		"a package called -":         func(m *Manifest) { m.Files[0].Package = "-" },
		"no profile":                 func(m *Manifest) { m.Profile = "" },
		"a newline in the head":      func(m *Manifest) { m.From = "a\nprofile: min" },
		"a newline in an input":      func(m *Manifest) { m.Inputs[0] = "a\n" },
		"an input that says nothing": func(m *Manifest) { m.Inputs[0] = "" },
	} {
		m := sample()
		spoil(m)
		if text, err := m.Text(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\n%s", what, err, text)
		}
	}
}

func TestABrokenManifestIsRefusedByTheLine(t *testing.T) {
	text, err := sample().Text()
	must(t, err)
	for _, c := range []struct{ old, new, want string }{
		{string(text), "", `MANIFEST: is empty`},
		{string(text), "\n", `MANIFEST:1: the head ends without profile, architecture, from and an empty line`},
		{"a name of ours\n", "a name", `MANIFEST: its last line has no end: it was cut off`},
		{"profile: custom\n", "", `MANIFEST:7: the head ends without profile, architecture, from and an empty line`},
		{"profile: custom", "profile custom", `MANIFEST:1: "profile custom": not of the form "key: value"`},
		{"profile: custom", "profile: min\nprofile: min", `MANIFEST:2: profile: a second time`},
		{"profile: custom", "colour: red", `MANIFEST:1: "colour": not a key of a MANIFEST`},
		{"\n\n", "\n", `MANIFEST:8: "` + digest("rc")[:60] + `…": not of the form "key: value"`},
		{" .crashcartrc", " zzz", `MANIFEST:10: "bin/bash": after "zzz": not sorted, or named twice`},
		{" .crashcartrc", " ../rc", `MANIFEST:9: "../rc": not a name that a file of the image can have`},
		{" .crashcartrc", " rc\r", `MANIFEST:9: "rc\r": not a name that a file of the image can have`},
		{" .crashcartrc", " MANIFEST", `MANIFEST:9: it lists itself`},
		{digest("rc"), "digest", `MANIFEST:9: "digest  -          2  -            .crashcartrc": not of the form "sha256 x size package name"`},
		{" -> bash", "", `MANIFEST:11: "bin/sh": a link that leads nowhere`},
		{"0  bash-static  bin/sh", "7  bash-static  bin/sh", `MANIFEST:11: bin/sh: a link with a digest, a size or a mode`},
		{"        2  -", "9999999999999  -", `MANIFEST:9: .crashcartrc: 9999999999999: not the size of a file`},
	} {
		broken := strings.Replace(string(text), c.old, c.new, 1)
		if _, err := ParseManifest([]byte(broken)); err == nil || err.Error() != c.want {
			t.Errorf("%q for %q:\n got %v\nwant %s", c.new, c.old, err, c.want)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	text, err := sample().Text()
	must(f, err)
	f.Add(text)
	f.Add([]byte("profile: min\narchitecture: amd64\nfrom: x\n\n"))
	f.Add([]byte("link -> link\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q is not one line", err)
			}
			return
		}
		again, err := m.Text()
		must(t, err)
		back, err := ParseManifest(again)
		must(t, err)
		if !reflect.DeepEqual(back, m) {
			t.Errorf("\n got %+v\nwant %+v", back, m)
		}
	})
}

func TestALockIsReadStrictly(t *testing.T) {
	list, err := ParseLock([]byte("# from here\nbash-static 5.2.15-2+b7 " + digest("a") + "\n\nlibc6 2.36-9+deb12u10 " + digest("b") + " # why\n"))
	must(t, err)
	if want := []Package{{"bash-static", "5.2.15-2+b7", digest("a")}, {"libc6", "2.36-9+deb12u10", digest("b")}}; !reflect.DeepEqual(list, want) {
		t.Errorf("\n got %v\nwant %v", list, want)
	}
	for text, want := range map[string]string{
		"bash 5.2\n":             `packages.lock:1: "bash 5.2": not of the form "package version sha256"`,
		"#\nbash 5.2 abc\n":      `packages.lock:2: "bash 5.2 abc": not of the form "package version sha256"`,
		"a\x1b 1 " + digest("a"): `packages.lock:1: "a\x1b 1 ` + digest("a")[:55] + `…": not of the form "package version sha256"`,
		"a 1 " + digest("a") + "\na 2 " + digest("a"): `packages.lock:2: a: named twice`,
	} {
		if _, err := ParseLock([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
