package nsexec

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// TTY is a terminal of the session's own, on a devpts instance that neither
// the host nor the container sees.
type TTY struct {
	// Master is non-blocking, in Go's poller. Never call its Fd method, which
	// makes it blocking. Reads fail with EIO once nobody has the terminal open.
	Master *os.File

	slave *os.File
	pts   *os.File // detached mount
}

// OpenTTY makes one. The caller closes it.
func OpenTTY() (*TTY, error) {
	pts, err := newPts()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(rawFD(pts), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		pts.Close()
		return nil, &JoinError{Step: "open ptmx", Err: err}
	}
	t := &TTY{Master: os.NewFile(uintptr(fd), "ptmx"), pts: pts}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Close()
		return nil, &JoinError{Step: "unlock pty", Err: err}
	}
	// By descriptor, not by name: there is no name yet (Linux 4.13).
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Close()
		return nil, &JoinError{Step: "open pty peer", Err: errno}
	}
	t.slave = os.NewFile(slave, "pts")
	return t, nil
}

// Close hangs the terminal up.
func (t *TTY) Close() error { return errors.Join(t.Master.Close(), t.release()) }

// release gives up all but the master, once the session has the rest: reading
// the master must fail when the session's last process has closed its end.
func (t *TTY) release() error {
	var errs []error
	for _, f := range []*os.File{t.slave, t.pts} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	t.slave, t.pts = nil, nil
	return errors.Join(errs...)
}

// Resize sets the window size: characters, then pixels. Each is cut to 16
// bits, which is what a terminal has (TIOCSWINSZ(2const)).
func (t *TTY) Resize(cols, rows, width, height uint32) error {
	size := &unix.Winsize{Row: clip(rows), Col: clip(cols), Xpixel: clip(width), Ypixel: clip(height)}
	return control(t.Master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

func clip(n uint32) uint16 { return uint16(min(n, 0xffff)) }

// SetModes applies the encoded terminal modes of a pty-req (RFC 4254, section
// 8): an opcode, then a 32-bit argument, ended by opcode 0. Unknown opcodes
// are skipped; 160 and more end the list, as their arguments have no form.
func (t *TTY) SetModes(modes []byte) error {
	return control(t.Master, func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		for len(modes) >= 5 && modes[0] != 0 && modes[0] < 160 {
			setMode(tio, modes[0], binary.BigEndian.Uint32(modes[1:]))
			modes = modes[5:]
		}
		return unix.IoctlSetTermios(fd, unix.TCSETS, tio)
	})
}

func setMode(tio *unix.Termios, op byte, v uint32) {
	if cc, ok := modeChars[op]; ok {
		tio.Cc[cc] = byte(v) // 255 is _POSIX_VDISABLE for SSH ...
		if v == 255 {
			tio.Cc[cc] = 0 // ... and 0 for Linux
		}
		return
	}
	f, ok := modeFlags[op]
	if !ok {
		return
	}
	field := map[byte]*uint32{'i': &tio.Iflag, 'l': &tio.Lflag, 'o': &tio.Oflag, 'c': &tio.Cflag}[f.field]
	*field &^= f.clear
	if v != 0 {
		*field |= f.set
	}
}

type modeFlag struct {
	field      byte
	set, clear uint32
}

func bit(field byte, bit uint32) modeFlag { return modeFlag{field, bit, bit} }

// RFC 4254, section 8. VDSUSP, VFLUSH, VSTATUS and baud rates have no meaning
// for a Linux pty.
var (
	modeChars = map[byte]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
		8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT,
		16: unix.VSWTC, 18: unix.VDISCARD,
	}
	modeFlags = map[byte]modeFlag{
		30: bit('i', unix.IGNPAR), 31: bit('i', unix.PARMRK), 32: bit('i', unix.INPCK), 33: bit('i', unix.ISTRIP),
		34: bit('i', unix.INLCR), 35: bit('i', unix.IGNCR), 36: bit('i', unix.ICRNL), 37: bit('i', unix.IUCLC),
		38: bit('i', unix.IXON), 39: bit('i', unix.IXANY), 40: bit('i', unix.IXOFF), 41: bit('i', unix.IMAXBEL),
		42: bit('i', unix.IUTF8),
		50: bit('l', unix.ISIG), 51: bit('l', unix.ICANON), 52: bit('l', unix.XCASE), 53: bit('l', unix.ECHO),
		54: bit('l', unix.ECHOE), 55: bit('l', unix.ECHOK), 56: bit('l', unix.ECHONL), 57: bit('l', unix.NOFLSH),
		58: bit('l', unix.TOSTOP), 59: bit('l', unix.IEXTEN), 60: bit('l', unix.ECHOCTL), 61: bit('l', unix.ECHOKE),
		62: bit('l', unix.PENDIN),
		70: bit('o', unix.OPOST), 71: bit('o', unix.OLCUC), 72: bit('o', unix.ONLCR), 73: bit('o', unix.OCRNL),
		74: bit('o', unix.ONOCR), 75: bit('o', unix.ONLRET),
		90: {'c', unix.CS7, unix.CSIZE}, 91: {'c', unix.CS8, unix.CSIZE}, 92: bit('c', unix.PARENB), 93: bit('c', unix.PARODD),
	}
)
