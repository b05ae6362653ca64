package standing

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// NewGrantID and NewLockID make names up that nothing has yet.
func NewGrantID() string { return newID(grants) }

// NewLockID does it for locks.
func NewLockID() string { return newID(locks) }

func newID(k kind) string { return k.prefix() + strings.ToLower(rand.Text()[:8]) }

// Grant puts a grant in its place. It is on the disk when Grant returns.
func (s Shelf) Grant(g Grant) error { return s.put(grants, g.ID, g) }

// Lock does the same with a lock.
func (s Shelf) Lock(l Lock) error { return s.put(locks, l.ID, l) }

// Remove takes a grant or a lock away.
func (s Shelf) Remove(id string) error {
	for _, k := range []kind{grants, locks} {
		if !strings.HasPrefix(id, k.prefix()) || !isID(id) {
			continue
		}
		err := os.Remove(s.path(k, id))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		return cmp.Or(err, syncDir(filepath.Join(s.Dir, string(k))))
	}
	return fmt.Errorf("standing: %.40q: %w", id, ErrNone)
}

func (s Shelf) path(k kind, id string) string { return filepath.Join(s.Dir, string(k), id) }

func isID(id string) bool {
	return len(id) <= 40 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// put makes a file appear whole, or not at all.
func (s Shelf) put(k kind, id string, statement any) error {
	if !isID(id) {
		return fmt.Errorf("standing: %.40q is no name for a file", id)
	}
	data, err := s.seal(k, statement)
	if err != nil {
		return fmt.Errorf("standing: %w", err)
	}
	dir := filepath.Join(s.Dir, string(k))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("standing: %w", err)
	}
	if err := write(dir, id, data); err != nil {
		return fmt.Errorf("standing: %w", err)
	}
	return nil
}

func write(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Read returns all that stands, what has run out as well. The error means that
// nobody can tell what stands.
func (s Shelf) Read() (State, error) {
	var state State
	err := errors.Join(s.each(grants, &state), s.each(locks, &state))
	slices.SortFunc(state.Grants, func(a, b Grant) int { return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.ID, b.ID)) })
	slices.SortFunc(state.Locks, func(a, b Lock) int { return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.ID, b.ID)) })
	return state, err
}

// maxFiles of one kind are read.
const maxFiles = 4096

func (s Shelf) each(k kind, state *State) error {
	names, err := list(filepath.Join(s.Dir, string(k)))
	if err != nil {
		return fmt.Errorf("standing: %w", err)
	}
	for _, name := range names {
		if err := s.take(k, name, state); err != nil {
			state.damaged(k, s.path(k, name), err)
		}
	}
	return nil
}

func list(dir string) (names []string, _ error) {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	info, err := d.Stat()
	if err == nil {
		err = trusted(dir, info)
	}
	if err != nil {
		return nil, err
	}
	all, err := d.Readdirnames(-1)
	for _, name := range all {
		if !strings.HasPrefix(name, ".") { // of a write that did not end
			names = append(names, name)
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s: holds more than %d files", dir, maxFiles)
	}
	return names, err
}

func (s Shelf) take(k kind, name string, state *State) error {
	data, err := read(s.path(k, name))
	if err != nil {
		return err
	}
	if k == grants {
		g, err := open[Grant](s, k, data)
		if err == nil && g.ID != name {
			err = fmt.Errorf("is the file of %.40q", g.ID)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.path(k, name), err)
		}
		state.Grants = append(state.Grants, g)
		return nil
	}
	l, err := open[Lock](s, k, data)
	if err == nil && l.ID != name {
		err = fmt.Errorf("is the file of %.40q", l.ID)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.path(k, name), err)
	}
	state.Locks = append(state.Locks, l)
	return nil
}

func (s *State) damaged(k kind, path string, err error) {
	s.Bad = append(s.Bad, Bad{Path: path, Err: err, Lock: k == locks})
	if k == locks {
		s.Locks = append(s.Locks, Lock{ID: filepath.Base(path), Reason: "its file is damaged", By: "cartsshd"})
	}
}

// maxFile is far more than any of these takes.
const maxFile = 64 << 10

func read(path string) ([]byte, error) {
	// Neither a link nor a FIFO: nobody waits for the other end of that.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s: is no file of ours", path)
	}
	if err := trusted(path, info); err != nil {
		return nil, err
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if n == len(data) {
		return data, nil
	}
	return nil, err
}

func trusted(path string, info os.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if info.Mode().Perm()&0o022 != 0 || owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s: others could change it", path)
	}
	return nil
}
