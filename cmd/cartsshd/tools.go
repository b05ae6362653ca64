package main

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/loop"
)

// tools are an open tools image. Several hold it: the configuration that has
// it, and each session that was given it. The last to let go closes it.
type tools struct {
	*loop.Image
	arch    string // as Go calls it
	holders atomic.Int32
}

// hold is for who is sure that somebody holds it already.
func (t *tools) hold() *tools {
	t.holders.Add(1)
	return t
}

// Close lets go.
func (t *tools) Close() error {
	if t.holders.Add(-1) > 0 {
		return nil
	}
	return t.Image.Close()
}

// ID names the image in the record. Who opened it for that has seen that its
// file can be read.
func (t *tools) ID() string {
	sum, _ := t.SHA256()
	return "sha256:" + sum
}

// fit reports whether the tools run here. They run on the host's kernel, and
// so does our own helper: its architecture is the one that counts, whatever
// programs a container has, and whatever runs those (qemu-user).
func (t *tools) fit() bool { return t.arch == runtime.GOARCH }

// openTools opens a tools image and looks into it.
func openTools(c config.Image) (*tools, error) {
	file, err := openFile(c.Path)
	if err != nil {
		return nil, err
	}
	return attachTools(file, c.SHA256)
}

// openFile opens the file of a tools image, which nobody may change but root
// and we.
func openFile(path string) (*loop.File, error) {
	file, err := loop.OpenFile(path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(trusted(path, file.Info()), unwritten(file)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// unwritten fails if somebody has the file open to write to it, who opened it
// when that was still theirs: a lease for reading is not given then
// (fcntl_locking(2), F_SETLEASE). Where the file system has no leases, nobody
// can tell.
func unwritten(file *loop.File) error {
	fd := file.Raw().Fd()
	_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
	if errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("tools image: %s: somebody has it open and may write to it: put a copy in its place: install -m 644 %s NEW && mv NEW %s", file.Path(), file.Path(), file.Path())
	}
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		return err
	}
	return nil
}

// attachTools takes the file over. Nothing is attached that has another digest
// than it is to have.
func attachTools(file *loop.File, pin config.Digest) (*tools, error) {
	if err := verify(file, pin); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	image, err := file.Attach()
	if err != nil {
		return nil, err
	}
	arch, err := readShell(image)
	if err != nil {
		_ = image.Close()
		return nil, fmt.Errorf("%s: %w: build one with \"cartsshd image build\"", file.Path(), err)
	}
	t := &tools{Image: image, arch: arch}
	return t.hold(), nil
}

// again holds the tools once more, for whoever has opened their file again. It
// is read again only if something was done to it. If that changed what is in it,
// nobody could say which parts of it sessions see from now on, of the old or of
// the new: such tools are not to be had under the new digest.
func (t *tools) again(file *loop.File, pin config.Digest) (*tools, error) {
	defer file.Close()
	if !t.Same(file) {
		sum, err := file.SHA256()
		if err != nil {
			return nil, err
		}
		if "sha256:"+sum != t.ID() {
			return nil, fmt.Errorf("tools image: %s: was written to while it is in use: put another file in its place, with mv or install", file.Path())
		}
	}
	if err := verify(t.File, pin); err != nil {
		return nil, err
	}
	return t.hold(), nil
}

func verify(file *loop.File, pin config.Digest) error {
	if pin == "" {
		return nil
	}
	return file.Verify(string(pin))
}

// readShell returns the architecture of the image's shell. If it is ours the
// shell is read to its end: a file system may be whole enough to be mounted,
// and have nothing in it that could be run.
func readShell(image *loop.Image) (arch string, err error) {
	mount, err := image.Mount(nil)
	if err != nil {
		return "", err
	}
	defer mount.Close()
	shell, err := openBeneath(mount, "bin/bash")
	if err != nil {
		return "", err
	}
	defer shell.Close()
	if arch, err = architecture(shell); err != nil || arch != runtime.GOARCH {
		return arch, err
	}
	_, err = io.Copy(io.Discard, shell)
	return arch, err
}

// openBeneath opens a file of the image: a link in it must not lead to one of
// the host's.
func openBeneath(mount *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(mount.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Those that Go and Linux both have.
var architectures = map[uint16]string{
	uint16(elf.EM_X86_64):    "amd64",
	uint16(elf.EM_AARCH64):   "arm64",
	uint16(elf.EM_386):       "386",
	uint16(elf.EM_ARM):       "arm",
	uint16(elf.EM_LOONGARCH): "loong64",
	uint16(elf.EM_PPC64):     "ppc64",
	uint16(elf.EM_RISCV):     "riscv64",
	uint16(elf.EM_S390):      "s390x",
}

// architecture reads as far as e_machine, and believes nothing else (elf(5)).
func architecture(program io.Reader) (string, error) {
	header := make([]byte, 20) // a shorter file's rest stays zero
	if _, err := io.ReadFull(program, header); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if !bytes.HasPrefix(header, []byte(elf.ELFMAG)) {
		return "", errors.New("bin/bash: is not an ELF program")
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(header[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	machine := order.Uint16(header[18:])
	return cmp.Or(architectures[machine], fmt.Sprintf("ELF machine %d", machine)), nil
}
