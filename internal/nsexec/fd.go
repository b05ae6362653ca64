package nsexec

import (
	"os"

	"golang.org/x/sys/unix"
)

// control runs f with the file's descriptor and keeps the file non-blocking,
// which its Fd method would not.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// rawFD is the file's number, good for as long as the caller keeps the file.
func rawFD(file *os.File) int {
	n := -1
	_ = control(file, func(fd int) error { n = fd; return nil })
	return n
}

// openPath opens a directory as a place, not for reading.
func openPath(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
