package nsexec

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The helper's descriptors, by number. Whatever is not here it does not have.
const (
	fdSocket = 3 + iota // to the daemon
	fdTarget            // pidfd of the container's process
	fdRoot              // its root directory
	fdTools             // detached mount of the tools image
	fdDev               // detached mount of the session's own /dev
	fdPts               // detached mount of the session's own devpts
	fdCgroup            // the session's cgroup, where it is born: CGROUP in helper.c
	fdRun               // the one below, where all the rest is
	fdKill              // cgroup.kill of that
	fdProc              // detached mount of a /proc, where there is an LSM
	fdTop               // detached mount of a root, where the container's has no /dev
)

const sigSetmask = 2 // SIG_SETMASK, on amd64 and arm64

// A room is what must be known of a container to enter it.
type room struct {
	pid        int      // of its init
	namespaces int      // CLONE_NEW* flags of those that are not our own
	caps       uint64   // capability bounding set of its init; then, of the session
	user       User     // of the session
	init       insider  // its init
	uids, gids idMap    // of its user namespace
	limits     []limit  // resource limits of its init, where ours differ
	filters    []filter // its seccomp filters
	filtersErr error    // why they could not be read
	unconfined bool     // no seccomp filter at all
	label      lsmLabel // of the host's LSM
	top        []entry  // of its root directory, if it has no /dev to mount on
	joins      []string // cgroup.procs of the cgroups of v1 that it is to be in
	ourCaps    uint64   // our own bounding set
	ignored    []int    // signals that we ignore, and that it must not
	oomAdjust  bool     // our own oom_score_adj is not 0
	search     []string // where a bare name is looked for
}

// insider is who the container's init is, in the numbers of the container.
type insider struct {
	user User
	caps uint64 // permitted
}

type limit struct{ resource, cur, max uint64 }

var namespaceNames = []struct {
	flag       int
	file, name string
}{
	{unix.CLONE_NEWUSER, "user", "CLONE_NEWUSER"},
	{unix.CLONE_NEWNS, "mnt", "CLONE_NEWNS"},
	{unix.CLONE_NEWPID, "pid", "CLONE_NEWPID"},
	{unix.CLONE_NEWNET, "net", "CLONE_NEWNET"},
	{unix.CLONE_NEWIPC, "ipc", "CLONE_NEWIPC"},
	{unix.CLONE_NEWUTS, "uts", "CLONE_NEWUTS"},
	{unix.CLONE_NEWCGROUP, "cgroup", "CLONE_NEWCGROUP"},
	{unix.CLONE_NEWTIME, "time", "CLONE_NEWTIME"},
}

// nsFlags is a set of namespaces, as setns(2) takes it.
func nsFlags(set int) *arg {
	var names []string
	for _, n := range namespaceNames {
		if set&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return num(strings.Join(names, "|"), uint64(set))
}

// nsFiles is the same for people, as in /proc/PID/ns.
func nsFiles(set int) string {
	var names []string
	for _, n := range namespaceNames {
		if set&n.flag != 0 {
			names = append(names, n.file)
		}
	}
	return strings.Join(names, " ")
}

var (
	emptyFrom = num("MOVE_MOUNT_F_EMPTY_PATH", unix.MOVE_MOUNT_F_EMPTY_PATH)
	emptyBoth = num("MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	clone     = num("OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_SYMLINK_NOFOLLOW", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	atCwd     = num("AT_FDCWD", uint64(0xffffffffffffff9c)) // -100
	null      = num("NULL", 0)
)

// entry compiles a command into the way in.
//
// A session is three processes. The first, a fork of the guard, joins the container's
// namespaces, makes a private copy of its mount namespace and builds the
// session's /dev over the container's there, so that nothing in the container's
// file system is written to, and nothing that the session depends on hangs from
// a directory that the container could remove or swap (rmdir(2) detaches what
// other namespaces have mounted on a directory). The second is the session's
// init. The third becomes the command.
//
// The second and third are in the container's PID namespace, where the
// container and other sessions see them, and some may trace. So they must not
// have more than a session has, not for a moment, neither capabilities nor
// descriptors. In a user namespace of the container's own they may, until they
// join it: from inside, nobody traces a process that is outside.
func (c *Cmd) entry(r room) *plan {
	p := &plan{}
	p.prepare(r)
	p.join(r)
	p.lift(r)
	p.mount(r)
	if !r.hasUserns() {
		p.credentials(r)
	}
	p.init()
	p.fork(r)
	p.become(c, r)
	return p
}

func (r room) hasUserns() bool { return r.namespaces&unix.CLONE_NEWUSER != 0 }

// prepare takes what was inherited from the daemon away, or puts it right.
func (p *plan) prepare(r room) {
	p.call("hide from tracers", "prctl", num("PR_SET_DUMPABLE", unix.PR_SET_DUMPABLE), lit(0))
	p.call("leave the guard's session", "setsid")
	if r.oomAdjust {
		f := p.call("open oom_score_adj", "openat", atCwd, str("/proc/self/oom_score_adj"), num("O_WRONLY", unix.O_WRONLY))
		p.call("reset oom_score_adj", "write", p.result(f), str("0"), lit(1))
	}
	for _, file := range r.joins {
		f := p.call("open "+file, "openat", atCwd, str(file), num("O_WRONLY", unix.O_WRONLY))
		p.call("join "+file, "write", p.result(f), str("0"), lit(1))
	}
	for _, l := range r.limits {
		// Ours may be lower than the container's, and not ours to raise.
		p.call("prlimit", "prlimit64", lit(0), lit(l.resource), raw(fmt.Sprintf("{%d, %d}", l.cur, l.max), l.cur, l.max), null)
		p.may(unix.EPERM)
	}
	// The guard ignores SIGCHLD, and needs reap nobody.
	for _, sig := range append([]int{int(unix.SIGCHLD)}, r.ignored...) {
		p.call("reset a signal", "rt_sigaction", num(signalName(sig), uint64(sig)), raw("SIG_DFL", 0, 0, 0, 0), null, lit(8))
	}
	p.call("umask", "umask", num("022", 0o22))
	p.call("join a keyring of its own", "keyctl", num("KEYCTL_JOIN_SESSION_KEYRING", unix.KEYCTL_JOIN_SESSION_KEYRING), null)
	p.may(unix.ENOSYS)
}

// join enters every namespace but the user's and the cgroup's, which would
// take away the rights that the steps after it need.
func (p *plan) join(r room) {
	late := unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP
	if now := r.namespaces &^ late; now != 0 {
		p.call("setns "+nsFiles(now), "setns", num("target", fdTarget), nsFlags(now))
	}
	// The process may see less than its mount namespace holds (chroot). Its root
	// is our directory before unshare, which translates that into the copy; and
	// our root only then, as it need not be a mount that could be made private.
	p.call("fchdir to the container's root", "fchdir", num("root", fdRoot))
	p.call("unshare mnt", "unshare", nsFlags(unix.CLONE_NEWNS))
	p.call("make mounts private", "mount", null, str("/"), null, num("MS_REC|MS_PRIVATE", unix.MS_REC|unix.MS_PRIVATE), null)
	p.call("chroot to the container's root", "chroot", str("."))
}

// mount puts the session's own /dev over the container's.
func (p *plan) mount(r room) {
	dev := p.call("open /dev", "openat2", atCwd, str("/dev"), raw("{O_PATH|O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS}", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, noSymlinks), lit(24))

	// What programs in the container share through /dev stays theirs to share.
	shared := map[string]int{}
	for _, name := range []string{"shm", "mqueue"} {
		shared[name] = p.call("clone /dev/"+name, "open_tree", p.result(dev), str(name), clone)
		p.may(unix.ENOENT, unix.EINVAL)
	}

	p.call("mount /dev", "move_mount", num("dev", fdDev), str(""), p.result(dev), str(""), emptyBoth)
	p.call("mount /dev/crashcart", "move_mount", num("tools", fdTools), str(""), num("dev", fdDev), str("crashcart"), emptyFrom)
	p.call("mount /dev/pts", "move_mount", num("pts", fdPts), str(""), num("dev", fdDev), str("pts"), emptyFrom)
	for _, name := range []string{"shm", "mqueue"} {
		p.call("mount /dev/"+name, "move_mount", p.result(shared[name]), str(""), num("dev", fdDev), str(name), emptyFrom)
		p.may(unix.EBADF, unix.ENOTDIR, unix.EINVAL) // not there, no directory, or a symlink
	}

	p.call("chdir to the root", "chdir", str("/"))

	// Mounted or done with, and not for the init.
	p.call("close mounts", "close_range", num("root", fdRoot), num("pts", fdPts), lit(0))
	if r.label == "" {
		p.closeFrom(fdProc)
		return
	}
	p.closeFrom(fdProc + 1)
}

// credentials makes the process root of the container with the session's
// capabilities, and no others.
func (p *plan) credentials(r room) {
	if r.hasUserns() {
		p.call("setns user", "setns", num("target", fdTarget), nsFlags(unix.CLONE_NEWUSER))
	}
	for cap := uint64(0); cap <= unix.CAP_LAST_CAP; cap++ {
		if r.caps&(1<<cap) == 0 {
			p.call("drop capability", "prctl", num("PR_CAPBSET_DROP", unix.PR_CAPBSET_DROP), lit(cap))
		}
	}
	p.call("clear ambient capabilities", "prctl", num("PR_CAP_AMBIENT", unix.PR_CAP_AMBIENT), num("PR_CAP_AMBIENT_CLEAR_ALL", unix.PR_CAP_AMBIENT_CLEAR_ALL), lit(0), lit(0), lit(0))
	p.identity(r)
	p.call("capset", "capset", raw("VERSION_3", unix.LINUX_CAPABILITY_VERSION_3), capSet(r.caps, r.inheritable()))
	// Root has its capabilities of execve(2); others only what is ambient.
	for cap := uint64(0); cap <= unix.CAP_LAST_CAP; cap++ {
		if r.inheritable()&(1<<cap) != 0 {
			p.call("raise ambient capability", "prctl", num("PR_CAP_AMBIENT", unix.PR_CAP_AMBIENT), num("PR_CAP_AMBIENT_RAISE", unix.PR_CAP_AMBIENT_RAISE), lit(cap), lit(0), lit(0))
		}
	}
}

// inheritable capabilities are those that an execve would take otherwise.
func (r room) inheritable() uint64 {
	if r.user.UID == 0 {
		return 0
	}
	return r.caps
}

// identity makes the process the session's user.
func (p *plan) identity(r room) {
	u := r.user
	p.call("setgroups", "setgroups", lit(uint64(len(u.Groups))), groupList(u.Groups))
	if r.hasUserns() && len(u.Groups) == 0 {
		p.may(unix.EPERM) // /proc/PID/setgroups says "deny" in rootless containers
	}
	if u.UID != 0 {
		p.call("keep capabilities", "prctl", num("PR_SET_KEEPCAPS", unix.PR_SET_KEEPCAPS), lit(1))
	}
	uid, gid := lit(uint64(u.UID)), lit(uint64(u.GID))
	p.call("setresgid", "setresgid", gid, gid, gid)
	p.call("setresuid", "setresuid", uid, uid, uid)
}

// groupList is as setgroups(2) takes it.
func groupList(groups []int) *arg {
	if len(groups) == 0 {
		return null
	}
	a := &arg{text: fmt.Sprint(groups)}
	for _, g := range groups {
		a.data = binary.NativeEndian.AppendUint32(a.data, uint32(g))
	}
	return a
}

func (p *plan) closeFrom(fd uint64) {
	p.call("close descriptors", "close_range", lit(fd), num("~0", 0xffffffff), lit(0))
}

// init forks the session's init into the container's PID namespace. The guard is
// its parent, which reaps it by ignoring it; the first process is done.
func (p *plan) init() {
	child := p.call("fork init", "clone3", raw("{CLONE_PARENT}", unix.CLONE_PARENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), lit(88))
	p.parentOf(child)
	p.call("tell the PID", "write", num("socket", fdSocket), num(fmt.Sprintf("&#%d", child), resultAddr(child)), lit(8))
	p.call("exit", "exit_group", lit(0))
	p.always()

	p.call("name the init", "prctl", num("PR_SET_NAME", unix.PR_SET_NAME), str("cartsshd"))
	p.call("reap orphans", "prctl", num("PR_SET_CHILD_SUBREAPER", unix.PR_SET_CHILD_SUBREAPER), lit(1))
	p.blockSignals()
}

func (p *plan) blockSignals() {
	p.call("block signals", "rt_sigprocmask", num("SIG_SETMASK", sigSetmask), raw("~[]", ^uint64(0)), null, lit(8))
}

// fork starts the command's process, and leaves the init to reap. The init
// waits for the child's execve (vfork), so that it can say that the command
// runs.
func (p *plan) fork(r room) {
	signals := p.call("open signalfd", "signalfd4", num("-1", ^uint64(0)), raw("[CHLD]", 1<<(unix.SIGCHLD-1)), lit(8), num("SFD_CLOEXEC", unix.SFD_CLOEXEC))
	child := p.call("fork", "clone3", raw("{CLONE_VFORK|CLONE_INTO_CGROUP, SIGCHLD, run}", unix.CLONE_VFORK|unix.CLONE_INTO_CGROUP, 0, 0, 0, uint64(unix.SIGCHLD), 0, 0, 0, 0, 0, fdRun), lit(88))
	p.parentOf(child)
	p.call("tell that it runs", "write", num("socket", fdSocket), raw("RUNNING", saysRunning<<56), lit(8))
	p.may(unix.EPIPE)     // the daemon has given up: on to reap, which cleans up
	p.confine(r.waiter()) // not before: clone3 is refused from here on
	// The streams must end when the command's own copies do.
	p.call("close streams", "close_range", lit(0), lit(2), lit(0))
	if r.hasUserns() {
		p.credentials(r)
	}
	// One by one: the signalfd may be where one of the mounts was.
	p.call("close target", "close_range", num("target", fdTarget), num("target", fdTarget), lit(0))
	p.call("close cgroups", "close_range", num("cgroup", fdCgroup), num("run", fdRun), lit(0))
	if r.label != "" {
		p.call("close proc", "close_range", num("proc", fdProc), num("proc", fdProc), lit(0))
	}
	p.call("reap", "reap", p.result(signals), num("kill", fdKill), p.result(child))
	p.childOf(child)
}

// become turns the child into the command.
func (p *plan) become(c *Cmd, r room) {
	// Only now, as a cgroup namespace hides the session's cgroups from clone3
	// (nsdelegate). It takes CAP_SYS_ADMIN, and is of use against it only: who
	// does not have it sees names of the host's cgroups in /proc/self/cgroup,
	// and can mount none.
	if r.namespaces&unix.CLONE_NEWCGROUP != 0 && (r.hasUserns() || r.caps&(1<<unix.CAP_SYS_ADMIN) != 0) {
		p.call("setns cgroup", "setns", num("target", fdTarget), nsFlags(unix.CLONE_NEWCGROUP))
	}
	if r.hasUserns() {
		p.credentials(r)
	}
	p.call("setsid", "setsid")
	if c.TTY != nil {
		p.call("take the terminal", "ioctl", lit(0), num("TIOCSCTTY", unix.TIOCSCTTY), lit(0))
	}
	p.call("unblock signals", "rt_sigprocmask", num("SIG_SETMASK", sigSetmask), raw("[]", 0), null, lit(8))
	if c.Dir != "" {
		p.call("chdir", "chdir", str(c.Dir))
	}
	p.call("close descriptors", "close_range", lit(3), num("~0", 0xffffffff), num("CLOSE_RANGE_CLOEXEC", unix.CLOSE_RANGE_CLOEXEC))
	p.wear(r)
	p.confine(r)
	files := c.candidates(r.search)
	for i, file := range files {
		p.call("execve", "execve", str(file), strs(c.Args), strs(r.environ(c.Env)))
		if i < len(files)-1 {
			p.may(unix.ENOENT, unix.ENOTDIR)
		}
	}
}

// confine takes from the process, and from who may trace it, what the
// container's own filter does.
func (p *plan) confine(r room) {
	p.call("no new privileges", "prctl", num("PR_SET_NO_NEW_PRIVS", unix.PR_SET_NO_NEW_PRIVS), lit(1), lit(0), lit(0), lit(0))
	if r.unconfined {
		return
	}
	mode := num("SECCOMP_MODE_FILTER", unix.SECCOMP_MODE_FILTER)
	p.call("seccomp", "prctl", num("PR_SET_SECCOMP", unix.PR_SET_SECCOMP), mode, seccompProgram())
	for i, f := range r.filters {
		p.call("seccomp", "prctl", num("PR_SET_SECCOMP", unix.PR_SET_SECCOMP), mode, program(fmt.Sprintf("{the container's, %d of %d}", i+1, len(r.filters)), f))
	}
}

// waiter is the room of the session's init. As nobody can trace that without
// CAP_SYS_PTRACE (it is not dumpable, and its memory belongs to the host's user
// namespace), it has the container's filters only where somebody may: they would
// get past them by it. To install one takes longer than to enter. Nor has it
// filters that refuse what it lives by: it would leave the session behind.
func (r room) waiter() room {
	if r.hasUserns() || r.caps&(1<<unix.CAP_SYS_PTRACE) == 0 || !r.livable() {
		r.filters = nil
	}
	return r
}

func (r room) livable() bool {
	for _, f := range r.filters {
		for _, call := range []string{"read", "write", "wait4", "ppoll", "kill", "close_range", "exit_group", "prctl"} {
			if !f.lets(numbers[call]) {
				return false
			}
		}
	}
	return true
}

// signalName is the number for those that have no name: the real-time ones.
func signalName(sig int) string {
	return cmp.Or(unix.SignalName(unix.Signal(sig)), strconv.Itoa(sig))
}

// candidates are the files that Path may mean, in order.
func (c *Cmd) candidates(search []string) []string {
	if path.Base(c.Path) != c.Path {
		return []string{c.Path}
	}
	var list []string
	for _, dir := range search {
		list = append(list, dir+"/"+c.Path)
	}
	return list
}

// capSet is effective, permitted and inheritable, low half then high half
// (capset(2)).
func capSet(caps, inheritable uint64) *arg {
	const low = 0xffffffff
	text := fmt.Sprintf("%#x", caps)
	if inheritable != 0 {
		text += fmt.Sprintf(", inheritable %#x", inheritable)
	}
	return raw(text, caps&low|caps<<32, inheritable&low|caps>>32<<32, caps>>32|inheritable&^low)
}
