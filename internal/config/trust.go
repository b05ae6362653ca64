package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// trusted fails unless nobody but root, and we, can write to a file.
func trusted(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: others may write to it: chmod go-w %s", path, path)
	}
	return ownedByUs(path, info)
}

func ownedByUs(path string, info fs.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s: belongs to uid %d, who could change it: chown root %s && chmod go-w %s", path, owner, path, path)
	}
	return nil
}

// trustedWay fails unless nobody but root, and we, can put another file in the
// place of this one: by any directory on the way to it, or any symbolic link.
func trustedWay(path string) error {
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return err
		}
		path = here + "/" + path // not cleaned: what is before .. may be a link
	}
	w := way{at: "/", left: maxLinks, todo: append([]string{"."}, strings.Split(path, "/")...)}
	for len(w.todo) > 0 {
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// maxLinks is how many symbolic links the kernel itself follows: see
// path_resolution(7).
const maxLinks = 40

// way is what is left to go from a directory, or the file itself.
type way struct {
	at   string // without links
	todo []string
	left int // links
}

func (w *way) step() error {
	next := filepath.Join(w.at, w.todo[0])
	w.todo = w.todo[1:]
	info, err := os.Lstat(next)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return w.through(next, info)
	}
	w.at = next
	if info.IsDir() {
		return trustedDir(next, info)
	}
	return nil // the file: it is looked at when it is open
}

// through follows a symbolic link. The mode of one means nothing.
func (w *way) through(link string, info fs.FileInfo) error {
	if w.left--; w.left < 0 {
		return errors.New(link + ": too many symbolic links")
	}
	if err := ownedByUs(link, info); err != nil {
		return err
	}
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	if filepath.IsAbs(target) {
		w.at = "/"
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	return nil
}

// trustedDir takes a directory to which all may write, but in which nobody can
// rename what is another's, such as /tmp.
func trustedDir(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%s: others may write to this directory, and so replace what is in it: chmod go-w %s", path, path)
	}
	return ownedByUs(path, info)
}
