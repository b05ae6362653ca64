// Package loop turns an image file into detached, read-only mounts of it.
//
// The image is attached once and mounted nowhere: each session gets a clone
// that only it can see, and when the last descriptor is gone the kernel takes
// the loop device back, whatever happened to the process that opened it.
//
// It needs root, LOOP_CONFIGURE (Linux 5.8), and for user namespaces
// mount_setattr(2) (5.12) and a file system that can be id-mapped (ext4 5.12,
// erofs 5.19, squashfs 6.2).
package loop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Image is a tools image behind a loop device, mounted nowhere.
type Image struct {
	*File
	mount  *os.File // detached
	anchor *anchor  // where this kernel clones from, if not from mount
}

// Open is OpenFile and Attach.
func Open(path string) (*Image, error) {
	file, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	return file.Attach()
}

// Attach puts the file behind a loop device, read-only, and opens its file
// system. Who opens a file that is open already shares its loop device, also
// with other processes. The File is the Image's from here on, and closed if
// there is none.
func (f *File) Attach() (*Image, error) {
	im, err := f.attach()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	clone, err := im.Mount(nil)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.15 or so, only what is attached can be cloned.
		if err = im.settle(); err == nil {
			clone, err = im.Mount(nil)
		}
	}
	if err != nil {
		im.Close()
		return nil, err
	}
	return im, clone.Close()
}

// attach does all of Attach but to try a clone.
func (f *File) attach() (*Image, error) {
	mount, err := mountFile(f.file, f.fstype)
	if err != nil {
		return nil, fmt.Errorf("loop: %s: %w", f.path, err)
	}
	return &Image{File: f, mount: mount}, nil
}

// settle gives the image's mount a place to be cloned from.
func (im *Image) settle() (err error) {
	if im.anchor, err = newAnchor(im.mount); err != nil {
		return fmt.Errorf("loop: %s: %w", im.path, err)
	}
	return nil
}

// mountFile is the file's way through a loop device to a mount.
func mountFile(file *os.File, fstype string) (*os.File, error) {
	device, err := attach(file)
	if err != nil {
		return nil, err
	}
	// The superblock holds the device from here on; when that goes, AUTOCLEAR
	// gives it back.
	defer device.Close()
	return fsmount(fstype, device.Name())
}

// Mount returns a fresh detached clone of the image's mount, for one session.
// With a user namespace (an open /proc/PID/ns/user) the clone is id-mapped, so
// that files of root are files of that namespace's root; nil means none.
func (im *Image) Mount(userns *os.File) (*os.File, error) {
	clone, err := im.clone()
	if err != nil {
		return nil, fmt.Errorf("loop: %s: open_tree: %w", im.path, err)
	}
	if userns == nil {
		return clone, nil
	}
	if err := idmap(clone, userns); err != nil {
		clone.Close()
		return nil, fmt.Errorf("loop: %s: id-mapped mount: %w", im.path, err)
	}
	return clone, nil
}

func (im *Image) clone() (*os.File, error) {
	if im.anchor != nil {
		return im.anchor.clone()
	}
	return cloneOf(im.mount)
}

// cloneOf clones a mount. Until it is closed the descriptor pins the number,
// also against a Close meanwhile.
func cloneOf(mount *os.File) (clone *os.File, err error) {
	raw, err := mount.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { clone, err = openTree(int(fd), "") }); e != nil {
		return nil, e
	}
	return clone, err
}

func openTree(dir int, path string) (*os.File, error) {
	fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tools"), nil
}

// idmap maps the files' owners as the user namespace maps its own. Only a
// mount that nobody has seen yet can be mapped.
func idmap(mount, userns *os.File) error {
	return unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(userns.Fd()),
	})
}

// Close gives the image up. Clones live on until they are closed too.
func (im *Image) Close() error {
	var err error
	if im.anchor != nil {
		err = im.anchor.ns.Close()
	}
	return errors.Join(err, im.mount.Close(), im.File.Close())
}
