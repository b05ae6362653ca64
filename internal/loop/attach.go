package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR

// mark is what the kernel keeps as the name of the file, of which it knows the
// true one anyway: by it our devices are told from others'.
const mark = "cartsshd tools"

// attach returns a loop device with the file behind it, read-only. The device
// is gone again when its last user is.
func attach(file *os.File) (*os.File, error) {
	if device := attached(file); device != nil {
		return device, nil
	}
	return configure(file)
}

// attached finds the device of somebody who opened the same file, or nil. Its
// file system is open already, and what was read of it is in memory. It cannot
// go any more once we have it open.
func attached(file *os.File) *os.File {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		return nil
	}
	devices, _ := filepath.Glob("/sys/block/loop*")
	for _, name := range devices {
		if text, _ := os.ReadFile(name + "/loop/backing_file"); string(text) != path+"\n" {
			continue // nor opened: it may be in somebody's way
		}
		device, err := os.Open("/dev/" + filepath.Base(name))
		if err != nil {
			continue
		}
		if holds(device, file) {
			return device
		}
		device.Close()
	}
	return nil
}

// holds reports whether this very file, and not another that had its name, is
// behind the device, as configure puts it there.
func holds(device, file *os.File) bool {
	info, err := file.Stat()
	if err != nil {
		return false
	}
	have, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if err != nil {
		return false
	}
	st := info.Sys().(*syscall.Stat_t)
	return have.Device == st.Dev && have.Inode == st.Ino &&
		have.Flags == flags && have.Offset == 0 && have.Sizelimit == 0
}

// configure finds a free loop device and puts the file behind it.
func configure(file *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, needs(err))
	}
	defer control.Close()
	// Between asking for a free device and taking it, somebody else may have
	// taken it. Every such defeat is somebody's victory, so this ends.
	for {
		device, err := take(control, file)
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) {
			continue
		}
		return device, err
	}
}

// needs tells what a loop device needs that is not there.
func needs(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return " (try: modprobe loop)"
	case errors.Is(err, os.ErrPermission):
		return " (must be root)"
	}
	return ""
}

func take(control, file *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("no free loop device: %w", err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Info: unix.LoopInfo64{Flags: flags},
	}
	copy(config.Info.File_name[:unix.LO_NAME_SIZE-1], mark)
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		device.Close()
		return nil, fmt.Errorf("%s: %w", device.Name(), err)
	}
	return device, nil
}

// fsmount opens the file system on a device: a mount that is attached nowhere,
// in no mount namespace.
func fsmount(fstype, device string) (*os.File, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("this kernel has no %s (try: modprobe %s)", fstype, fstype)
	}
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	fs := os.NewFile(uintptr(fd), fstype)
	defer fs.Close()
	for _, step := range []func() error{
		func() error { return unix.FsconfigSetString(fd, "source", device) },
		func() error { return unix.FsconfigSetFlag(fd, "ro") },
		func() error { return unix.FsconfigCreate(fd) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("is not a usable %s: %w%s: %s", fstype, err, complaints(fd), makeOne)
		}
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fmt.Errorf("fsmount %s: %w%s", fstype, err, complaints(fd))
	}
	return os.NewFile(uintptr(mount), "tools"), nil
}

// complaints are what the file system has to say: one message a read, "e " for
// an error before it, until ENODATA.
func complaints(fd int) string {
	var all strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			return all.String()
		}
		if msg, ok := strings.CutPrefix(string(buf[:n]), "e "); ok {
			all.WriteString(": " + strings.TrimSpace(msg))
		}
	}
}
