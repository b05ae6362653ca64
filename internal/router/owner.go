package router

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	kin, err := kinOf(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	if kin.inSession() {
		return Match{}, fmt.Errorf("router: %s belongs to a session of this server", m)
	}
	for _, paths := range [][]string{kin.own, kin.mounts, kin.space} {
		owners, err := t.ownersOf(ctx, m, paths)
		if err != nil {
			return Match{}, err
		}
		if len(owners) > 1 {
			return Match{}, &AmbiguousError{Ref{m.Runtime, m.ID}, owners}
		}
		if len(owners) == 1 {
			return owners[0], nil
		}
	}
	if kin.init != 0 {
		m.PID, m.ID = kin.init, strconv.Itoa(kin.init)
	}
	return m, nil
}

// ownersOf returns the containers whose cgroups these are. A runtime that
// cannot be asked is an error: its containers are not to be had as mere
// processes while it is down.
func (t *Table) ownersOf(ctx context.Context, m Match, paths []string) ([]Match, error) {
	var owners []Match
	ours := ownContainers()
	for _, path := range distinct(paths) {
		for _, id := range containerIDs(path) {
			if ours[id] {
				continue
			}
			owner, err := t.byFullID(ctx, id)
			if err != nil {
				return nil, fmt.Errorf("router: %s belongs to container %s, and not all could be asked for that: %w", m, id, err)
			}
			if owner.ID != "" {
				owners = append(owners, owner)
				break // what lies deeper is that container's own
			}
		}
	}
	return merge(owners), nil
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

// kin is the cgroups of a process, and of those it shares a container with.
type kin struct {
	own    []string
	mounts []string // of those with its mount namespace
	space  []string // of those with its PID namespace, unless that is the host's
	init   int      // PID 1 of that PID namespace, if it has the same mounts; or 0
}

// inSession tells whether it is a process that this server has started. Those
// have a mount namespace of their own, and would be in no container.
func (k kin) inSession() bool {
	for _, path := range k.own {
		if strings.Contains(path, "/cartsshd-") {
			return true
		}
	}
	return false
}

func kinOf(pid int) (kin, error) {
	var k kin
	var err error
	if k.own, err = cgroupPaths(pid); err != nil {
		return k, err
	}
	mounts, err := namespace(pid, "mnt")
	if err != nil {
		return k, err
	}
	space, err := namespace(pid, "pid")
	if err != nil {
		return k, err
	}
	host, err := namespace(os.Getpid(), "pid")
	if err != nil {
		return k, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return k, err
	}
	for _, entry := range processes {
		other := parsePID(entry.Name())
		if other == 0 {
			continue // not a process
		}
		// One that has ended since it was listed is nobody's kin.
		theirMounts, _ := namespace(other, "mnt")
		theirSpace, _ := namespace(other, "pid")
		paths, _ := cgroupPaths(other)
		if theirMounts == mounts {
			k.mounts = append(k.mounts, paths...)
		}
		if theirSpace == space && space != host {
			k.space = append(k.space, paths...)
		}
		if theirMounts == mounts && theirSpace == space && space != host && isInit(other) {
			k.init = other
		}
	}
	return k, nil
}

// isInit tells whether a process is PID 1 of its PID namespace.
func isInit(pid int) bool {
	numbers, err := statusField(pid, "NSpid")
	return err == nil && strings.HasSuffix(numbers, "\t1")
}

func distinct(paths []string) []string {
	seen := map[string]bool{}
	var once []string
	for _, path := range paths {
		if !seen[path] {
			seen[path] = true
			once = append(once, path)
		}
	}
	return once
}
