// Package regular reads files that somebody else may have put something else in
// the place of: a FIFO, whose other end nobody must wait for, or a device.
//
// Who may have written them it does not judge. It is for files that are small.
package regular

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// Read returns at most so many bytes of the file at path, and what fstat(2) says of
// the very file that was read.
func Read(path string, most int64) ([]byte, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s: is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, nil, err
	}
	return data, info, nil
}
