package image

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// source is where programs come from: a tree of unpacked Debian packages, or
// the root of this machine.
type source struct {
	root string   // symlinks are resolved below it
	bins []string // directories of programs, below root
	libs []string // directories of libraries, below root
	name string   // of the whole: a distribution
	lock []string // "name version sha256", sorted

	// owners are the packages that files came in; of a machine it is empty.
	owners map[string]string
}

// owned lists the files of a package, sorted.
func (s *source) owned(pkg string) []string {
	var files []string
	for file, owner := range s.owners {
		if owner == pkg {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// commands are all the commands of a package.
func (s *source) commands(pkg string) []command {
	var all []command
	for _, file := range s.owned(pkg) {
		if slices.Contains(s.bins, path.Dir(file)) {
			all = append(all, command{name: path.Base(file)})
		}
	}
	return all
}

// program finds a command, and returns the file it leads to, below the root. A
// path may have wildcards: of several files, it is the last.
func (s *source) program(name string) (string, error) {
	candidates := make([]string, 0, len(s.bins))
	if filepath.IsAbs(name) {
		found, _ := filepath.Glob(s.host(name))
		for _, file := range slices.Backward(found) {
			candidates = append(candidates, s.below(file))
		}
	} else {
		for _, dir := range s.bins {
			candidates = append(candidates, filepath.Join(dir, name))
		}
	}
	for _, file := range candidates {
		real, err := s.resolve(file)
		if err != nil {
			continue
		}
		st, err := os.Lstat(s.host(real))
		if err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return real, nil
		}
	}
	return "", os.ErrNotExist
}

// library finds the file that a DT_NEEDED means. The directories of the
// program's own RUNPATH come first.
func (s *source) library(soname string, runpath []string) (string, error) {
	for _, dir := range append(runpath[:len(runpath):len(runpath)], s.libs...) {
		real, err := s.resolve(filepath.Join(dir, soname))
		if err != nil {
			continue
		}
		if st, err := os.Lstat(s.host(real)); err == nil && st.Mode().IsRegular() {
			return real, nil
		}
	}
	// Alternatives (libblas.so.3) lie in folders of their own until a postinst
	// has chosen one.
	for _, file := range slices.Sorted(maps.Keys(s.owners)) {
		below := func(dir string) bool { return strings.HasPrefix(file, dir+"/") }
		if path.Base(file) == soname && slices.ContainsFunc(s.libs, below) {
			return s.resolve(file)
		}
	}
	return "", os.ErrNotExist
}

// host is the machine's name of a file of the source.
func (s *source) host(path string) string { return filepath.Join(s.root, path) }

// below is the source's name of a file of the machine.
func (s *source) below(file string) string {
	return strings.TrimPrefix(file, strings.TrimSuffix(s.root, "/"))
}

// resolve follows symlinks as a process would whose root this is: an unpacked
// package's absolute link must not lead to the building machine's files.
func (s *source) resolve(path string) (string, error) {
	done, rest := "/", strings.Split(filepath.Clean(path), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		rest = rest[1:]
		st, err := os.Lstat(s.host(next))
		if err != nil {
			return "", err
		}
		if st.Mode()&os.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: too many symlinks", path)
		}
		to, err := os.Readlink(s.host(next))
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(to) {
			done = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return done, nil
}
