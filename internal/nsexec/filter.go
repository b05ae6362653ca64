package nsexec

import (
	"encoding/binary"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Besides the container's own seccomp filter, which it may not have, a session
// has one of ours. Without any, root in it had more of the host than the
// container has: in a user namespace of its own it could mount the cgroup v1
// trees of all containers, and the kernel's keyrings are those of the host's
// root. So these are refused:
//
//   - user namespaces, by clone and unshare; clone3, whose flags a filter cannot
//     see, does not exist (ENOSYS), and the C libraries go back to clone
//   - keyrings
type abi struct {
	arch                                            uint32 // AUDIT_ARCH_*
	clone, unshare, clone3, addKey, requestKey, key uint32
}

// A machine's own system calls, and those of its 32-bit programs.
var abis = map[string][]abi{
	"amd64": {
		{unix.AUDIT_ARCH_X86_64, 56, 272, 435, 248, 249, 250},
		{unix.AUDIT_ARCH_I386, 120, 310, 435, 286, 287, 288},
	},
	"arm64": {
		{unix.AUDIT_ARCH_AARCH64, 220, 97, 435, 217, 218, 219},
		{unix.AUDIT_ARCH_ARM, 120, 337, 435, 309, 310, 311},
	},
}

// x32 has the arch of amd64 and numbers of its own, from this bit on.
const x32 = 0x40000000

// The offsets in struct seccomp_data (linux/seccomp.h). Both flags arguments,
// clone's and unshare's, are the first, and its lower half is what counts.
const (
	offNumber = 0
	offArch   = 4
	offFlags  = 16
)

// seccomp assembles the filter (seccomp(2)).
func seccompFilter() []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	errno := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	var code []unix.SockFilter
	for _, a := range abis[runtime.GOARCH] {
		block := []unix.SockFilter{
			{Code: load, K: offNumber},
			{Code: jge, K: x32, Jt: 0, Jf: 1},
			{Code: ret, K: errno(unix.ENOSYS)},
			{Code: jeq, K: a.clone3, Jt: 0, Jf: 1},
			{Code: ret, K: errno(unix.ENOSYS)},
			{Code: jeq, K: a.addKey, Jt: 2},
			{Code: jeq, K: a.requestKey, Jt: 1},
			{Code: jeq, K: a.key, Jt: 0, Jf: 1},
			{Code: ret, K: errno(unix.EPERM)},
			{Code: jeq, K: a.clone, Jt: 1},
			{Code: jeq, K: a.unshare, Jt: 0, Jf: 3},
			{Code: load, K: offFlags},
			{Code: jset, K: unix.CLONE_NEWUSER, Jt: 0, Jf: 1},
			{Code: ret, K: errno(unix.EPERM)},
			{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		}
		code = append(code,
			unix.SockFilter{Code: load, K: offArch},
			unix.SockFilter{Code: jeq, K: a.arch, Jf: uint8(len(block))})
		code = append(code, block...)
	}
	return append(code, unix.SockFilter{Code: ret, K: errno(unix.ENOSYS)})
}

var seccompProgram = sync.OnceValue(func() *arg {
	return program("{refuse user namespaces and keyrings}", seccompFilter())
})

// program is a filter as prctl(PR_SET_SECCOMP) takes it: struct sock_fprog.
func program(text string, code []unix.SockFilter) *arg {
	a := &arg{text: text, count: uint64(len(code))}
	for _, c := range code {
		a.data = binary.NativeEndian.AppendUint16(a.data, c.Code)
		a.data = append(a.data, c.Jt, c.Jf)
		a.data = binary.NativeEndian.AppendUint32(a.data, c.K)
	}
	return a
}
