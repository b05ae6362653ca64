package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/need"
)

// archive is a Debian archive of one package, the real bash-static, that can
// be made to fail.
type archive struct {
	deb     []byte
	index   []byte
	cut     atomic.Bool  // breaks off in the middle of the package
	corrupt atomic.Bool  // has another package than it says
	resumed atomic.Int64 // where the last request for the package began
}

func newArchive(t *testing.T) (a *archive, o Options) {
	t.Helper()
	debianImage(t)
	b, err := newBuild(Options{Output: "x"})
	must(t, err)
	cache, err := b.cache()
	must(t, err)
	files, err := filepath.Glob(cache + "/archives/bash-static_*.deb")
	must(t, err)
	a = &archive{}
	a.deb, err = os.ReadFile(files[len(files)-1])
	must(t, err)
	fields, err := exec.Command("dpkg-deb", "--field", files[len(files)-1], "Package", "Version", "Architecture", "Maintainer", "Description").Output()
	must(t, err)
	a.index = fmt.Appendf(nil, "%sFilename: ./bash-static.deb\nSize: %d\nSHA256: %x\n\n", fields, len(a.deb), sha256.Sum256(a.deb))
	web := httptest.NewServer(a)
	t.Cleanup(web.Close)
	list := filepath.Join(t.TempDir(), "sources.list")
	must(t, os.WriteFile(list, []byte("deb [trusted=yes] "+web.URL+"/ ./\n"), 0o600))
	t.Setenv("http_proxy", "")
	t.Setenv("no_proxy", "127.0.0.1")
	return a, Options{
		Output: filepath.Join(t.TempDir(), "tools.img"), CacheDir: t.TempDir(), Sources: list,
		Packages: []string{"bash-static: bash=bash-static"},
	}
}

func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch filepath.Base(r.URL.Path) {
	case "Packages":
		w.Write(a.index)
	case "bash-static.deb":
		a.servePackage(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (a *archive) servePackage(w http.ResponseWriter, r *http.Request) {
	from, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-"), 10, 64)
	a.resumed.Store(from)
	switch {
	case a.cut.Load():
		w.Header().Set("Content-Length", strconv.Itoa(len(a.deb)))
		w.Write(a.deb[:len(a.deb)/2])
		panic(http.ErrAbortHandler)
	case a.corrupt.Load():
		bad := bytes.Clone(a.deb)
		bad[len(bad)/2] ^= 1
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(bad))
	default:
		http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(a.deb))
	}
}

// fails wants one line that says this, and nothing at Output.
func fails(t *testing.T, o Options, want string) {
	t.Helper()
	err := Build(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "image: ") {
		t.Errorf("\n got %v\nwant image: … %s", err, want)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Output), "*"))
	hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Output), ".*"))
	for _, f := range append(left, hidden...) {
		if base := filepath.Base(f); base != "." && base != ".." {
			t.Errorf("left behind: %s", f)
		}
	}
}

func TestANetworkThatGoesInTheMiddleLosesNothing(t *testing.T) {
	a, o := newArchive(t)
	a.cut.Store(true)
	fails(t, o, "(try again with a network: what has arrived is kept; or: --from-host)")
	a.cut.Store(false)
	a.resumed.Store(-1)
	must(t, Build(t.Context(), o))
	if from := a.resumed.Load(); from != int64(len(a.deb)/2) {
		t.Errorf("the rest was asked for from byte %d of %d", from, len(a.deb))
	}
}

func TestAPackageThatIsNotWhatTheArchiveSaysIsRefused(t *testing.T) {
	a, o := newArchive(t)
	a.corrupt.Store(true)
	fails(t, o, "Hash Sum mismatch")

	// And one that was spoilt on this machine's disk.
	a.corrupt.Store(false)
	must(t, Build(t.Context(), o))
	must(t, os.Remove(o.Output))
	b, err := newBuild(o)
	must(t, err)
	cache, err := b.cache()
	must(t, err)
	run(t, "rm -rf "+cache+"/tree-*; f=$(echo "+cache+"/archives/bash-static_*.deb); n=$(stat -c %s $f); head -c $n /dev/zero >$f")
	fails(t, o, "is not a whole package (try: rm "+cache)

	// One that is whole, of the right size, and another.
	other := append(bytes.Clone(a.deb[:len(a.deb)-1]), a.deb[len(a.deb)-1]^1)
	run(t, "rm -rf "+cache+"/tree-*")
	files, err := filepath.Glob(cache + "/archives/bash-static_*.deb")
	must(t, err)
	must(t, os.WriteFile(files[0], other, 0o600))
	fails(t, o, "is not the package that the archive has under this name (try: rm "+cache)
}

func TestACacheOfSomebodyElsesIsNotUsed(t *testing.T) {
	need.Root(t)
	_, o := newArchive(t)
	must(t, Build(t.Context(), o))
	must(t, os.Remove(o.Output))
	b, err := newBuild(o)
	must(t, err)
	cache, err := b.cache()
	must(t, err)
	for _, spoil := range []string{"chown 65534 " + cache, "chown 0 " + cache + "; chmod 777 " + cache} {
		run(t, spoil)
		fails(t, o, "is somebody else's, or others may write to it (name another folder to keep downloads in: --cache)")
	}
}

func TestAPackageThatThereIsNotIsNamed(t *testing.T) {
	_, o := newArchive(t)
	o.Add = []string{"no-such-package"}
	fails(t, o, "Unable to locate package no-such-package (the sources of this machine lack it")
	o.Add, o.Remove = nil, []string{"no-such-tool"}
	fails(t, o, "--remove no-such-tool: no package and no command of that name is on the list")
}

// small mounts a file system that is full after this much.
func small(t *testing.T, size string) string {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestAFullDiskIsSaid(t *testing.T) {
	_, o := newArchive(t)
	o.Output = filepath.Join(small(t, "1m"), "tools.img")
	fails(t, o, "no space left on device")
	_, o = newArchive(t)
	o.CacheDir = small(t, "256k")
	fails(t, o, "free some space, or name another cache: --cache")
}

func TestATargetThatCannotBeWrittenIsSaidAtOnce(t *testing.T) {
	_, o := newArchive(t)
	o.Output = "/proc/tools.img"
	if err := Build(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "image: ") || !strings.Contains(err.Error(), "/proc") {
		t.Error(err)
	}
	o.Output = filepath.Join(t.TempDir(), "none", "tools.img")
	if err := Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Error(err)
	}
}

func TestAProgramOfAnotherArchitectureIsRefused(t *testing.T) {
	gcc := need.Tool(t, "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
	_, o := newArchive(t)
	o.Files = t.TempDir()
	run(t, "mkdir "+o.Files+"/bin; echo 'void _start(void) {}' | "+gcc+" -x c - -nostdlib -static -o "+o.Files+"/bin/far")
	fails(t, o, "/bin/far: built for EM_AARCH64, not for EM_X86_64")
}

func TestABuildThatIsCancelledLeavesNothing(t *testing.T) {
	_, o := newArchive(t)
	for _, stage := range []string{"package lists", "packages", "unpacking", "relocating", "packing"} {
		ctx, cancel := context.WithCancel(t.Context())
		o.Progress = func(s string, _, _ int) {
			if s == stage {
				cancel()
			}
		}
		o.CacheDir = t.TempDir()
		err := Build(ctx, o)
		cancel()
		if stage == "package lists" || stage == "packages" {
			continue // apt may have been done by the time it said so
		}
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("at %s: %v", stage, err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Output), "*")); len(left) > 0 {
			t.Errorf("at %s: left behind: %q", stage, left)
		}
	}
}
