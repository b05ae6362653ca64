package nsexec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Profile is what a session may inside. Its zero value is the general one.
type Profile struct {
	// Name is one of Profiles; "general" if empty.
	Name string

	User            *User    // instead of the profile's own
	CapAdd, CapDrop []string // as in Capabilities, with or without CAP_; or ALL
	Namespaces      []string // of Namespaces, those that are joined; nil: all. The user's is always
	Host            bool     // a target that sees the host's own files is no mistake
	TargetCgroup    bool     // in the container's cgroups, under its limits, and not beside them
	Memory          int64    // of the session, in bytes; 0: no limit
	Processes       int      // of the session; 0: no limit
	SeccompMust     bool     // Start fails if the container's seccomp filter cannot be taken over, for whatever reason
}

// User is who a session runs as, in the numbers of the container.
type User struct {
	UID, GID int
	Groups   []int // besides GID
}

// Profiles are the names of all, the default first. They are kubectl debug's.
//
//   - general: root, with the container's capabilities. In a user namespace of
//     the container's own also CAP_SYS_PTRACE
//   - restricted: the user, groups and capabilities of the container's init
//   - netadmin: general, CAP_NET_ADMIN and CAP_NET_RAW
//   - sysadmin: root with all capabilities, and no seccomp filter
//
// A session with exactly the container's capabilities could be traced, and its
// terminal forged, by root in the container. Access needs a superset of the
// capabilities (ptrace(2)), so all but restricted have one that no runtime
// gives, CAP_WAKE_ALARM.
//
// Outside of user namespaces CAP_SYS_PTRACE is not among the general ones. It
// would let the session trace whatever it sees, such as runc on its way in for a
// docker exec or a health check, with all of the host's capabilities still in
// hand. The container's own processes can be traced without it, by root those
// of root, and others by who becomes their user.
var Profiles = []string{"general", "restricted", "netadmin", Unconfined}

// Unconfined is the profile without a seccomp filter.
const Unconfined = "sysadmin"

// Namespaces are those that a Profile may name.
var Namespaces = []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"}

// Capabilities are the names of capabilities(7), without CAP_, by number.
var Capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

const allCaps = 1<<(unix.CAP_LAST_CAP+1) - 1

// capMask is a set of capabilities by their names.
func capMask(names []string) (mask uint64, err error) {
	for _, name := range names {
		if name == "ALL" {
			mask |= allCaps
			continue
		}
		i := slices.Index(Capabilities, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		if i < 0 {
			return 0, fmt.Errorf("nsexec: no capability is called %q", name)
		}
		mask |= 1 << i
	}
	return mask, nil
}

func capNames(mask uint64) (names []string) {
	for i, name := range Capabilities {
		if mask&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// ParseUser reads UID[:GID[,GID…]]. Without a GID it is as large as the UID, as
// no file of the container is asked.
func ParseUser(s string) (*User, error) {
	uid, gids, more := strings.Cut(s, ":")
	if !more {
		gids = uid
	}
	var ids []int
	for _, text := range append([]string{uid}, strings.Split(gids, ",")...) {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil || id == 1<<32-1 {
			return nil, errors.New("wants UID[:GID[,GID…]] in numbers, such as 1000:1000,27")
		}
		ids = append(ids, int(id))
	}
	return &User{UID: ids[0], GID: ids[1], Groups: ids[2:]}, nil
}

func (u User) String() string {
	text := fmt.Sprintf("%d:%d", u.UID, u.GID)
	for _, g := range u.Groups {
		text += "," + strconv.Itoa(g)
	}
	return text
}

// under narrows or widens what the container's init may to what the session may.
func (p Profile) under(r room) (room, error) {
	add, err := capMask(p.CapAdd)
	if err != nil {
		return r, err
	}
	drop, err := capMask(p.CapDrop)
	if err != nil {
		return r, err
	}
	caps, err := p.caps(r)
	if err != nil {
		return r, err
	}
	caps = (caps | add) &^ drop
	if !r.hasUserns() {
		caps &= r.ourCaps
	}
	r.caps, r.user = caps, p.user(r)
	if err := p.join(&r); err != nil {
		return r, err
	}
	return r, p.confineLike(&r)
}

const guarded = 1 << unix.CAP_WAKE_ALARM

func (p Profile) caps(r room) (uint64, error) {
	general := r.caps | guarded
	if r.hasUserns() {
		general |= 1 << unix.CAP_SYS_PTRACE
	}
	if p.User != nil {
		general = guarded // a user has none of root's, but what the profile adds
	}
	switch p.Name {
	case "", "general":
		return general, nil
	case "netadmin":
		return general | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW, nil
	case Unconfined:
		return allCaps, nil
	case "restricted":
		if p.User != nil {
			return 0, nil
		}
		return r.init.caps, nil
	}
	return 0, fmt.Errorf("nsexec: no profile is called %q", p.Name)
}

func (p Profile) user(r room) User {
	switch {
	case p.User != nil:
		return *p.User
	case p.Name == "restricted":
		return r.init.user
	}
	return User{}
}

// limits are in words, for the record.
func (p Profile) limits() string {
	var words []string
	if p.Memory > 0 {
		words = append(words, fmt.Sprintf("memory %d bytes", p.Memory))
	}
	if p.Processes > 0 {
		words = append(words, fmt.Sprintf("%d processes", p.Processes))
	}
	if p.TargetCgroup {
		words = append(words, "the container's")
	}
	return strings.Join(words, ", ")
}

// ErrHostNamespaces refuses to leave a session in namespaces of the host where the
// container has its own, unless that is meant.
var ErrHostNamespaces = errors.New("nsexec: namespaces that are left out are the host's: say host: true, or --host, if that is meant")

// join leaves out the namespaces that are not to be joined. A session stays in
// the host's instead.
func (p Profile) join(r *room) error {
	theirs := r.namespaces
	if p.Namespaces != nil {
		set := unix.CLONE_NEWUSER | unix.CLONE_NEWTIME
		for _, n := range namespaceNames {
			if slices.Contains(p.Namespaces, n.file) {
				set |= n.flag
			}
		}
		r.namespaces &= set
	}
	switch {
	case p.Host:
	case r.namespaces != theirs && theirs&^r.namespaces != unix.CLONE_NEWCGROUP: // which is but names
		return ErrHostNamespaces
	case r.namespaces&unix.CLONE_NEWNS == 0:
		return ErrHost
	}
	return nil
}

// confineLike has the session confined by seccomp as the container is.
func (p Profile) confineLike(r *room) error {
	if p.Name == Unconfined {
		if p.SeccompMust {
			return errors.New("nsexec: the profile " + Unconfined + " has no seccomp filter, and seccomp: must demands one")
		}
		r.unconfined, r.filters = true, nil
		return nil
	}
	if r.filtersErr != nil && (p.SeccompMust || errors.Is(r.filtersErr, errKept)) {
		return fmt.Errorf("nsexec: the container's seccomp filter cannot be taken over: %w", r.filtersErr)
	}
	return nil
}
