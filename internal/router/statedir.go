package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// stateDir is a directory in which a runtime keeps the state of its
// containers.
//
// At a change of a container's state a runtime renames a new file over the old
// one. So a file is read once, and then the kernel is asked whether it is still
// there, by stat(2).
//
// What it says may be as old as the last crash of the host. Like all that a
// runtime says, it is checked against the kernel before anybody enters.
type stateDir struct {
	patience
	dir    string
	flags  int // to open it with
	layout *layout
	files  atomic.Pointer[stateFiles] // as last read; never changed, only replaced
}

const maxStateDirs = 8192 // containers, and junk

func newStateDir(dir string, l *layout) *stateDir {
	s := &stateDir{patience: newPatience(dir), dir: dir, layout: l}
	s.files.Store(&stateFiles{})
	return s
}

// find returns the containers that id means. If there is an error, others may
// be meant as well, or instead.
//
// It does not outlast its context, even where the disk hangs: that may be why
// the engine does.
func (s *stateDir) find(ctx context.Context, id string) ([]Found, error) {
	return s.ask(ctx, func() ([]Found, error) { return s.look(id) })
}

// list returns all containers that run.
func (s *stateDir) list(ctx context.Context) ([]Found, error) {
	return s.ask(ctx, s.running)
}

func (s *stateDir) running() (found []Found, err error) {
	dir, version, err := openStateDir(s.dir, s.flags)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	files, err := s.readAll(dir, version)
	var unread []error
	for _, f := range files {
		switch {
		case f.err != nil:
			unread = append(unread, f.err)
		case f.found.PID != 0:
			found = append(found, f.copy())
		}
	}
	return found, errors.Join(err, summary(unread))
}

func (s *stateDir) look(id string) ([]Found, error) {
	dir, version, err := openStateDir(s.dir, s.flags)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if f := s.files.Load().exact(id); f != nil && f.unchanged(dir) {
		return []Found{f.copy()}, nil
	}
	files, err := s.readAll(dir, version)
	if err != nil {
		return nil, err
	}
	return s.layout.meant(id, files)
}

// openStateDir opens the directory of the containers. Who could write to it
// would choose the labels by which a policy judges.
func openStateDir(path string, flags int) (*os.File, fileVersion, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|flags, 0)
	if err != nil {
		return nil, fileVersion{}, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &st)
	if err == nil {
		err = trustedStat(&st)
	}
	if err != nil {
		dir.Close()
		return nil, fileVersion{}, fmt.Errorf("%s: %w", path, err)
	}
	return dir, versionOf(&st), nil
}

// readAll returns the file of every container. Whatever is as it was, of the
// directory and of the files, is not read again.
func (s *stateDir) readAll(dir *os.File, version fileVersion) ([]*stateFile, error) {
	known := s.files.Load()
	ids, changed := known.ids, false
	settled := version.settled() // before it is listed
	if version != known.dir || !known.settled {
		var err error
		if ids, err = s.listContainers(dir); err != nil {
			return nil, err
		}
		changed = true
	}
	files := make([]*stateFile, 0, len(ids))
	for _, id := range ids {
		f := known.byID[id]
		if f == nil || !f.unchanged(dir) {
			f, changed = s.layout.read(dir, id), true
		}
		if f != nil {
			files = append(files, f)
		}
	}
	// Two who read at once may replace the newer by the older. That costs
	// reading it again, and nothing else: it is compared with the disk.
	if changed {
		all := index(files)
		all.ids, all.dir, all.settled = ids, version, settled
		s.files.Store(all)
	}
	return files, nil
}

func (s *stateDir) listContainers(dir *os.File) (ids []string, err error) {
	names, err := dir.Readdirnames(maxStateDirs + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxStateDirs {
		return nil, fmt.Errorf("%s: holds more than %d containers", dir.Name(), maxStateDirs)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !s.layout.holds(name) }), nil
}

// meant returns the containers that id means: by the full ID, or else by the
// name, or else by a prefix. A file that cannot be read leaves a doubt: any
// name may be in it.
func (l *layout) meant(id string, files []*stateFile) ([]Found, error) {
	var named, prefixed []Found
	var unread []error
	guess := false
	for _, f := range files {
		switch {
		case f.foreign:
		case f.id == id && f.err == nil:
			return []Found{f.copy()}, nil
		case f.id == id:
			return nil, f.err
		case f.err != nil:
			unread = append(unread, f.err)
			guess = guess || strings.HasPrefix(f.id, id)
		case f.found.Name == id || slices.Contains(f.found.Names, id):
			named = append(named, f.copy())
		case len(id) >= minPrefix && strings.HasPrefix(f.id, id):
			prefixed = append(prefixed, f.copy())
		}
	}
	switch {
	case len(named) > 0 && !l.oneEach:
		return named, summary(unread)
	case len(named) == 1:
		return named, nil // no other can be called so: the engine sees to it
	case len(named) > 1:
		return named, fmt.Errorf("%d containers are called so", len(named))
	case guess:
		prefixed = nil // or it would be of two containers the one that can be read
	}
	return prefixed, summary(unread)
}

// summary is one line, however many there are.
func summary(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w, and %d more like it", errs[0], len(errs)-1)
}
