package nsexec

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// seccompData is struct seccomp_data (linux/seccomp.h), in words: the system
// call's number, the architecture, the address, and six arguments.
type seccompData [16]uint32

// lets tells whether a filter lets a system call of ours pass whose arguments
// are zero. What it cannot tell is no.
func (f filter) lets(nr uintptr) bool {
	action, ok := f.answer(seccompData{uint32(nr), abis[runtime.GOARCH][0].arch})
	action &= unix.SECCOMP_RET_ACTION_FULL
	return ok && (action == unix.SECCOMP_RET_ALLOW || action == unix.SECCOMP_RET_LOG)
}

// What a filter may consist of, in the kernel's names.
const (
	loadData  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	loadConst = unix.BPF_LD | unix.BPF_IMM
	and       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpTo    = unix.BPF_JMP | unix.BPF_JA
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpAbove = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpFrom  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	jumpBits  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	answer    = unix.BPF_RET | unix.BPF_K
)

// answer is the kernel's machine of classic BPF, as far as libseccomp uses it
// (Documentation/userspace-api/seccomp_filter.rst); no answer beyond that.
func (f filter) answer(data seccompData) (action uint32, ok bool) {
	var a uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		switch i.Code {
		case loadData:
			if i.K%4 != 0 || i.K/4 >= uint32(len(data)) {
				return 0, false
			}
			a = data[i.K/4]
		case loadConst:
			a = i.K
		case and:
			a &= i.K
		case jumpTo:
			pc += int(i.K)
		case jumpEqual, jumpAbove, jumpFrom, jumpBits:
			pc += offset(i, compare(i.Code, a, i.K))
		case answer:
			return i.K, true
		default:
			return 0, false
		}
	}
	return 0, false
}

func compare(code uint16, a, k uint32) bool {
	switch code {
	case jumpEqual:
		return a == k
	case jumpAbove:
		return a > k
	case jumpFrom:
		return a >= k
	}
	return a&k != 0
}

func offset(i unix.SockFilter, yes bool) int {
	if yes {
		return int(i.Jt)
	}
	return int(i.Jf)
}
