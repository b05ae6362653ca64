package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stateFile is what a Docker engine has on disk of one container, as read. It
// is not changed any more.
type stateFile struct {
	id      string // of its directory
	path    string // below the directory of all
	version fileVersion
	found   Found
	err     error // why it says nothing
}

// fileVersion proves that a file which is only ever replaced is still the one
// that was read.
type fileVersion struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func versionOf(st *unix.Stat_t) fileVersion {
	return fileVersion{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// settled tells whether the next change will make another version. Timestamps
// are those of the last tick of the kernel's clock, on old file systems of the
// last second: what has just changed may change again, and look the same.
func (v fileVersion) settled() bool {
	return time.Since(time.Unix(v.mtime.Unix())) > 2*time.Second
}

const maxStateFile = 1 << 20 // bytes

// unchanged asks the kernel whether this is still what there is.
func (f *stateFile) unchanged(dir *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), f.path, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && versionOf(&st) == f.version
}

// copy returns what the file says, to keep.
func (f *stateFile) copy() Found {
	found := f.found
	found.Labels = maps.Clone(found.Labels)
	return found
}

// readStateFile returns nil if there is none: a container that is being made
// or removed has a directory only.
func readStateFile(dir *os.File, id string) *stateFile {
	f := &stateFile{id: id, path: id + "/config.v2.json"}
	var text []byte
	text, f.version, f.err = readVersion(dir, f.path)
	if errors.Is(f.err, unix.ENOENT) || errors.Is(f.err, unix.ENOTDIR) {
		return nil
	}
	if f.err == nil {
		f.found, f.err = parseState(id, text)
		f.found.Source = dir.Name() + "/" + f.path
	}
	if f.err != nil {
		f.err = fmt.Errorf("%s/%s: %w", dir.Name(), f.path, f.err)
	}
	return f
}

// readVersion reads a file below dir, and no symbolic link on the way.
func readVersion(dir *os.File, path string) (text []byte, v fileVersion, err error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, // a FIFO would wait for a writer
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, v, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, v, err
	}
	v = versionOf(&st)
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, v, errors.New("is not a regular file")
	case st.Size > maxStateFile:
		return nil, v, fmt.Errorf("is larger than %d bytes", maxStateFile)
	}
	// What is longer by now was written to, and is half a file.
	text = make([]byte, st.Size)
	_, err = io.ReadFull(file, text)
	return text, v, err
}

func parseState(id string, text []byte) (Found, error) {
	var in inspection
	if err := json.Unmarshal(text, &in); err != nil {
		return Found{}, err
	}
	found, err := in.found()
	if err == nil && found.ID != id {
		err = fmt.Errorf("is about another container, %s", found.ID)
	}
	return found, err
}

// stateFiles are those of all containers.
type stateFiles struct {
	byID   map[string]*stateFile
	byName map[string]*stateFile // nil where several are called so

	ids     []string    // all that there are directories of
	dir     fileVersion // of the directory that these are in
	settled bool        // no change of it can have been missed
}

func index(files []*stateFile) *stateFiles {
	all := &stateFiles{byID: make(map[string]*stateFile, len(files)), byName: make(map[string]*stateFile, len(files))}
	for _, f := range files {
		all.byID[f.id] = f
		if f.err != nil {
			continue
		}
		_, again := all.byName[f.found.Name]
		all.byName[f.found.Name] = f
		if again {
			all.byName[f.found.Name] = nil
		}
	}
	return all
}

// exact returns the one whose full ID or name this is, if it can be told
// without the others.
func (all *stateFiles) exact(id string) *stateFile {
	f := all.byName[id]
	if isContainerID(id) {
		f = all.byID[id] // which comes before a name
	}
	if f == nil || f.err != nil {
		return nil
	}
	return f
}
