// Package loop turns an image file into detached, read-only mounts of it.
//
// The image is attached once and mounted nowhere: each session gets a clone
// that only it can see, and when the last descriptor is gone the kernel takes
// the loop device back, whatever happened to the process that opened it.
package loop

import "os"

// Image is a tools image behind a loop device, mounted nowhere.
type Image struct{ mount *os.File }

// Open attaches the image file at path, read-only, and opens its file system.
func Open(path string) (*Image, error) { panic("todo") }

// Mount returns a fresh detached clone of the image's mount, for one session.
// With a user namespace (an open /proc/PID/ns/user) the clone is id-mapped, so
// that files of root are files of that namespace's root; nil means none.
func (im *Image) Mount(userns *os.File) (*os.File, error) { panic("todo") }

// Close gives the image up. Clones live on until they are closed too.
func (im *Image) Close() error { panic("todo") }
