package nsexec

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lsmLabel is what a process has to write to its own /proc/self/attr/exec to be
// confined by the host's LSM as the container is, from its execve(2) on; empty
// if the container is confined as we are, or there is no LSM. See apparmor(7),
// selinux(8).
type lsmLabel string

// label reads the container's.
func (p *procDir) label() (lsmLabel, error) {
	ours := ourLabel()
	if ours == "" {
		return "", nil
	}
	theirs, err := readSmall(p.fd, "attr/current")
	if err != nil {
		return "", fmt.Errorf("its LSM label: %w", err)
	}
	label := strings.Trim(string(theirs), "\x00\n")
	if label == ours {
		return "", nil
	}
	if name, _, isAppArmor := strings.Cut(label, " ("); isAppArmor || label == "unconfined" {
		return lsmLabel("exec " + name), nil // "docker-default (enforce)"
	}
	return lsmLabel(label), nil // SELinux has no blanks in its contexts
}

// ourLabel is empty where no LSM gives labels: reading is EINVAL then.
var ourLabel = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/self/attr/current")
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), "\x00\n")
})

// newProc is a /proc for the one file that is to be written: the container's own
// may be missing, or anything. It shows only what its user may trace.
func newProc() (*os.File, error) {
	return newMount("proc", map[string]string{"subset": "pid", "hidepid": "ptraceable"})
}

// wear takes the label. A session that cannot have it does not run.
func (p *plan) wear(r room) {
	if r.label == "" {
		return
	}
	f := p.call("open attr/exec", "openat", num("proc", fdProc), str("thread-self/attr/exec"), num("O_WRONLY|O_CLOEXEC", unix.O_WRONLY|unix.O_CLOEXEC))
	p.call("take the LSM label "+string(r.label), "write", p.result(f), str(string(r.label)), lit(uint64(len(r.label))))
}
