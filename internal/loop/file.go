package loop

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// File is an image file that is open, and behind no loop device yet: what is
// to be asked of it first is asked of the file that is then attached, not of
// another that has its name by then.
type File struct {
	path   string
	file   *os.File
	fstype string
	info   os.FileInfo // as it was opened
	sum    func() (string, error)
}

// OpenFile opens the image file at path. It is one by its first bytes; what
// else there is of it, the kernel finds when it is attached.
func OpenFile(path string) (*File, error) {
	// Not blocking: a FIFO is to be told from an image, not waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("loop: %s: %w%s", path, cause(err), hint(err))
	}
	f := &File{path: path, file: file}
	f.sum = sync.OnceValues(f.digest)
	f.info, err = file.Stat()
	if err == nil {
		f.fstype, err = identify(file, f.info)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("loop: %s: %w", path, cause(err))
	}
	return f, nil
}

// Path is what the file was opened by. It may be another's name by now.
func (f *File) Path() string { return f.path }

// Type is the file system in it: "squashfs", "erofs" or "ext4".
func (f *File) Type() string { return f.fstype }

// Raw is the open file itself, for a program that reads it in another way. It
// stays the File's.
func (f *File) Raw() *os.File { return f.file }

// Info is what the file was when it was opened.
func (f *File) Info() os.FileInfo { return f.info }

// Same reports whether both are one file, and nothing was done to it between
// the opening of the one and of the other.
func (f *File) Same(other *File) bool {
	a, b := f.info.Sys().(*syscall.Stat_t), other.info.Sys().(*syscall.Stat_t)
	return os.SameFile(f.info, other.info) && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
}

// SHA256 is the digest of the file, in hex. The file is read when this is first
// asked for, and not again: 50 MB take some 30 ms where the processor helps.
func (f *File) SHA256() (string, error) { return f.sum() }

func (f *File) digest() (string, error) {
	h := sha256.New()
	// Not the file's own offset: nobody else's business.
	if _, err := io.Copy(h, io.NewSectionReader(f.file, 0, 1<<62)); err != nil {
		return "", fmt.Errorf("loop: %s: %w", f.path, cause(err))
	}
	// Not by its ctime: that it has lost its name to another does no harm.
	now, err := f.file.Stat()
	if err == nil && (now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime())) {
		err = errors.New("was changed while it was read: put it in place with mv or install, when it is whole")
	}
	if err != nil {
		return "", fmt.Errorf("loop: %s: %w", f.path, cause(err))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Verify fails unless the file has this digest, in hex.
func (f *File) Verify(want string) error {
	sum, err := f.SHA256()
	if err != nil {
		return err
	}
	if sum != want {
		return fmt.Errorf("loop: %s: its sha256 is to be %s, and is %s: put the right file there, or name its digest in the configuration", f.path, want, sum)
	}
	return nil
}

// Close is for a File that was not attached.
func (f *File) Close() error { return f.file.Close() }
