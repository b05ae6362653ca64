package loop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is a loop device with a tools image behind it, whoever has put it there.
type Device struct {
	Name         string // /dev/loop3
	Major, Minor uint32
	File         string // what is behind it, as the kernel calls it; " (deleted)" follows the name of one that is gone
}

// Devices lists those that there are now.
func Devices() ([]Device, error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	var list []Device
	for _, dir := range dirs {
		d := Device{Name: "/dev/" + filepath.Base(filepath.Dir(dir)), File: line(dir + "/backing_file")}
		if line(dir+"/autoclear") != "1" || !d.ours() {
			continue // and others' are not even opened: it might be in their way
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Name, &st); err != nil {
			return nil, fmt.Errorf("loop: %w", &os.PathError{Op: "stat", Path: d.Name, Err: err})
		}
		d.Major, d.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		list = append(list, d)
	}
	return list, nil
}

func line(file string) string {
	text, _ := os.ReadFile(file)
	return strings.TrimSuffix(string(text), "\n")
}

func (d Device) ours() bool {
	f, err := os.Open(d.Name)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	return err == nil && unix.ByteSliceToString(info.File_name[:]) == mark && info.Flags == flags
}
