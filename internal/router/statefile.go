package router

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// layout is how a runtime keeps its containers in a directory: each has a
// directory of its own in it, with these files.
type layout struct {
	files []string // the first must be there; the others may be
	holds func(name string) bool
	parse func(dir, id string, texts [][]byte) (Found, error)

	// oneEach tells that the runtime gives a name to one container only.
	oneEach bool
}

// stateFile is what a runtime has on disk of one container, as read. It is not
// changed any more.
type stateFile struct {
	id       string   // of its directory
	paths    []string // below the directory of all
	versions []fileVersion
	found    Found
	foreign  bool  // another runtime's
	err      error // why it says nothing
}

// errForeign is what parse makes of a container that is another runtime's.
var errForeign = errors.New("another runtime's container")

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
	for i, version := range f.versions {
		var st unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), f.paths[i], &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			st, err = unix.Stat_t{}, nil
		}
		if err != nil || versionOf(&st) != version {
			return false
		}
	}
	return len(f.versions) > 0
}

// copy returns what the file says, to keep.
func (f *stateFile) copy() Found {
	found := f.found
	found.Labels = maps.Clone(found.Labels)
	return found // Names and cgroups are nobody's to change
}

// read returns nil if there is none: a container that is being made or removed
// has a directory only.
func (l *layout) read(dir *os.File, id string) *stateFile {
	f := &stateFile{id: id}
	texts := make([][]byte, len(l.files))
	err := trustedEntry(dir, id)
	for i, name := range l.files {
		if err != nil {
			break
		}
		var version fileVersion
		texts[i], version, err = readVersion(dir, id+"/"+name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			if i == 0 {
				return nil
			}
			texts[i], version, err = nil, fileVersion{}, nil
		}
		f.paths, f.versions = append(f.paths, id+"/"+name), append(f.versions, version)
	}
	if err == nil {
		f.found, err = l.parse(dir.Name(), id, texts)
	}
	if errors.Is(err, errForeign) {
		f.found, f.foreign = Found{}, true
		return f
	}
	if err != nil {
		at := id + "/" + l.files[max(0, len(f.paths)-1)]
		f.err = fmt.Errorf("%s/%s: %w", dir.Name(), at, err)
		return f
	}
	f.found.Source = dir.Name() + "/" + f.paths[0]
	return f
}

// trustedEntry fails if others than root may put files in a directory. What is
// none is seen when it is opened.
func trustedEntry(dir *os.File, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return trustedStat(&st)
}

// trustedStat fails if others than root may write. Who could would choose the
// labels by which a policy judges.
func trustedStat(st *unix.Stat_t) error {
	if st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return errors.New("others may write to it")
	}
	return nil
}

// trustedIn is trustedStat for what is below a directory, which may be a user's,
// for what that user says.
func trustedIn(dir *os.File, st *unix.Stat_t) error {
	var above unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &above); err != nil {
		return err
	}
	if st.Uid == above.Uid && st.Mode&0o022 == 0 {
		return nil
	}
	return trustedStat(st)
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
	if err := trustedIn(dir, &st); err != nil {
		return nil, v, err
	}
	// What is longer by now was written to, and is half a file.
	text = make([]byte, st.Size)
	_, err = io.ReadFull(file, text)
	return text, v, err
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
		if f.err != nil || f.foreign {
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
	f := all.byID[id] // which comes before a name
	if f == nil && !isContainerID(id) {
		f = all.byName[id]
	}
	if f == nil || f.err != nil || f.foreign {
		return nil
	}
	return f
}
