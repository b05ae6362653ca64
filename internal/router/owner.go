package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// owner returns the container that a process belongs to: one that another
// runtime knows, or else the init of its PID namespace.
//
// A container is known by the IDs in the cgroup of the process; then, as it
// may have been moved out of there, or have come in from outside, of those
// that share its mount namespace; then of those that share its PID namespace.
func (t *Table) owner(ctx context.Context, m Match) (Match, error) {
	own, err := cgroupPaths(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	if inSession(own) {
		return Match{}, fmt.Errorf("router: %s belongs to a session of this server", m)
	}
	if owner, err := t.ownerOf(ctx, m, own); err != nil || owner.ID != "" {
		return owner, err
	}
	kin, err := kinOf(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	for _, paths := range [][]string{kin.mounts, kin.space} {
		if owner, err := t.ownerOf(ctx, m, paths); err != nil || owner.ID != "" {
			return owner, err
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
func (t *Table) ownerOf(ctx context.Context, m Match, paths []string) (Match, error) {
	var owners []Match
	for _, path := range distinct(paths) {
		owner, err := t.outermost(ctx, path)
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
// deeper is that container's own.
func (t *Table) outermost(ctx context.Context, path string) (Match, error) {
	for _, id := range foreignIDs(path) {
		m, err := t.byFullID(ctx, id)
		if err != nil {
			return Match{}, fmt.Errorf("%s: %w", id, err)
		}
		if m.ID != "" {
			return m, nil
		}
	}
	return Match{}, nil
}

// byFullID returns the zero Match if there is no such container.
func (t *Table) byFullID(ctx context.Context, id string) (Match, error) {
	var others []Runtime
	for _, r := range t.Runtimes {
		if r.Name() != pidRuntime {
			others = append(others, r)
		}
	}
	matches, failures := t.ask(ctx, others, id)
	for _, m := range matches {
		if m.ID == id {
			return m, nil
		}
	}
	return Match{}, errors.Join(failures...)
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
