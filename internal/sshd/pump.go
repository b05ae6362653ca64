package sshd

import (
	"errors"
	"io"
	"math"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pump carries a command's output to whoever reads it, until it ends or nobody
// reads any more. A buffer is held only while there is something in it.
//
// Output whose session is over (see hangUp) is not waited for any more: who
// still has the other end open is nobody of ours, and may never close it.
func pump(to io.Writer, from *os.File, pool *buffers) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	for ready, left := raw.Read, math.MaxInt; left > 0; {
		buf, err := readable(ready, pool)
		if len(buf) > 0 {
			left -= len(buf)
			_, werr := to.Write(buf)
			pool.put(buf)
			if werr != nil {
				return werr
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			ready, left = atOnce(raw), pipeSize
		case err != nil:
			return err
		}
	}
	return nil
}

// hangUp has pumps take what there is, and wait no longer.
func hangUp(from *os.File) { from.SetReadDeadline(time.Now()) }

// atOnce is the Read of a RawConn that does not wait: nothing yet is the end.
func atOnce(raw syscall.RawConn) func(func(uintptr) bool) error {
	return func(f func(uintptr) bool) error {
		some := false
		if err := raw.Control(func(fd uintptr) { some = f(fd) }); err != nil {
			return err
		}
		if !some {
			return io.EOF
		}
		return nil
	}
}

// readable waits until there is something to read, and then reads all that
// there is: a terminal gives 4 KiB at a time, and each write to the client
// costs a packet. The error is io.EOF at the end. What it returns is the
// pool's, unless it is empty.
func readable(ready func(func(uintptr) bool) error, pool *buffers) (buf []byte, err error) {
	ended := false
	err = ready(func(fd uintptr) bool {
		full := pool.get()
		buf, ended = drain(int(fd), full[:0])
		if len(buf) == 0 {
			pool.put(full)
		}
		return len(buf) > 0 || ended
	})
	if ended {
		err = io.EOF
	}
	return buf, err
}

// drain reads until buf is full or nothing is left for now. A terminal whose
// last program has gone says EIO.
func drain(fd int, buf []byte) (_ []byte, ended bool) {
	for len(buf) < cap(buf) {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return buf, false
		}
		if err != nil || n == 0 {
			return buf, true
		}
		buf = buf[:len(buf)+n]
	}
	return buf, false
}

// feed carries what a client sends to the command. It waits with a small
// buffer, and takes a large one while the small one fills.
func feed(to io.Writer, from io.Reader) error {
	small := make([]byte, 512)
	for {
		n, err := pass(to, from, small)
		for err == nil && n == len(small) {
			large := bulk.get()
			n, err = pass(to, from, large)
			bulk.put(large)
			n = min(n, len(small))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func pass(to io.Writer, from io.Reader, buf []byte) (int, error) {
	n, err := from.Read(buf)
	if n == 0 {
		return 0, err
	}
	if _, werr := to.Write(buf[:n]); werr != nil {
		return n, werr
	}
	return n, err
}
