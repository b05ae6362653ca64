package router

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// stateTree is all directories in which a runtime keeps the state of its
// containers. A root that ends in "/*" stands for the directories in it:
// containerd, for one, has one for each of its namespaces.
//
// What is not there holds no containers.
type stateTree struct {
	layout *layout
	roots  []string

	mu   sync.Mutex
	dirs map[string]*stateDir
}

func newStateTree(l *layout, roots ...string) *stateTree { return &stateTree{layout: l, roots: roots} }

// each asks every directory that there is.
func (s *stateTree) each(ask func(*stateDir) ([]Found, error)) (found []Found, err error) {
	paths, failures := s.paths()
	for _, d := range s.at(paths) {
		more, err := ask(d)
		found = append(found, more...)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, err)
		}
	}
	return found, summary(failures)
}

// paths are those of the directories that there may be.
func (s *stateTree) paths() (paths []string, failures []error) {
	for _, root := range s.roots {
		parent, many := strings.CutSuffix(root, "/*")
		if !many {
			paths = append(paths, root)
			continue
		}
		children, err := childDirs(parent)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, err)
		}
		paths = append(paths, children...)
	}
	return paths, failures
}

// childDirs are the directories in one that nobody but root may write to.
func childDirs(path string) (paths []string, err error) {
	dir, _, err := openStateDir(path, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxStateDirs)
	for _, entry := range entries {
		if entry.IsDir() && plain(entry.Name()) {
			paths = append(paths, path+"/"+entry.Name())
		}
	}
	if len(entries) == 0 {
		err = nil // the end
	}
	return paths, err
}

// at returns what is known of these directories, and forgets the others.
func (s *stateTree) at(paths []string) []*stateDir {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs, list := make(map[string]*stateDir, len(paths)), make([]*stateDir, 0, len(paths))
	for _, path := range paths {
		d := s.dirs[path]
		if d == nil {
			d = newStateDir(path, s.layout)
			if !slices.Contains(s.roots, path) {
				d.flags = unix.O_NOFOLLOW
			}
		}
		dirs[path], list = d, append(list, d)
	}
	s.dirs = dirs
	return list
}
