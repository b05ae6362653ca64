package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// debianSource fetches the packages and unpacks them.
func (b *build) debianSource(ctx context.Context, dir string) (*source, error) {
	for _, tool := range []string{"apt-get", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("image: %s: not found: this is no Debian (try: --from-host)", tool)
		}
	}
	a := &apt{dir: dir, arch: b.arch, sources: b.Sources, log: b.logf, progress: b.Progress}
	debs, err := b.debs(ctx, a)
	if err != nil {
		return nil, err
	}
	tree, err := b.unpack(ctx, dir, debs)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	lib := []string{"/lib/" + b.arch.multiarch, "/usr/lib/" + b.arch.multiarch, "/lib", "/usr/lib"}
	s := &source{root: tree.root, bins: []string{"/bin", "/usr/bin", "/sbin", "/usr/sbin"}, libs: lib, lock: append([]string{archLine + b.arch.debian}, lines(debs)...), owners: tree.owners}
	s.name = osName(s.host("/usr/lib/os-release"))
	return s, nil
}

// cache is the directory of everything that is kept between builds, one for
// each architecture and each list of sources. It is the user's alone: what is
// in it ends up in an image that root runs.
func (b *build) cache() (string, error) {
	dir := b.CacheDir
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w (name a folder to keep downloads in: --cache)", err)
		}
		dir = filepath.Join(user, "cartsshd")
	}
	name := b.arch.debian
	if b.Sources != "" {
		sum, err := sumOf(b.Sources)
		if err != nil {
			return "", err
		}
		name += "-" + sum[:8]
	}
	dir, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("%w (name another folder to keep downloads in: --cache)", err)
	}
	return dir, private(dir)
}

// private fails if somebody else could put something into the folder.
func private(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if owner := int(st.Sys().(*syscall.Stat_t).Uid); !st.IsDir() || owner != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: is somebody else's, or others may write to it (name another folder to keep downloads in: --cache)", dir)
	}
	return nil
}

// alone waits until no other build uses the cache.
func (b *build) alone(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		b.logf("waiting for another build that uses %s", dir)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("image: %s: %w", f.Name(), err)
		}
	}
	return f.Close, nil
}

// debs are the packages of the list and all that they depend on, sorted: or
// those of a lock.
func (b *build) debs(ctx context.Context, a *apt) ([]deb, error) {
	if b.Lock != "" {
		locked, err := readLock(b.Lock, b.arch)
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		debs, err := a.fetchLocked(ctx, locked)
		if err != nil {
			return nil, fmt.Errorf("image: %s: %w", b.Lock, err)
		}
		return debs, nil
	}
	debs, err := a.fetch(ctx, b.list)
	if err != nil {
		return nil, fmt.Errorf("image: Debian packages: %w", err)
	}
	return debs, nil
}

// A deb is a package file, and a line of packages.lock.
type deb struct {
	file string
	Package
}

func (d deb) String() string { return d.Name + " " + d.Version + " " + d.SHA256 }

// describe asks a package file what it is.
func describe(ctx context.Context, file string) (deb, error) {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--show", "--showformat=${Package} ${Version}", file).Output()
	if err != nil {
		return deb{}, fmt.Errorf("%s: is not a whole package (try: rm %s)", filepath.Base(file), file)
	}
	d := deb{file: file}
	d.Name, d.Version, _ = strings.Cut(string(out), " ")
	d.SHA256, err = sumOf(file)
	return d, err
}
