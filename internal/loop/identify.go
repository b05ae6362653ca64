package loop

import (
	"fmt"
	"os"
)

// Identify says which file system is in an image file, without attaching it:
// "squashfs", "erofs" or "ext4". It needs no privilege.
func Identify(file *os.File) (fstype string, err error) {
	if fstype, err = identify(file); err != nil {
		return "", fmt.Errorf("loop: %s: %w", file.Name(), err)
	}
	return fstype, nil
}
