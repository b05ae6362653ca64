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
	ldTest patch

	// Debian's tcpdump, where it is told to write a file and who it is to become
	// after that has been opened: each a make that is known, with the edit that
	// has it give the file to nobody, or nil where it asks whether there is one.
	chowns []patch

	// nilPointer edits code at addr that loads the address of a constant, to
	// load zero instead, and says how often. Nil is not known.
	nilPointer func(code []byte, addr, constant uint64) int
}

// patch is code to look for (-1 is any byte), and what to do to it.
type patch struct {
	code []int
	edit func(code []byte)
}

var arches = []arch{{
	name: "amd64", debian: "amd64", multiarch: "x86_64-linux-gnu", machine: elf.EM_X86_64,
	// cmpb $'L',(%rax); jne; cmpb $'D',1(%rax); jne; cmpb $'_',2(%rax); jne
	ldTest: patch{
		[]int{0x80, 0x38, 'L', 0x75, -1, 0x80, 0x78, 1, 'D', 0x75, -1, 0x80, 0x78, 2, '_', 0x75},
		func(code []byte) { code[3] = 0xeb }, // jmp
	},
	chowns: []patch{
		// Debian 12: test %user,%user; jne; mov $1,%chown, which becomes mov $0.
		{[]int{0x48, 0x85, 0xff, 0x0f, 0x85, -1, -1, -1, -1, 0x41, 0xbc, 1, 0, 0, 0, 0x48}, func(code []byte) { code[11] = 0 }},
		// Debian 13: test %user,%user; je; and $1,%chown; je; getpwnam(%user)
		{[]int{0x48, 0x85, 0xc0, 0x74, -1, 0x40, 0x80, 0xe5, 1, 0x74, -1, 0x48, 0x89, 0xc7, 0xe8}, nil},
	},
	nilPointer: nilPointerAMD64,
}, {
	name: "arm64", debian: "arm64", multiarch: "aarch64-linux-gnu", machine: elf.EM_AARCH64,
	// ldrb w,[x]; cmp w,#'L'; b.ne; ldrb w,[x,#1]; cmp w,#'D'; b.ne; ldrb w,[x,#2]; cmp w,#'_'; b.ne
	ldTest: patch{[]int{
		-1, -1, 0x40, 0x39, -1, 0x30, 0x01, 0x71, -1, -1, -1, 0x54,
		-1, 0x04, 0x40, 0x39, -1, 0x10, 0x01, 0x71, -1, -1, -1, 0x54,
		-1, 0x08, 0x40, 0x39, -1, 0x7c, 0x01, 0x71, -1, -1, -1, 0x54,
	}, func(code []byte) { alwaysARM64(code[8:12]) }},
}}

// alwaysARM64 makes b.cond, whose offset has 19 bits, the b of 26.
func alwaysARM64(code []byte) {
	branch := binary.LittleEndian.Uint32(code)
	offset := int32(branch<<8) >> 13
	binary.LittleEndian.PutUint32(code, 0x14000000|uint32(offset)&0x03ffffff)
}

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
	return arch{}, fmt.Errorf("image: architecture %q: not one of amd64, arm64", name)
}

// native says that programs of this architecture run here.
func (a arch) native() bool { return a.name == runtime.GOARCH }
