package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
)

// smallTree is an image's tree of four files, as it should be.
func smallTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	m := &Manifest{Profile: "min", Arch: "amd64", From: "a test"}
	for name, content := range map[string]string{
		"bin/tool": program64(Root+"/ld.so", 0), "bin/script": "#!" + Root + "/bin/bash -p\n:\n",
		"share/text": "text", lockName: "tool 1.0 " + digest("tool") + "\n",
	} {
		f := File{Name: name, SHA256: digest(content), Size: int64(len(content)), Exec: isCommand(name)}
		if f.Exec {
			f.Package = "tool"
		}
		m.Files = append(m.Files, f)
		put(t, dir, name, content, f.Exec)
	}
	must(t, os.Symlink("tool", filepath.Join(dir, "bin/link")))
	m.Files = append(m.Files, File{Name: "bin/link", Link: "tool", Package: "tool"})
	text, err := m.Text()
	must(t, err)
	put(t, dir, manifestName, string(text), false)
	return dir
}

func put(t testing.TB, dir, name, content string, exec bool) {
	t.Helper()
	file, mode := filepath.Join(dir, name), fs.FileMode(0o644)
	if exec {
		mode = 0o755
	}
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(content), mode))
	must(t, os.Chmod(file, mode))
}

// program64 is the headers of a program with this loader, and with this value
// of DT_RUNPATH.
func program64(loader string, runpath uint64) string {
	var out bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	const loaderAt, dynamicAt = 64 + 2*56, 64 + 2*56 + 64
	for _, part := range []any{
		elf.Header64{Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Phoff: 64, Phentsize: 56, Phnum: 2},
		elf.Prog64{Type: uint32(elf.PT_INTERP), Off: loaderAt, Filesz: 64},
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynamicAt, Filesz: 32},
		append([]byte(loader), make([]byte, 64-len(loader))...),
		elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: runpath}, elf.Dyn64{},
	} {
		binary.Write(&out, binary.LittleEndian, part)
	}
	return out.String()
}

// relist makes MANIFEST list a file as it is now: what is wrong with it is then
// not its digest.
func relist(t testing.TB, dir, name string) {
	t.Helper()
	c, err := ReadContents(os.DirFS(dir))
	must(t, err)
	content, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	for i, f := range c.Files {
		if f.Name == name {
			c.Files[i].SHA256, c.Files[i].Size = digest(string(content)), int64(len(content))
		}
	}
	text, err := c.Text()
	must(t, err)
	put(t, dir, manifestName, string(text), false)
}

func faultsOf(t testing.TB, dir string) string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	_, faults, err := Verify(t.Context(), root.FS(), os.Geteuid() == 0)
	must(t, err)
	var lines []string
	for _, f := range faults {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

func TestVerifyFindsNothingInWhatIsAsItWasBuilt(t *testing.T) {
	if got := faultsOf(t, smallTree(t)); got != "" {
		t.Error(got)
	}
}

func TestVerifyFindsEachFault(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func(t *testing.T, dir string)
		want  string
	}{
		{"a changed byte", func(t *testing.T, dir string) {
			put(t, dir, "share/text", "tExt", false)
		}, "share/text: its sha256 is " + digest("tExt") + ", not " + digest("text")},
		{"another size", func(t *testing.T, dir string) {
			put(t, dir, "share/text", "texts", false)
		}, "share/text: 5 bytes, not 4"},
		{"an extra file", func(t *testing.T, dir string) {
			put(t, dir, "share/more", "", false)
		}, "share/more: is not in MANIFEST"},
		{"an extra folder", func(t *testing.T, dir string) {
			must(t, os.Mkdir(filepath.Join(dir, "more"), 0o755))
		}, "more: is not in MANIFEST"},
		{"an extra link out of the tree", func(t *testing.T, dir string) {
			must(t, os.Symlink("/etc", filepath.Join(dir, "etc")))
		}, "etc: is not in MANIFEST"},
		{"a name that would steer a terminal", func(t *testing.T, dir string) {
			put(t, dir, "a\x1b[2J\n", "", false)
		}, `"a\x1b[2J\n": is not in MANIFEST`},
		{"a missing file", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "share/text")))
		}, "share/text: is missing"},
		{"a folder that is a link now", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "share"), filepath.Join(t.TempDir(), "share")))
			must(t, os.Symlink("/usr/share", filepath.Join(dir, "share")))
		}, "share: is not in MANIFEST\nshare/text: is missing"},
		{"a link that leads elsewhere", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "bin/link")))
			must(t, os.Symlink("/bin/sh", filepath.Join(dir, "bin/link")))
		}, `bin/link: leads to "/bin/sh", not to "tool"`},
		{"a link that is a file now", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "bin/link")))
			put(t, dir, "bin/link", "", false)
		}, `bin/link: is a file, and not a link to "tool"`},
		{"a file that is a link now", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "share/text")))
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "share/text")))
		}, `share/text: is a link, to "/etc/passwd", and not a file`},
		{"a FIFO, which is not waited for", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "share/text")))
			must(t, unix.Mkfifo(filepath.Join(dir, "share/text"), 0o644))
		}, "share/text: is neither file, folder nor link: prw-r--r--"},
		{"setuid", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "bin/tool"), 0o755|fs.ModeSetuid))
		}, "bin/tool: mode 4755, not 0755"},
		{"a file that others may write to", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "share/text"), 0o666))
		}, "share/text: mode 0666, not 0644"},
		{"a folder that others may write to", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "share"), 0o777|fs.ModeSticky))
		}, "share: mode 1777, not 0755"},
		{"a tool that cannot be run", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Join(dir, "bin/tool"), 0o644))
		}, "bin/tool: mode 0644, not 0755"},
		{"a foreign loader", func(t *testing.T, dir string) {
			put(t, dir, "bin/tool", program64("/lib64/ld-linux-x86-64.so.2", 0), true)
			relist(t, dir, "bin/tool")
		}, `bin/tool: its loader is "/lib64/ld-linux-x86-64.so.2", not the image's`},
		{"a run path", func(t *testing.T, dir string) {
			put(t, dir, "bin/tool", program64(Root+"/ld.so", 7), true)
			relist(t, dir, "bin/tool")
		}, "bin/tool: it has a run path of its own"},
		{"a foreign interpreter", func(t *testing.T, dir string) {
			put(t, dir, "bin/script", "#! /bin/sh -e\n", true)
			relist(t, dir, "bin/script")
		}, `bin/script: its interpreter is "/bin/sh -e", not one of the image's`},
		{"a broken program", func(t *testing.T, dir string) {
			put(t, dir, "bin/tool", program64(Root+"/ld.so", 0)[:100], true)
			relist(t, dir, "bin/tool")
		}, "bin/tool: a broken ELF file: program headers: EOF"},
	} {
		dir := smallTree(t)
		c.spoil(t, dir)
		if got := faultsOf(t, dir); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
	}
}

func TestVerifyFindsWhatRootAloneCanMake(t *testing.T) {
	need.Root(t)
	dir := smallTree(t)
	must(t, os.Lchown(filepath.Join(dir, "share/text"), 65534, 65534))
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	want := "null: is neither file, folder nor link: Dcrw-rw-rw-\nshare/text: owned by 65534:65534, not by root"
	must(t, os.Chmod(filepath.Join(dir, "null"), 0o666))
	if got := faultsOf(t, dir); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestWhatIsBuiltIsAsItsManifestSays(t *testing.T) {
	for from, img := range map[string]string{"host": hostImage(t), "debian": debianImage(t)} {
		dir := unpacked(t, img)
		if got := faultsOf(t, dir); got != "" {
			t.Errorf("%s: %s", from, got)
		}
		c, err := ReadContents(os.DirFS(dir))
		must(t, err)
		if len(c.Commands()) < 100 || c.From == "" || c.Profile != "std" {
			t.Errorf("%s: %d commands, profile %q, from %q", from, len(c.Commands()), c.Profile, c.From)
		}
	}
}

// The compiler's idea of a program, against ours.
func TestVerifyKnowsARealRunpathAndARealLoader(t *testing.T) {
	gcc := need.Tool(t, "gcc", "gcc")
	out := filepath.Join(t.TempDir(), "a")
	run(t, "echo 'int main(){return 0;}' | "+gcc+" -x c - -Wl,-rpath,/opt/evil -o "+out)
	data, err := os.ReadFile(out)
	must(t, err)
	got := strings.Join(strangersIn(data), "\n")
	if !strings.Contains(got, "it has a run path of its own") || !strings.Contains(got, "its loader is \"/lib") {
		t.Errorf("found only %q", got)
	}
	o, err := parseObject(data, arches[0])
	must(t, err)
	must(t, o.relocate(arches[0]))
	if got := strangersIn(data); got != nil {
		t.Errorf("after relocation: %q", got)
	}
}

func strangersIn(data []byte) []string {
	return strangers(io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), arches[0])
}

func FuzzStrangers(f *testing.F) {
	whole := program64(Root+"/ld.so", 0)
	f.Add([]byte(whole))
	f.Add([]byte(whole[:100]))
	// Offsets and sizes whose sum overflows.
	evil := []byte(whole)
	binary.LittleEndian.PutUint64(evil[64+8:], 1<<63)
	binary.LittleEndian.PutUint64(evil[64+32:], 1<<64-1)
	f.Add(evil)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, what := range strangersIn(data) {
			if strings.ContainsAny(what, "\n\x1b") {
				t.Errorf("%q is not one line", what)
			}
		}
	})
}

func TestAManifestThatIsALinkIsNotFollowed(t *testing.T) {
	dir := smallTree(t)
	must(t, os.Rename(filepath.Join(dir, manifestName), filepath.Join(dir, "other")))
	must(t, os.Symlink("other", filepath.Join(dir, manifestName)))
	if _, err := ReadContents(os.DirFS(dir)); err == nil || err.Error() != "MANIFEST: is not a regular file" {
		t.Errorf("read: %v", err)
	}
}

// A file that says it is enormous is not read, and a tree without end not
// walked to it.
func TestVerifyGivesUpOnWhatNoImageIs(t *testing.T) {
	dir := smallTree(t)
	must(t, os.Truncate(filepath.Join(dir, "share/text"), mostBytes+1))
	_, _, err := Verify(t.Context(), os.DirFS(dir), false)
	if err == nil || err.Error() != "more than 4 GB of files: not a tools image" {
		t.Errorf("a huge file: %v", err)
	}
	dir = smallTree(t)
	must(t, os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", mostDepth+2)), 0o755))
	_, _, err = Verify(t.Context(), os.DirFS(dir), false)
	if err == nil || err.Error() != "more files, or deeper folders, than a tools image has" {
		t.Errorf("a deep tree: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Verify(ctx, os.DirFS(smallTree(t)), false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
