package nsexec

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A plan is the whole way into a container, as data: a list of raw system
// calls that the helper (helper/helper.c) runs from first to last. It can be
// printed for a reviewer before it is ever run, and tested without root.
type plan struct {
	steps []step

	// The branch that steps are being added to.
	when   int
	parent bool
}

// A step is one system call. Its label is what a JoinError calls it.
type step struct {
	label  string
	nr     uintptr
	name   string // of the system call
	args   []*arg
	may    []unix.Errno // failures that are no failure
	when   int          // k > 0: only where step k-1 returned 0, as clone3 does in the child ...
	parent bool         // ... or, with this set, did not
}

// In place of a system call number, at the end of a plan: see helper.c.
const (
	reap  = ^uintptr(0)     // -1
	guard = ^uintptr(0) - 1 // -2
)

// An arg is a number, the result of an earlier step, or data of the plan's own
// that the number is to point to.
type arg struct {
	text  string // as printed, if not as the value itself
	num   uint64
	from  int // k > 0: the result of step k-1
	data  []byte
	count uint64   // not 0: the argument points to {count, pointer to data}
	ptrs  [][]byte // NUL-terminated strings: the argument points to pointers to them
}

func num(text string, n uint64) *arg { return &arg{text: text, num: n} }
func lit(n uint64) *arg              { return &arg{num: n} }

func str(s string) *arg { return &arg{data: append([]byte(s), 0)} }

// raw is a structure, in the machine's own order.
func raw(text string, words ...uint64) *arg {
	var b []byte
	for _, w := range words {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return &arg{text: text, data: b}
}

func strs(list []string) *arg {
	a := &arg{ptrs: make([][]byte, 0, len(list))}
	for _, s := range list {
		a.ptrs = append(a.ptrs, append([]byte(s), 0))
	}
	return a
}

// String is for a reader of the plan.
func (a *arg) String() string {
	text := func(s []byte) string { return strconv.Quote(string(s[:len(s)-1])) }
	switch {
	case a.text != "":
		return a.text
	case a.from > 0:
		return fmt.Sprintf("#%d", a.from)
	case a.ptrs != nil:
		var list []string
		for _, s := range a.ptrs {
			list = append(list, text(s))
		}
		return "[" + strings.Join(list, " ") + "]"
	case a.data != nil:
		return text(a.data)
	}
	return strconv.FormatUint(a.num, 10)
}

// numbers of the system calls that plans are made of.
var numbers = map[string]uintptr{
	"capset": unix.SYS_CAPSET, "chdir": unix.SYS_CHDIR, "chroot": unix.SYS_CHROOT, "clone3": unix.SYS_CLONE3,
	"close_range": unix.SYS_CLOSE_RANGE, "execve": unix.SYS_EXECVE, "exit_group": unix.SYS_EXIT_GROUP,
	"fchdir": unix.SYS_FCHDIR, "ioctl": unix.SYS_IOCTL, "keyctl": unix.SYS_KEYCTL, "mount": unix.SYS_MOUNT,
	"move_mount": unix.SYS_MOVE_MOUNT, "open_tree": unix.SYS_OPEN_TREE, "openat": unix.SYS_OPENAT,
	"openat2": unix.SYS_OPENAT2, "prctl": unix.SYS_PRCTL, "prlimit64": unix.SYS_PRLIMIT64,
	"rt_sigaction": unix.SYS_RT_SIGACTION, "rt_sigprocmask": unix.SYS_RT_SIGPROCMASK, "setgroups": unix.SYS_SETGROUPS,
	"setns": unix.SYS_SETNS, "setresgid": unix.SYS_SETRESGID, "setresuid": unix.SYS_SETRESUID, "setsid": unix.SYS_SETSID,
	"signalfd4": unix.SYS_SIGNALFD4, "umask": unix.SYS_UMASK, "unshare": unix.SYS_UNSHARE, "write": unix.SYS_WRITE,

	"read": unix.SYS_READ, "wait4": unix.SYS_WAIT4, "ppoll": unix.SYS_PPOLL, "kill": unix.SYS_KILL,

	"reap": reap, "guard": guard,
}

// call appends a system call and returns its number, for result and the
// branches.
func (p *plan) call(label, name string, args ...*arg) int {
	nr, ok := numbers[name]
	if !ok {
		panic("nsexec: no number for " + name) // a typo above, seen by every test
	}
	p.steps = append(p.steps, step{label: label, nr: nr, name: name, args: args, when: p.when, parent: p.parent})
	return len(p.steps)
}

// may says which failures of the step before are none.
func (p *plan) may(errnos ...unix.Errno) { p.steps[len(p.steps)-1].may = errnos }

// What follows is run by the child of clone3 step k only, by its parent only,
// or by whoever gets there.
func (p *plan) childOf(k int)  { p.when, p.parent = k, false }
func (p *plan) parentOf(k int) { p.when, p.parent = k, true }
func (p *plan) always()        { p.when, p.parent = 0, false }

// result is what step k returned.
func (p *plan) result(k int) *arg {
	return &arg{from: k}
}

// String prints the plan, a system call a line.
func (p *plan) String() string {
	var b strings.Builder
	for i, s := range p.steps {
		fmt.Fprintf(&b, "%3d  ", i+1)
		if s.when > 0 && s.parent {
			fmt.Fprintf(&b, "[parent of #%d] ", s.when)
		}
		if s.when > 0 && !s.parent {
			fmt.Fprintf(&b, "[child of #%d] ", s.when)
		}
		var args []string
		for _, a := range s.args {
			args = append(args, a.String())
		}
		fmt.Fprintf(&b, "%s(%s)", s.name, strings.Join(args, ", "))
		for _, e := range s.may {
			fmt.Fprintf(&b, " or %s", unix.ErrnoName(e))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// The plan as the helper reads it. See struct step in helper.c.
const (
	planBase  = 0x10000000
	planRoom  = 1 << 20
	headSize  = 16
	stepSize  = 8 + 6*8 + 6 + 2 + 8 + 8
	resultOff = stepSize - 8
	maxSteps  = 255
)

// resultAddr is where the helper keeps what step k returned.
func resultAddr(k int) uint64 {
	return uint64(planBase + headSize + (k-1)*stepSize + resultOff)
}

// encode lays the plan out for the address at which the helper maps it.
func (p *plan) encode() ([]byte, error) {
	if len(p.steps) > maxSteps {
		return nil, fmt.Errorf("nsexec: plan of %d steps, at most %d fit", len(p.steps), maxSteps)
	}
	heap := headSize + len(p.steps)*stepSize
	b := make([]byte, heap, heap+4096)
	put := func(data []byte) uint64 {
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		at := planBase + uint64(len(b))
		b = append(b, data...)
		return at
	}
	rec := make([]byte, 0, stepSize)
	for i, s := range p.steps {
		rec = binary.NativeEndian.AppendUint64(rec[:0], uint64(s.nr))
		var from [6]byte
		for k := range 6 {
			var v uint64
			if k < len(s.args) {
				a := s.args[k]
				v, from[k] = a.num, byte(a.from)
				switch {
				case a.count > 0:
					pair := binary.NativeEndian.AppendUint64(nil, a.count)
					v = put(binary.NativeEndian.AppendUint64(pair, put(a.data)))
				case a.data != nil:
					v = put(a.data)
				case a.ptrs != nil:
					var table []byte
					for _, p := range a.ptrs {
						table = binary.NativeEndian.AppendUint64(table, put(p))
					}
					v = put(binary.NativeEndian.AppendUint64(table, 0))
				}
			}
			rec = binary.NativeEndian.AppendUint64(rec, v)
		}
		rec = append(rec, from[:]...)
		rec = append(rec, byte(s.when), 0)
		if s.parent {
			rec[len(rec)-1] = 1
		}
		var may [8]byte
		for k, e := range s.may {
			may[k] = byte(e)
		}
		rec = append(rec, may[:]...)
		copy(b[headSize+i*stepSize:], rec)
	}
	if len(b) > planRoom {
		return nil, unix.E2BIG
	}
	binary.NativeEndian.PutUint64(b, uint64(len(b)))
	binary.NativeEndian.PutUint64(b[8:], uint64(len(p.steps)))
	return b, nil
}
