package router

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Facts are what the kernel says of a container's first process: nothing that
// its runtime says of it, or that it says of itself.
//
// Who holds a privileged container can make its first process look as if it had
// less, and it is root of the host anyway. Nobody can make theirs look as if it
// had more.
type Facts struct {
	Privileged bool `json:"privileged"` // all capabilities, and no seccomp filter
	HostPID    bool `json:"host_pid"`   // it is in the host's PID namespace
	HostNet    bool `json:"host_net"`   // and in the host's network namespace
}

// Facts are those that a match may have, which nobody has pinned: what its
// process has now, or each that there can be if it has no process.
func (m Match) Facts() ([]Facts, error) {
	if m.PID == 0 {
		return anyFacts(), nil
	}
	facts, err := factsOf(m.PID)
	if err != nil {
		return nil, fmt.Errorf("router: %s: %w", m, err)
	}
	return []Facts{facts}, nil
}

func anyFacts() (all []Facts) {
	for i := range 8 {
		all = append(all, Facts{Privileged: i&1 != 0, HostPID: i&2 != 0, HostNet: i&4 != 0})
	}
	return all
}

// factsOf reads all of them, or fails: what is not known must not be taken for
// false.
func factsOf(pid int) (f Facts, err error) {
	if f.Privileged, err = privileged(pid); err != nil {
		return Facts{}, err
	}
	if f.HostPID, err = withHost(pid, "pid"); err != nil {
		return Facts{}, err
	}
	if f.HostNet, err = withHost(pid, "net"); err != nil {
		return Facts{}, err
	}
	return f, nil
}

// privileged goes by the bounding set: in a container whose first process is no
// root, that is what root in it can have. What the host itself has not got, no
// container can have.
func privileged(pid int) (bool, error) {
	theirs, err := boundingSet(pid)
	if err != nil {
		return false, err
	}
	hosts, err := boundingSet(1)
	if err != nil {
		return false, err
	}
	seccomp, err := statusField(pid, "Seccomp")
	if err != nil {
		return false, err
	}
	all := hosts & everyCapability
	return theirs&all == all && seccomp == "0", nil
}

// everyCapability is all of Linux 5.7. Later ones (CAP_PERFMON, CAP_BPF,
// CAP_CHECKPOINT_RESTORE) are parts of CAP_SYS_ADMIN, and what older engines
// call privileged lacks them by name only.
const everyCapability = 1<<(unix.CAP_AUDIT_READ+1) - 1

func boundingSet(pid int) (uint64, error) {
	text, err := statusField(pid, "CapBnd")
	if err != nil {
		return 0, err
	}
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("CapBnd of process %d is %s", pid, quote(text))
	}
	return set, nil
}

// withHost tells whether a process is in a namespace of the host's init, or of
// this server: that may be in a container itself.
func withHost(pid int, kind string) (bool, error) {
	theirs, err := namespaceInode(pid, kind)
	if err != nil {
		return false, err
	}
	ours, err := namespaceInode(os.Getpid(), kind)
	if err != nil {
		return false, err
	}
	hosts, err := hostNamespace(kind)
	return theirs == ours || theirs == hosts, err
}

// hostNamespace is that of the host's init, or of who stands for it: see
// [hostViews].
func hostNamespace(kind string) (uint64, error) {
	inode, err := namespaceInode(1, kind)
	if stat, _ := readStat(2); errors.Is(err, os.ErrPermission) && stat.kernel {
		return namespaceInode(2, kind)
	}
	return inode, err
}
