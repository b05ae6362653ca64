package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/loop"
)

// imageFile is a file that has a tools image in it, as far as is known.
type imageFile struct {
	*os.File
	path, fstype, sha256 string
	size                 int64
}

const buildAnew = `build one with "cartsshd image build"`

// openImageFile opens an image file and says what it is, before anything that
// is in it is looked at.
func openImageFile(path string) (*imageFile, error) {
	// O_NONBLOCK: a FIFO would wait for somebody to write to it.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: is not there: %s", path, buildAnew)
	}
	if err != nil {
		return nil, err
	}
	im := &imageFile{File: file, path: path}
	if im.fstype, err = loop.Identify(file); err == nil {
		err = im.measure()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return im, nil
}

func (im *imageFile) measure() (err error) {
	h := sha256.New()
	if im.size, err = io.Copy(h, im.File); err != nil {
		return err
	}
	im.sha256 = fmt.Sprintf("%x", h.Sum(nil))
	return nil
}

// read lets f read the tree that is in the image. As root it is attached, and
// whole says that owners and modes are the image's own; otherwise it is
// unpacked into a folder that goes again, and they are not quite.
func (im *imageFile) read(ctx context.Context, f func(tree fs.FS, whole bool) error) error {
	if os.Geteuid() == 0 {
		return im.readAttached(f)
	}
	dir, err := os.MkdirTemp("", "cartsshd-image-")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	if err := unpack(ctx, im.File, im.fstype, dir); err != nil {
		return fmt.Errorf("%s: %w", im.path, err)
	}
	return im.readFolder(filepath.Join(dir, "tools"), func(tree fs.FS) error { return f(tree, false) })
}

func (im *imageFile) readAttached(f func(tree fs.FS, whole bool) error) error {
	attached, err := loop.Open(im.path)
	if err != nil {
		return err
	}
	defer attached.Close()
	if attached.SHA256() != im.sha256 {
		return fmt.Errorf("%s: changed while it was read (try again)", im.path)
	}
	mount, err := attached.Mount(nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	return im.readFolder(fmt.Sprintf("/proc/self/fd/%d", mount.Fd()), func(tree fs.FS) error { return f(tree, true) })
}

// readFolder gives f a tree out of which no symlink leads.
func (im *imageFile) readFolder(dir string, f func(tree fs.FS) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", im.path, err)
	}
	defer root.Close()
	err = f(root.FS())
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w: %s", im.path, err, buildAnew)
}

// contents opens an image file, reads what is in it and closes it. What is
// printed is printed after that: when a pager ends it ends us too, and nothing
// must be left behind then.
func contents(ctx context.Context, path string) (*imageFile, *image.Contents, error) {
	im, err := openImageFile(path)
	if err != nil {
		return nil, nil, err
	}
	defer im.Close()
	var c *image.Contents
	err = im.read(ctx, func(tree fs.FS, _ bool) error {
		c, err = image.ReadContents(tree)
		return err
	})
	return im, c, err
}
