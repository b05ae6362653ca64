package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/need"
)

// makeImage builds an image with this for its bin/bash.
func makeImage(t testing.TB, bash []byte) string {
	t.Helper()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "tools.img")
	must(t, os.Mkdir(dir+"/bin", 0o755))
	must(t, os.WriteFile(dir+"/bin/bash", bash, 0o755))
	must(t, os.WriteFile(dir+"/made-for", []byte(out), 0o644)) // no two images are alike
	squash(t, dir, out)
	return out
}

func squash(t testing.TB, dir, out string) {
	t.Helper()
	need.Root(t)
	mksquashfs := need.Tool(t, "mksquashfs", "squashfs-tools")
	if said, err := exec.Command(mksquashfs, dir, out, "-all-root", "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}

// program is the head of one.
func program(machine elf.Machine, order elf.Data) []byte {
	b := make([]byte, 64)
	copy(b, elf.ELFMAG)
	b[elf.EI_DATA] = byte(order)
	at := map[elf.Data]int{elf.ELFDATA2LSB: 18, elf.ELFDATA2MSB: 19}[order]
	b[at] = byte(machine)
	return b
}

// ours is a program for this machine, and foreign for no machine that runs us.
func ours() []byte {
	return program(map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH], elf.ELFDATA2LSB)
}

func foreign() []byte { return program(elf.EM_S390, elf.ELFDATA2MSB) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openSet(t testing.TB, list ...config.Image) toolset {
	t.Helper()
	set, err := openToolset(list)
	must(t, err)
	t.Cleanup(func() { set.close() })
	return set
}

// devices counts the loop devices behind which a file is.
func devices(path string) (n int) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range all {
		backing, _ := os.ReadFile(f)
		if strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)") == path {
			n++
		}
	}
	return n
}

// eventuallyGone returns when no device is left: the kernel takes its time.
// The test's own deadline is the limit.
func eventuallyGone(path string) {
	for devices(path) > 0 {
		runtime.Gosched()
	}
}

func digest(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestAnImageIsForTheArchitectureOfItsShell(t *testing.T) {
	for _, test := range []struct {
		bash []byte
		want string // or what is wrong
	}{
		{program(elf.EM_X86_64, elf.ELFDATA2LSB), "amd64"},
		{program(elf.EM_AARCH64, elf.ELFDATA2LSB), "arm64"},
		{program(elf.EM_S390, elf.ELFDATA2MSB), "s390x"},
		{program(0xf7, elf.ELFDATA2LSB), "ELF machine 247"},
		{[]byte("#!/bin/sh\nexec something else\n"), "bin/bash: is not an ELF program"},
		{program(elf.EM_X86_64, elf.ELFDATA2LSB)[:18], "ELF machine 0"},
		{nil, "bin/bash: is not an ELF program"},
	} {
		got, err := architecture(bytes.NewReader(test.bash))
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%.20q: got %s, want %s", test.bash, got, test.want)
		}
	}
}

func TestAnImageWithAnotherDigestIsNeverAttached(t *testing.T) {
	path := makeImage(t, ours())
	openSet(t, config.Image{Path: path, SHA256: config.Digest(digest(t, path))})

	other := makeImage(t, ours())
	wrong := strings.Repeat("0", 64)
	_, err := openToolset(config.Images{{Path: path}, {Path: other, SHA256: config.Digest(wrong)}})
	if err == nil || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), other+": its sha256 is to be "+wrong+", and is "+digest(t, other)+": put the right file there") {
		t.Errorf("got %v", err)
	}
	if n := devices(other); n != 0 {
		t.Errorf("%d loop devices", n)
	}
}

func TestImagesForOtherMachinesAreSkippedAndTheFirstThatFitsIsTheDefault(t *testing.T) {
	far, small, full := makeImage(t, foreign()), makeImage(t, ours()), makeImage(t, ours())
	set := openSet(t,
		config.Image{Path: far, Name: "full"},
		config.Image{Path: far, Name: "far"},
		config.Image{Path: small},
		config.Image{Path: full, Name: "full"})
	eventuallyGone(far)
	for demand, want := range map[string]string{
		"":                           small,
		"full":                       full,
		"sha256:" + digest(t, full):  full,
		"sha256:" + digest(t, small): small,
	} {
		if got, err := set.find(demand); err != nil || got.Path() != want || got.ID() != "sha256:"+digest(t, want) {
			t.Errorf("%q: got %v, %v, want %s", demand, got, err, want)
		}
	}
	for demand, want := range map[string]string{
		"far":                      `a rule demands the tools image "far", which is here for s390x only, and not for ` + runtime.GOARCH,
		"none":                     `a rule demands the tools image "none", which is not loaded`,
		"sha256:" + digest(t, far): `a rule demands the tools image "sha256:` + digest(t, far) + `", which is not loaded`,
		"sha256:":                  `a rule demands the tools image "sha256:", which is not loaded`,
	} {
		if got, err := set.find(demand); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, %v\nwant %s", demand, got, err, want)
		}
	}
}

func TestWhatIsWrongWithImagesIsOneLineAndNoneStaysOpen(t *testing.T) {
	far, near, other := makeImage(t, foreign()), makeImage(t, ours()), makeImage(t, ours())
	script := makeImage(t, []byte("#!/bin/sh"))
	open := makeImage(t, ours())
	must(t, os.Chmod(open, 0o646))
	for _, test := range []struct {
		list config.Images
		want string
	}{
		{config.Images{{Path: far}}, "none is for this machine, which is " + runtime.GOARCH + ": " + far + ` is for s390x: build one with "cartsshd image build"`},
		{config.Images{{Path: near, Name: "full"}, {Path: other, Name: "full"}}, near + " and " + other + ` are both called "full", and both for ` + runtime.GOARCH},
		{config.Images{{Path: near}, {Path: far, Name: "far"}, {Path: far, Name: "far"}}, far + " and " + far + ` are both called "far", and both for s390x`},
		{config.Images{{Path: near}, {Path: script}}, script + `: bin/bash: is not an ELF program: build one with "cartsshd image build"`},
		{config.Images{{Path: near}, {Path: open}}, open + ": others may write to it: chown root " + open},
	} {
		set, err := openToolset(test.list)
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), test.want) || set != nil {
			t.Errorf("got %v\nwant %s", err, test.want)
		}
	}
	for _, path := range []string{far, near, other, script, open} {
		eventuallyGone(path)
	}
}

// The host has a bin/bash, too.
func TestALinkOutOfTheImageIsNotFollowed(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "tools.img")
	must(t, os.Mkdir(dir+"/bin", 0o755))
	must(t, os.Symlink("/proc/self/exe", dir+"/bin/bash"))
	squash(t, dir, out)
	if _, err := openTools(config.Image{Path: out}); err == nil || !strings.Contains(err.Error(), "open bin/bash: invalid cross-device link") {
		t.Errorf("got %v", err)
	}
}

func TestWhoRunsOneCommandOpensNoMoreThanTheFirstThatFits(t *testing.T) {
	far, near := makeImage(t, foreign()), makeImage(t, ours())
	got, err := firstTools(config.Images{{Path: far}, {Path: near}, {Path: "/nonexistent"}})
	if err != nil || got.Path() != near {
		t.Fatalf("got %v, %v", got, err)
	}
	must(t, got.Close())
	if _, err := firstTools(config.Images{{Path: far}}); err == nil || !strings.Contains(err.Error(), "none is for this machine") {
		t.Errorf("got %v", err)
	}
}

// Who opened the file while it was theirs may write to it for ever.
func TestAnImageThatSomebodyHasOpenToWriteIsRefused(t *testing.T) {
	need.Root(t)
	path := smallImage(t, "erofs")
	copied := filepath.Join(t.TempDir(), "tools.img")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, text, 0o644); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(copied, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openTools(config.Image{Path: copied})
	if err == nil || !strings.Contains(err.Error(), "somebody has it open and may write to it") || strings.Contains(err.Error(), "\n") {
		t.Errorf("open: %v", err)
	}
	writer.Close()
	tools, err := openTools(config.Image{Path: copied})
	if err != nil {
		t.Fatal(err)
	}
	tools.Close()
}
