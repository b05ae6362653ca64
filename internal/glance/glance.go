// Package glance notices that files have changed, by looking at them with stat(2)
// every now and then.
//
// inotify(7) would be told sooner, and not at all of what goes on behind a symbolic
// link, a network file system or a directory that is not there yet; and one that is moved
// into the place of another is no longer the one it watches. Some tens of stat(2) a
// second are nothing.
package glance

import (
	"context"
	"maps"
	"os"
	"syscall"
	"time"
)

// every is how often it looks. What has changed is noticed by the second look.
const every = 500 * time.Millisecond

// look is what can be seen of a file without opening it. The zero look is that
// of a file that is not there.
type look struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	there        bool
}

func at(path string) look {
	info, err := os.Stat(path)
	if err != nil {
		return look{}
	}
	st := info.Sys().(*syscall.Stat_t)
	return look{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim, true}
}

// A Watcher knows how some files looked last.
type Watcher struct {
	paths       func() []string
	known, last map[string]look
}

// New returns one for files, which may be directories: then it is about which
// files they hold. paths is asked anew each time, since files may name other
// files. That one is new in it is no change.
func New(paths func() []string) *Watcher {
	now := see(paths())
	return &Watcher{paths, now, maps.Clone(now)}
}

// Watch calls changed, in its own goroutine, whenever something has changed, until
// ctx is done.
func (w *Watcher) Watch(ctx context.Context, changed func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.Look() {
			changed()
		}
	}
}

// Look tells whether something has changed since it last said so. While two looks in
// a row differ the files are still being written, and it waits.
func (w *Watcher) Look() bool {
	now := see(w.paths())
	still := maps.Equal(now, w.last)
	w.last = now
	if !still || !differ(w.known, now) {
		return false
	}
	w.known = maps.Clone(now)
	return true
}

func see(paths []string) map[string]look {
	seen := make(map[string]look, len(paths))
	for _, path := range paths {
		seen[path] = at(path)
	}
	return seen
}

// differ compares what is to be seen now with what is known, and gets to know
// what is new.
func differ(known, now map[string]look) (differ bool) {
	for path, l := range now {
		old, ok := known[path]
		differ = differ || ok && old != l
		if !ok {
			known[path] = l
		}
	}
	return differ
}
