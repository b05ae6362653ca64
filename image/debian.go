package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// apt is a private apt: sources, keys and proxies of this machine, state and
// downloads of its own, nothing installed. It does not need root.
type apt struct {
	dir  string // of the cache
	arch arch
	log  func(format string, args ...any)
}

// supposed are packages that apt is told are there already. They set a system
// up, and an image is none; without this they would be half of the download.
var supposed = []string{
	"adduser", "base-files", "base-passwd", "cron", "dbus", "debconf", "debianutils", "dpkg", "init-system-helpers",
	"install-info", "libaudit-common", "libsemanage-common", "login", "lsb-base", "mime-support", "openssl", "passwd", "perl", "perl-base",
	"readline-common", "sensible-utils", "sysvinit-utils", "systemd", "tzdata", "ucf", "usr-is-merged", "usrmerge",
}

// debianSource fetches the packages and unpacks them.
func (b *build) debianSource(ctx context.Context) (*source, error) {
	dir, err := b.cache()
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	for _, tool := range []string{"apt-get", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("image: %s: not found: this is no Debian (try: --from-host)", tool)
		}
	}
	a := &apt{dir: dir, arch: b.arch, log: b.logf}
	debs, err := a.fetch(ctx, b.list)
	if err != nil {
		return nil, fmt.Errorf("image: Debian packages: %w (try again with a network, or: --from-host)", err)
	}
	lock, err := lockOf(ctx, debs)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	root, err := a.unpack(ctx, debs, lock)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	b.logf("%d packages", len(debs))
	lib := []string{"/lib/" + b.arch.multiarch, "/usr/lib/" + b.arch.multiarch, "/lib", "/usr/lib"}
	return &source{root: root, bins: []string{"/bin", "/usr/bin", "/sbin", "/usr/sbin"}, libs: lib, lock: lock}, nil
}

// cache is the directory of everything that is kept between builds, one for
// each architecture. It is the user's alone: what is in it ends up in an image
// that root runs.
func (b *build) cache() (string, error) {
	dir := b.CacheDir
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "cartsshd")
	}
	dir, err := filepath.Abs(filepath.Join(dir, b.arch.debian))
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// fetch returns the .deb files of the list and of all they depend on, sorted.
func (a *apt) fetch(ctx context.Context, list []pkg) ([]string, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	args := []string{"install", "--download-only", "--yes", "--no-install-recommends"}
	for _, p := range list {
		args = append(args, p.name)
	}
	if _, err := a.run(ctx, "apt-get", args...); err != nil {
		return nil, err
	}
	// What was downloaded earlier lies there too, in other versions perhaps:
	// only what apt would install now is meant.
	out, err := a.run(ctx, "apt-get", append([]string{"--print-uris", "-o", "Dir::Cache::archives=" + a.path("none")}, args...)...)
	if err != nil {
		return nil, err
	}
	return a.named(out)
}

// named finds the files of apt-get --print-uris: 'URI' FILE SIZE HASH.
func (a *apt) named(uris []byte) ([]string, error) {
	var debs []string
	for _, line := range strings.Split(string(uris), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || !strings.HasPrefix(line, "'") {
			continue
		}
		deb := a.path("archives", filepath.Base(words[1]))
		if _, err := os.Stat(deb); err != nil {
			return nil, err
		}
		debs = append(debs, deb)
	}
	if len(debs) == 0 {
		return nil, errors.New("apt-get names none")
	}
	slices.Sort(debs)
	return debs, nil
}

func (a *apt) path(names ...string) string {
	return filepath.Join(append([]string{a.dir}, names...)...)
}

// prepare writes the private apt's configuration.
func (a *apt) prepare(ctx context.Context) error {
	for _, dir := range []string{"state/lists/partial", "archives/partial", "none/partial"} {
		if err := os.MkdirAll(a.path(dir), 0o700); err != nil {
			return err
		}
	}
	// How this machine reaches the archive (proxies, mirrors), but none of its
	// hooks: docker-clean would have apt delete what it has downloaded.
	acquire, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire").Output()
	if err != nil {
		return fmt.Errorf("apt-config: %w", err)
	}
	conf := fmt.Sprintf(`%s
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Cache::archives %q;
APT::Architecture %q;
APT::Architectures { %q; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
`, acquire, a.path("state"), a.path("status"), a.path("cache"), a.path("archives"), a.arch.debian, a.arch.debian)
	return errors.Join(
		os.WriteFile(a.path("apt.conf"), []byte(conf), 0o600),
		os.WriteFile(a.path("status"), a.status(), 0o600),
	)
}

func (a *apt) status() []byte {
	var out bytes.Buffer
	for _, name := range supposed {
		fmt.Fprintf(&out, "Package: %s\nStatus: install ok installed\nMaintainer: none\nArchitecture: %s\nMulti-Arch: foreign\nVersion: 999:0\nDescription: supposed\n\n", name, a.arch.debian)
	}
	return out.Bytes()
}

// update fetches the package lists, once a day. Without a network those of an
// earlier build will do, and the log says so.
func (a *apt) update(ctx context.Context) error {
	stamp := a.path("updated")
	st, err := os.Stat(stamp)
	if err == nil && time.Since(st.ModTime()) < 24*time.Hour {
		return nil
	}
	a.log("fetching package lists")
	_, failed := a.run(ctx, "apt-get", "update", "--quiet", "--error-on=any")
	if failed == nil {
		return os.WriteFile(stamp, nil, 0o600)
	}
	if err != nil || ctx.Err() != nil {
		return failed
	}
	a.log("package lists of %s are used: %v", st.ModTime().Format(time.DateOnly), failed)
	return nil
}

// run returns what the tool printed; the error is its last complaint.
func (a *apt) run(ctx context.Context, tool string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, tool, args...)
	c.Env = append(withoutEnv("APT_CONFIG"), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", tool, args[0], errors.Join(context.Cause(ctx), err), complaint(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// complaint picks apt's first error out of its messages.
func complaint(stderr []byte) string {
	for _, line := range strings.Split(string(stderr), "\n") {
		if e, ok := strings.CutPrefix(line, "E: "); ok {
			return e
		}
	}
	return lastLine(stderr)
}

// lockOf says what exactly the packages are: "name version sha256".
func lockOf(ctx context.Context, debs []string) ([]string, error) {
	var lock []string
	for _, deb := range debs {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "--show", "--showformat=${Package} ${Version}", deb).Output()
		if err != nil {
			return nil, fmt.Errorf("dpkg-deb: %s: %w", deb, err)
		}
		sum, err := sumOf(deb)
		if err != nil {
			return nil, err
		}
		lock = append(lock, fmt.Sprintf("%s %s", out, sum))
	}
	slices.Sort(lock)
	return lock, nil
}

func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// unpack makes one tree of all packages. It is kept under the sum of the lock:
// the same packages are the same tree.
func (a *apt) unpack(ctx context.Context, debs, lock []string) (string, error) {
	tree := a.path("tree-" + fmt.Sprintf("%x", sha256.Sum256(lines(lock)))[:16])
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	old, _ := filepath.Glob(a.path("tree-*"))
	for _, t := range old {
		os.RemoveAll(t)
	}
	a.log("unpacking %d packages", len(debs))
	part, err := os.MkdirTemp(a.dir, "tree-part-")
	if err != nil {
		return "", err
	}
	for _, deb := range debs {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", deb, part).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("dpkg-deb: %s: %w: %s", filepath.Base(deb), err, lastLine(out))
		}
	}
	return tree, os.Rename(part, tree)
}
