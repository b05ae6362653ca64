package image

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// source is where programs come from: a tree of unpacked Debian packages, or
// the root of this machine.
type source struct {
	root string   // symlinks are resolved below it
	bins []string // directories of programs, below root
	libs []string // directories of libraries, below root
	lock []string // "name version sha256", sorted
}

// program finds a command, and returns the file it leads to, below the root.
func (s *source) program(name string) (string, error) {
	for _, dir := range s.bins {
		real, err := s.resolve(filepath.Join(dir, name))
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
	return "", os.ErrNotExist
}

// host is the machine's name of a file of the source.
func (s *source) host(path string) string { return filepath.Join(s.root, path) }

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
