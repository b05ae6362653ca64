package router

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// LXC is the containers of liblxc: the directories in which each has its
// configuration, and what the kernel knows of those that run.
//
// The monitor's socket is not asked. It is an abstract one, which anybody may
// open before the monitor does, and it does not answer while the monitor hangs.
// There is always a process in the cgroup lxc.payload.NAME, that root has put
// there, and its parent.
type LXC struct {
	path string
	disk patience
}

// NewLXC returns the containers whose directories are in path, LXC's lxcpath.
func NewLXC(path string) *LXC {
	path = filepath.Clean(path)
	return &LXC{path: path, disk: newPatience(path)}
}

// Name is that of the runtime in a login.
func (l *LXC) Name() string { return "lxc" }

// Find looks for a container of that name. There are no IDs in LXC: what is
// unique is the path of a container's directory.
func (l *LXC) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) {
		return nil, nil
	}
	return l.disk.ask(ctx, func() ([]Found, error) {
		return l.among(func(name string) bool { return name == id })
	})
}

// List returns all that run.
func (l *LXC) List(ctx context.Context) ([]Found, error) {
	found, err := l.disk.ask(ctx, func() ([]Found, error) { return l.among(plain) })
	return living(found), err
}

func (l *LXC) among(wanted func(string) bool) (found []Found, err error) {
	names, err := directories(l.path)
	for _, name := range names {
		if plain(name) && wanted(name) {
			found = append(found, Found{ID: l.path + "/" + name, Name: name})
		}
	}
	return started(found, err)
}

// Verify asks the kernel for the container's name once more.
func (l *LXC) Verify(f Found) error {
	p, err := payloadOf(f.PID)
	if err == nil && !p.is(f.ID) {
		err = fmt.Errorf("process %d is in the container %s, not %s", f.PID, quote(p.name), f.ID)
	}
	return err
}

// started adds the processes of those that run.
func started(found []Found, err error) ([]Found, error) {
	if len(found) == 0 {
		return nil, err
	}
	running, err := payloads()
	for i := range found {
		found[i].Closed = "is not running"
		for _, p := range running {
			if p.is(found[i].ID) {
				found[i].PID, found[i].Closed, found[i].Source = p.pid, "", p.source()
			}
		}
	}
	return found, err
}

// directories lists what may be a container's in a directory of theirs, which
// need not be there. Where others may write to it they would choose what is
// found.
func directories(path string) ([]string, error) {
	dir, _, err := openStateDir(path, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// A payload is a container of liblxc that runs.
type payload struct {
	pid  int
	path string // the directory of its directory; empty if the monitor does not tell
	name string
}

// is tells whether its directory is this. Where the monitor does not tell, it is if
// the root directory that the container has is in there.
func (p payload) is(dir string) bool {
	if p.path != "" {
		return filepath.Clean(p.path)+"/"+p.name == dir
	}
	if filepath.Base(dir) != p.name {
		return false
	}
	theirs, err := rootOf(fmt.Sprintf("/proc/%d/root", p.pid))
	if err != nil {
		return false
	}
	root, err := rootOf(dir + "/rootfs")
	return err == nil && root == theirs
}

func (p payload) source() string { return fmt.Sprintf("/proc/%d/cgroup", p.pid) }

// payloads lists all that run, of whatever directory.
func payloads() ([]payload, error) {
	pids, err := nestedInits()
	if err != nil {
		return nil, err
	}
	var all []payload
	for _, pid := range pids {
		if p, err := payloadOf(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// payloadOf tells which container of liblxc a process is the init of. Its cgroup
// names the container, but not where its directory is, and with a number
// behind it where there were two of that name; its monitor tells, in its title.
func payloadOf(pid int) (payload, error) {
	paths, err := cgroupPaths(pid)
	if err != nil {
		return payload{}, err
	}
	group := payloadGroup(paths)
	if group == "" {
		return payload{}, fmt.Errorf("process %d is in no cgroup of LXC's", pid)
	}
	monitor, err := supervisorOf(pid)
	if err != nil {
		return payload{}, err
	}
	path, name, err := monitorTitle(monitor)
	if err != nil {
		return payload{}, err
	}
	switch {
	case name == "":
		return payload{pid: pid, name: group}, nil
	case name != group && !numbered(group, name):
		return payload{}, fmt.Errorf("process %d is in the cgroup of %s, its monitor is that of %s", pid, quote(group), quote(name))
	}
	return payload{pid, path, name}, nil
}

// payloadGroup returns the name in the outermost cgroup of a container's. What
// is in another kind of container, or in a user's own cgroups, is not LXC's on
// this host.
func payloadGroup(paths []string) string {
	for _, path := range paths {
		if strings.HasPrefix(path, "/user.slice/") || len(foreignIDs(path)) > 0 {
			return ""
		}
	}
	for _, path := range paths {
		dirs := strings.Split(path, "/")
		for i, dir := range dirs {
			if name, ok := strings.CutPrefix(dir, "lxc.payload."); ok {
				return name
			}
			if dir == "lxc" && i+1 < len(dirs) { // before LXC 4
				return dirs[i+1]
			}
		}
	}
	return ""
}

var suffix = regexp.MustCompile(`^-[0-9]+$`)

// numbered tells whether a cgroup is that of name, which was taken.
func numbered(group, name string) bool {
	rest, ok := strings.CutPrefix(group, name)
	return ok && suffix.MatchString(rest)
}

// monitorTitle reads what a monitor calls itself; "" if it does not: an lxc-start
// in the foreground.
func monitorTitle(pid int) (path, name string, err error) {
	args, err := cmdline(pid)
	if err != nil {
		return "", "", err
	}
	title, ok := strings.CutPrefix(args[0], "[lxc monitor] ")
	if at := strings.LastIndexByte(title, ' '); ok && at > 0 {
		return title[:at], title[at+1:], nil
	}
	return "", "", nil
}
