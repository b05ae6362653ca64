// Package glance notices that files have changed, by looking at them every now
// and then. A stat(2) costs a microsecond, and sees what watching by inotify(7)
// does not: files on NFS, and a symbolic link in the way to a file that now
// leads elsewhere.
//
// It does not read files, and it does not wait: when to look is the caller's.
package glance

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// maxEntries of a directory are looked at one by one; of one that has more, only
// that something was added, renamed or taken away is seen for certain.
const maxEntries = 8192

// Watch looks at files and directories. Of a directory also at what is in it, but
// not deeper. The zero Watch looks at nothing.
type Watch struct {
	paths   []string
	settled view // what was taken note of
	last    view
}

// A view is what was seen, by path.
type view map[string]mark

// A mark is what changes of a file when that does. The zero mark is of a file
// that is not there, or out of reach.
type mark struct {
	dev, ino, mode uint64
	size           int64
	written        syscall.Timespec
	changed        syscall.Timespec // also if somebody has set the other one back
}

// Look begins anew with these paths, as they are now.
func (w *Watch) Look(paths ...string) {
	w.paths = paths
	w.settled = look(paths)
	w.last = maps.Clone(w.settled)
}

// Also looks at more paths, as they are now. What is known of the others stays.
func (w *Watch) Also(paths ...string) {
	for _, path := range paths {
		if slices.Contains(w.paths, path) {
			continue
		}
		w.paths = append(slices.Clip(w.paths), path)
		now := look([]string{path})
		maps.Copy(w.settled, now)
		maps.Copy(w.last, now)
	}
}

// Changed looks again. It is true once for each change, and not before two
// looks have seen the same: a file that is being written is not yet what it is
// to be.
func (w *Watch) Changed() bool {
	now := look(w.paths)
	still := maps.Equal(now, w.last)
	w.last = now
	if !still || maps.Equal(now, w.settled) {
		return false
	}
	w.settled = maps.Clone(now)
	return true
}

// Differs is Changed for what appears whole, by rename(2): one look is enough. What
// changes all the time is seen all the same.
func (w *Watch) Differs() bool {
	now := look(w.paths)
	w.last = now
	if maps.Equal(now, w.settled) {
		return false
	}
	w.settled = maps.Clone(now)
	return true
}

func look(paths []string) view {
	v := view{}
	for _, path := range paths {
		var st syscall.Stat_t
		if syscall.Stat(path, &st) != nil {
			v[path] = mark{}
			continue
		}
		v[path] = markOf(st)
		if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			v.inside(path)
		}
	}
	return v
}

func markOf(st syscall.Stat_t) mark {
	return mark{dev: st.Dev, ino: st.Ino, mode: uint64(st.Mode), size: st.Size, written: st.Mtim, changed: st.Ctim}
}

// inside looks at the entries of a directory.
func (v view) inside(dir string) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries)
	if err != nil && err != io.EOF {
		return
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) == nil {
			v[path] = markOf(st)
		}
	}
}
