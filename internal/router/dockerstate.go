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
	"time"

	"golang.org/x/sys/unix"
)

// dockerState is what a Docker engine keeps on disk of its containers: one
// file for each, DATA-ROOT/containers/ID/config.v2.json.
//
// At every change of a container's state the engine renames a new file over
// the old one. So a file is read once, and then the kernel is asked whether it
// is still there, by stat(2).
//
// What it says may be as old as the last crash of the host. Like all that a
// runtime says, it is checked against the kernel before anybody enters.
type dockerState struct {
	dir   string
	files atomic.Pointer[stateFiles] // as last read; never changed, only replaced
	slots chan struct{}              // taken by each who waits for the disk
}

const (
	statePatience = time.Second // with the disk; also with an engine, for its data root
	stateSlots    = 64          // each may hold a thread for as long as the disk hangs
	maxStateDirs  = 8192        // containers, and junk
)

func newDockerState(root string) *dockerState {
	s := &dockerState{dir: root + "/containers", slots: make(chan struct{}, stateSlots)}
	s.files.Store(&stateFiles{})
	return s
}

// find returns the containers that id means. If there is an error, others may
// be meant as well, or instead.
//
// It does not outlast its context, even where the disk hangs: that may be why
// the engine does.
func (s *dockerState) find(ctx context.Context, id string) ([]Found, error) {
	return s.patiently(ctx, func() ([]Found, error) { return s.look(id) })
}

// list returns all containers that run.
func (s *dockerState) list(ctx context.Context) ([]Found, error) {
	return s.patiently(ctx, s.running)
}

// patiently has the disk asked, and gives up on it in time.
func (s *dockerState) patiently(ctx context.Context, ask func() ([]Found, error)) ([]Found, error) {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) { // who asked has left
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s: %d wait for it already", s.dir, stateSlots)
	}
	type answer struct {
		found []Found
		err   error
	}
	answers := make(chan answer, 1)
	// Nobody waits for it when the time is over: what hangs in a read of a
	// disk cannot be called back. It keeps its slot.
	go func() {
		defer func() { <-s.slots }()
		found, err := s.guarded(ask)
		answers <- answer{found, err}
	}()
	select {
	case a := <-answers:
		return a.found, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: the disk does not answer", s.dir)
	}
}

// guarded is ask, but for a panic, which in a goroutine would end every session
// of the daemon.
func (s *dockerState) guarded(ask func() ([]Found, error)) (found []Found, err error) {
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("%s: panic: %v", s.dir, p)
		}
	}()
	return ask()
}

func (s *dockerState) running() (found []Found, err error) {
	dir, version, err := openStateDir(s.dir)
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

func (s *dockerState) look(id string) ([]Found, error) {
	dir, version, err := openStateDir(s.dir)
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
	return meant(id, files)
}

// openStateDir opens the directory of the containers. Who could write to it
// would choose the labels by which a policy judges.
func openStateDir(path string) (*os.File, fileVersion, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fileVersion{}, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &st)
	if err == nil && (st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid()) {
		err = errors.New("others may write to it")
	}
	if err != nil {
		dir.Close()
		return nil, fileVersion{}, fmt.Errorf("%s: %w", path, err)
	}
	return dir, versionOf(&st), nil
}

// readAll returns the file of every container. Whatever is as it was, of the
// directory and of the files, is not read again.
func (s *dockerState) readAll(dir *os.File, version fileVersion) ([]*stateFile, error) {
	known := s.files.Load()
	ids, changed := known.ids, false
	settled := version.settled() // before it is listed
	if version != known.dir || !known.settled {
		var err error
		if ids, err = listContainers(dir); err != nil {
			return nil, err
		}
		changed = true
	}
	files := make([]*stateFile, 0, len(ids))
	for _, id := range ids {
		f := known.byID[id]
		if f == nil || !f.unchanged(dir) {
			f, changed = readStateFile(dir, id), true
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

func listContainers(dir *os.File) (ids []string, err error) {
	names, err := dir.Readdirnames(maxStateDirs + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxStateDirs {
		return nil, fmt.Errorf("%s: holds more than %d containers", dir.Name(), maxStateDirs)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !isContainerID(name) }), nil
}

// meant returns the containers that id means: by the full ID, or else by the
// name, or else by a prefix. A file that cannot be read leaves a doubt: any
// name may be in it.
func meant(id string, files []*stateFile) ([]Found, error) {
	var named, prefixed []Found
	var unread []error
	guess := false
	for _, f := range files {
		switch {
		case f.id == id && f.err == nil:
			return []Found{f.copy()}, nil
		case f.id == id:
			return nil, f.err
		case f.err != nil:
			unread = append(unread, f.err)
			guess = guess || strings.HasPrefix(f.id, id)
		case f.found.Name == id:
			named = append(named, f.copy())
		case len(id) >= minPrefix && strings.HasPrefix(f.id, id):
			prefixed = append(prefixed, f.copy())
		}
	}
	switch {
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
