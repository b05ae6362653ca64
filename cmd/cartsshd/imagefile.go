package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/loop"
)

// imageFile is a file that has a tools image in it, as far as is known.
type imageFile struct {
	*loop.File
	sha256 string
}

const buildAnew = `build one with "cartsshd image build"`

// openImageFile opens an image file and says what it is, before anything that
// is in it is looked at.
func openImageFile(path string) (*imageFile, error) {
	file, err := loop.OpenFile(path)
	if err != nil {
		return nil, err
	}
	sum, err := file.SHA256()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &imageFile{File: file, sha256: sum}, nil
}

func (im *imageFile) size() int64 { return im.Info().Size() }

// read lets f read the tree that is in the image, and closes it. As root it is
// attached, and whole says that owners and modes are the image's own; otherwise
// it is unpacked into a folder that goes again, and they are not quite.
func (im *imageFile) read(ctx context.Context, f func(tree fs.FS, whole bool) error) error {
	if os.Geteuid() == 0 {
		return im.readAttached(f)
	}
	defer im.Close()
	dir, err := os.MkdirTemp("", "cartsshd-image-")
	if err != nil {
		return err
	}
	defer removeAll(dir)
	if err := unpack(ctx, im.Raw(), im.Type(), dir); err != nil {
		return fmt.Errorf("%s: %w", im.Path(), err)
	}
	return im.readFolder(filepath.Join(dir, "tools"), func(tree fs.FS) error { return f(tree, false) })
}

func (im *imageFile) readAttached(f func(tree fs.FS, whole bool) error) error {
	attached, err := im.Attach()
	if err != nil {
		return err
	}
	defer attached.Close()
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
		return fmt.Errorf("%s: %w", im.Path(), err)
	}
	defer root.Close()
	err = f(root.FS())
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w: %s", im.Path(), err, buildAnew)
}

// contents opens an image file, reads what is in it and closes it. What is
// printed is printed after that: when a pager ends it ends us too, and nothing
// must be left behind then.
func contents(ctx context.Context, path string) (*imageFile, *image.Contents, error) {
	im, err := openImageFile(path)
	if err != nil {
		return nil, nil, err
	}
	var c *image.Contents
	err = im.read(ctx, func(tree fs.FS, _ bool) error {
		c, err = image.ReadContents(tree)
		return err
	})
	return im, c, err
}
