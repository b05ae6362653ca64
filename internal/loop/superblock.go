package loop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// superblock is how a file system is told by its first two kilobytes.
type superblock struct {
	fstype string
	offset int
	magic  []byte
	size   func(super []byte) uint64 // bytes the file must have; super starts at the file's
}

var superblocks = []superblock{
	{"squashfs", 0, []byte("hsqs"), func(b []byte) uint64 {
		return binary.LittleEndian.Uint64(b[40:]) // bytes_used
	}},
	{"erofs", 1024, []byte{0xe2, 0xe1, 0xf5, 0xe0}, func(b []byte) uint64 {
		b = b[1024:]
		return uint64(binary.LittleEndian.Uint32(b[36:])) << (b[12] & 31) // blocks, blkszbits
	}},
	{"ext4", 1024 + 56, []byte{0x53, 0xef}, func(b []byte) uint64 {
		b = b[1024:]
		return uint64(binary.LittleEndian.Uint32(b[4:])) << (10 + b[24]&31) // s_blocks_count_lo, s_log_block_size
	}},
}

const makeOne = `build one with "cartsshd image build"`

// identify says which file system the image is, and refuses what is none
// before the kernel has to.
func identify(file *os.File, st os.FileInfo) (fstype string, err error) {
	if st.IsDir() {
		return "", errors.New("is a directory, not an image file")
	}
	if !st.Mode().IsRegular() {
		return "", errors.New("is not a regular file")
	}
	if st.Size() == 0 {
		return "", errors.New("is empty: " + makeOne)
	}
	super := make([]byte, 2048) // a shorter file's rest stays zero
	if _, err := file.ReadAt(super, 0); err != nil && err != io.EOF {
		return "", cause(err)
	}
	for _, s := range superblocks {
		if !bytes.HasPrefix(super[s.offset:], s.magic) {
			continue
		}
		want := s.size(super)
		if want == 0 {
			continue
		}
		if want > uint64(st.Size()) {
			return "", fmt.Errorf("is truncated: %d bytes of %d: %s", st.Size(), want, makeOne)
		}
		return s.fstype, nil
	}
	return "", errors.New("is not a tools image (squashfs, erofs or ext4): " + makeOne)
}

// cause takes the path out of an error that will name it anyway.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func hint(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return ": " + makeOne
	}
	return ""
}
