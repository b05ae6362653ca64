package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// owner returns the container that a process belongs to: one that another
// runtime knows, or else the init of its PID namespace. A process that sees the
// host's files belongs to none.
//
// A container is known by the IDs in the cgroup of the process; or as one that
// runs and that the kernel has the process in; then, as the process may have
// been moved out of there, or have come in from outside, by the cgroups of those
// that share its mount namespace; then of those that share its PID namespace.
func (q *inquiry) owner(ctx context.Context, m Match) (Match, error) {
	own, err := cgroupPaths(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	if inSession(own) {
		return Match{}, fmt.Errorf("router: %s belongs to a session of this server", m)
	}
	if m.Host {
		return m, nil // whatever cgroup it may be in
	}
	owner, unknown := q.ownerOf(ctx, m, own)
	if owner.ID == "" {
		if owner, err = q.holder(ctx, m); err != nil {
			return Match{}, err
		}
	}
	if owner.ID != "" {
		return owner, q.taken(owner)
	}
	if unknown != nil {
		return Match{}, unknown
	}
	return q.kinsOwner(ctx, m)
}

// kinsOwner is owner by those that the process shares a container with.
func (q *inquiry) kinsOwner(ctx context.Context, m Match) (Match, error) {
	kin, err := kinOf(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	for _, paths := range [][]string{kin.mounts, kin.space} {
		if owner, err := q.ownerOf(ctx, m, paths); err != nil || owner.ID != "" {
			return owner, cmp.Or(err, q.taken(owner))
		}
	}
	if kin.init != 0 {
		m.PID, m.ID = kin.init, strconv.Itoa(kin.init)
	}
	return m, nil
}

// inSession tells whether these are the cgroups of a process that this server
// has started. Those have mounts of their own, and would be in no container.
func inSession(paths []string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(path, "/cartsshd-") })
}

// ownerOf returns the container whose cgroups these are; the zero Match if
// they are no container's. A runtime that cannot be asked is an error: its
// containers are not to be had as mere processes while it is down.
func (q *inquiry) ownerOf(ctx context.Context, m Match, paths []string) (Match, error) {
	var owners []Match
	for _, path := range distinct(paths) {
		owner, err := q.outermost(ctx, path)
		if err != nil {
			return Match{}, fmt.Errorf("router: %s belongs to a container, but not all could be asked for it: %w", m, err)
		}
		if owner.ID != "" {
			owners = append(owners, owner)
		}
	}
	owners = merge(owners)
	if len(owners) > 1 {
		return Match{}, &AmbiguousError{Ref{m.Runtime, m.ID}, owners}
	}
	if len(owners) == 0 {
		return Match{}, nil
	}
	return owners[0], nil
}

// outermost returns the outermost container of a cgroup's path. What lies
// deeper is that container's own, which may call it what it likes: as another
// container's, below a path of its own.
func (q *inquiry) outermost(ctx context.Context, path string) (Match, error) {
	for _, id := range foreignIDs(path) {
		m, err := q.byFullID(ctx, id)
		if err != nil {
			return Match{}, fmt.Errorf("%s: %w", id, err)
		}
		if m.ID != "" && m.hasStem(stem(path, id)) {
			return m, nil
		}
	}
	return Match{}, nil
}

// stem is a cgroup's path as far as it names a container.
func stem(path, id string) string {
	before, _, _ := strings.Cut(path, id)
	return before + id
}

// hasStem tells whether the container's own init is there. One that has none
// cannot say.
func (m Match) hasStem(stem string) bool {
	if m.PID == 0 {
		return true
	}
	paths, _ := cgroupPaths(m.PID)
	return slices.ContainsFunc(paths, func(path string) bool { return strings.HasPrefix(path, stem) })
}

// byFullID returns the zero Match if there is no such container.
func (q *inquiry) byFullID(ctx context.Context, id string) (Match, error) {
	matches, failures := q.ask(ctx, q.containers(), byID(id))
	for _, m := range matches {
		if m.ID == id {
			return m, nil
		}
	}
	return Match{}, errors.Join(failures...)
}

// containers are the runtimes that have containers.
func (t *Table) containers() []Runtime {
	var others []Runtime
	for _, r := range t.Runtimes {
		if r.Name() != pidRuntime {
			others = append(others, r)
		}
	}
	return others
}

// kin is the cgroups of those that a process shares a container with.
type kin struct {
	mounts []string // of those with its mount namespace
	space  []string // of those with its PID namespace, unless that is the host's
	init   int      // PID 1 of that PID namespace, if it has the same mounts; or 0
}

func kinOf(pid int) (kin, error) {
	mounts, err := namespace(pid, "mnt")
	if err != nil {
		return kin{}, err
	}
	space, err := namespace(pid, "pid")
	if err != nil {
		return kin{}, err
	}
	host, err := namespace(os.Getpid(), "pid")
	if err != nil {
		return kin{}, err
	}
	pids, err := processes()
	if err != nil {
		return kin{}, err
	}
	var k kin
	for _, other := range pids {
		// One that has ended since it was listed is nobody's kin.
		theirMounts, _ := namespace(other, "mnt")
		theirSpace, _ := namespace(other, "pid")
		sameMounts := theirMounts == mounts
		sameSpace := theirSpace == space && space != host
		if sameMounts {
			k.mounts = appendCgroups(k.mounts, other)
		}
		if sameSpace {
			k.space = appendCgroups(k.space, other)
		}
		if sameMounts && sameSpace && isInit(other) {
			k.init = other
		}
	}
	return k, nil
}

func appendCgroups(paths []string, pid int) []string {
	more, _ := cgroupPaths(pid)
	return append(paths, more...)
}

// isInit tells whether a process is PID 1 of its PID namespace.
func isInit(pid int) bool {
	numbers, err := statusField(pid, "NSpid")
	return err == nil && strings.HasSuffix(numbers, "\t1")
}
