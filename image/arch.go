package image

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime"
)

// arch is what differs from one architecture to the next.
type arch struct {
	name      string // Go's
	debian    string // dpkg's
	multiarch string // the directory below /lib
	machine   elf.Machine

	// The loader's test of an environment string for "LD_", as compilers
	// write it, and the edit that makes it fail whatever the string.
	ldTest []int // bytes; -1 is any
	ldSkip func(code []byte)

	// Debian's tcpdump, where it is told to write a file and who it is to become
	// after that has been opened: test %user,%user; jne; mov $1,%chown. And the
	// edit that makes it mov $0.
	mayChown []int
	noChown  func(code []byte)

	// nilPointer edits code at addr that loads the address of a constant, to
	// load zero instead, and says how often.
	nilPointer func(code []byte, addr, constant uint64) int
}

var arches = []arch{{
	name: "amd64", debian: "amd64", multiarch: "x86_64-linux-gnu", machine: elf.EM_X86_64,
	// cmpb $'L',(%rax); jne; cmpb $'D',1(%rax); jne; cmpb $'_',2(%rax); jne
	ldTest:     []int{0x80, 0x38, 'L', 0x75, -1, 0x80, 0x78, 1, 'D', 0x75, -1, 0x80, 0x78, 2, '_', 0x75},
	ldSkip:     func(code []byte) { code[3] = 0xeb }, // jmp
	mayChown:   []int{0x48, 0x85, 0xff, 0x0f, 0x85, -1, -1, -1, -1, 0x41, 0xbc, 1, 0, 0, 0, 0x48},
	noChown:    func(code []byte) { code[11] = 0 },
	nilPointer: nilPointerAMD64,
}}

// lea constant(%rip),%reg and mov $0,%reg are seven bytes both, and neither
// touches the flags.
func nilPointerAMD64(code []byte, addr, constant uint64) int {
	const length = 7
	n := 0
	for i := 0; i+length <= len(code); i++ {
		c := code[i : i+length]
		if c[0] != 0x48 || c[1] != 0x8d || c[2]&0xc7 != 0x05 {
			continue
		}
		offset := int32(binary.LittleEndian.Uint32(c[3:]))
		if addr+uint64(i)+length+uint64(int64(offset)) != constant {
			continue
		}
		reg := c[2] >> 3 & 7
		copy(c, []byte{0x48, 0xc7, 0xc0 | reg, 0, 0, 0, 0})
		n++
	}
	return n
}

func archOf(name string) (arch, error) {
	for _, a := range arches {
		if a.name == name {
			return a, nil
		}
	}
	return arch{}, fmt.Errorf("image: architecture %q: not one of amd64", name)
}

// native says that programs of this architecture run here.
func (a arch) native() bool { return a.name == runtime.GOARCH }
