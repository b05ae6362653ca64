package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// reserved are the files that make an image one, and private.
var reserved = []string{"ld.so", manifestName, lockName, "lib/libc.so.6", "lib/libnss_crashcart.so.2", "nsswitch.conf", "bin/bash", "bin/sh", "r", ".crashcartrc"}

// addFiles lays the builder's own folder over the image. Nothing in it may lead
// out of it, nor take the place of what keeps the image private.
func (b *build) addFiles(t *tree) error {
	if b.Files == "" {
		return nil
	}
	root, err := filepath.Abs(b.Files)
	if err != nil {
		return err
	}
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		return fmt.Errorf("--files: %s: %w", root, cmp.Or(bare(err), errors.New("is not a folder")))
	}
	if _, err := os.Stat(filepath.Join(root, "bin")); err != nil {
		b.logf("--files: %s has no folder bin: no command is added", root)
	}
	t.own = &source{root: root, bins: []string{"/bin"}, libs: []string{"/lib"}}
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("--files: %w", err)
		}
		name := strings.TrimPrefix(t.own.below(file), "/")
		if d.IsDir() {
			return nil
		}
		if dir, base := path.Split(name); dir == "sbin/" { // which is bin
			name = "bin/" + base
		}
		if slices.Contains(reserved, name) {
			return fmt.Errorf("--files: %s: the image has to have its own: leave it out", file)
		}
		if err := t.addFile(name, t.own.below(file)); err != nil {
			return fmt.Errorf("--files: %s: %w", file, err)
		}
		return nil
	})
}

func (t *tree) addFile(name, from string) error {
	real, err := t.own.resolve(from)
	if err != nil {
		return errors.New("leads to nothing in the folder")
	}
	if st, err := os.Lstat(t.own.host(real)); err != nil || !st.Mode().IsRegular() {
		return cmp.Or(bare(err), errors.New("is not a file"))
	}
	delete(t.owner, name)
	if path.Dir(name) == "bin" {
		err := t.addProgram(t.own, name, real)
		if errors.Is(err, errNotELF) {
			return fmt.Errorf("%w, nor a script with a line of #! first", err)
		}
		return err
	}
	return t.copyFile(t.own, real, name)
}
