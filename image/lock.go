package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// archLine begins the first line of a packages.lock.
const archLine = "# architecture: "

// readLock reads a packages.lock: "name version sha256".
func readLock(file string, a arch) ([]deb, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var locked []deb
	for i, line := range strings.Split(string(text), "\n") {
		if arch, ok := strings.CutPrefix(line, archLine); ok && arch != a.debian {
			return nil, fmt.Errorf("%s: is for %s, not for %s (try: --arch %s)", file, arch, a.debian, arch)
		}
		p, ok := parseLocked(line)
		if !ok || strings.HasPrefix(p.Name, "-") {
			return nil, fmt.Errorf("%s:%d: not of the form \"package version sha256\"", file, i+1)
		}
		if p != (Package{}) {
			locked = append(locked, deb{Package: p})
		}
	}
	if locked == nil {
		return nil, fmt.Errorf("%s: names no package: an image of this machine's programs has no lock", file)
	}
	return locked, nil
}

// fetchLocked finds these very packages in the cache, and has apt fetch what
// is not there. Debian's archive has the newest only; what it has dropped is in
// its snapshot archive.
func (a *apt) fetchLocked(ctx context.Context, locked []deb) ([]deb, error) {
	var missing []string
	for _, d := range locked {
		if a.cached(d) == "" {
			missing = append(missing, d.Name+"="+d.Version)
		}
	}
	if missing != nil {
		if err := a.ready(ctx); err != nil {
			return nil, err
		}
		if err := a.download(ctx, append([]string{"download"}, missing...)...); err != nil {
			return nil, fmt.Errorf("%w (--sources with a snapshot of that day has what the archive has dropped)", err)
		}
	}
	debs := make([]deb, len(locked))
	for i, d := range locked {
		if d.file = a.cached(d); d.file == "" {
			return nil, fmt.Errorf("%s %s: what the archive has under this name has another sha256", d.Name, d.Version)
		}
		debs[i] = d
	}
	return debs, nil
}

// cached is the file of the cache that is this package, or "".
func (a *apt) cached(d deb) string {
	for _, arch := range []string{a.arch.debian, "all"} {
		file := a.path("archives", fmt.Sprintf("%s_%s_%s.deb", d.Name, strings.ReplaceAll(d.Version, ":", "%3a"), arch))
		if sum, err := sumOf(file); err == nil && sum == d.SHA256 {
			return file
		}
	}
	return ""
}

func sumOf(file string) (string, error) {
	f, err := os.Open(filepath.Clean(file))
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
