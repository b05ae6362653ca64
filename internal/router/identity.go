package router

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
)

// canonical returns a match as the first of those runtimes that know it has it:
// a policy judges by that one's names and labels, however it was called.
func (q *inquiry) canonical(ctx context.Context, m Match) (Match, error) {
	before := q.before(m.Runtime)
	if m.Runtime == pidRuntime || len(before) == 0 {
		return m, nil // whose a process is, is seen when it is held
	}
	what := everything
	if isContainerID(m.ID) {
		what = byID(m.ID)
	}
	if !m.madeByAnother() {
		what.within = grace
	}
	others, _ := q.ask(ctx, before, what)
	for _, other := range others {
		// A PID that is left in a file may have become this container's.
		if other.same(m) && (other.ID == m.ID || q.confirmed(other)) {
			return other, q.taken(other)
		}
	}
	return m, q.taken(m)
}

// before are the runtimes that come before another.
func (t *Table) before(name string) []Runtime {
	i := slices.IndexFunc(t.Runtimes, func(r Runtime) bool { return r.Name() == name })
	return t.Runtimes[:max(i, 0)]
}

// taken fails if a container is, as can be seen, one of a runtime that comes
// before and did not answer. It would be judged by other names and labels than
// its own.
func (q *inquiry) taken(m Match) error {
	before := q.before(m.Runtime)
	for _, maker := range []string{m.of, makerByCgroup(m.PID)} {
		known := slices.ContainsFunc(before, func(r Runtime) bool { return r.Name() == maker })
		if err := q.failed[maker]; known && maker != "" && err != nil {
			return fmt.Errorf("router: %s is %s's, which could not be asked for it: %w", m, maker, err)
		}
	}
	return nil
}

// makerByCgroup is maker by what the cgroup of a process is called.
func makerByCgroup(pid int) string {
	paths, _ := cgroupPaths(pid)
	for _, path := range paths {
		ids := foreignIDs(path)
		if len(ids) == 0 {
			continue
		}
		before, _, _ := strings.Cut(path, ids[0])
		switch {
		case strings.HasPrefix(before, "/kubepods") || strings.HasSuffix(before, "/cri-containerd-") || strings.HasSuffix(before, ":cri-containerd:") || strings.HasSuffix(before, "/crio-"):
			return "cri"
		case strings.HasSuffix(before, "/docker/") || strings.HasSuffix(before, "/docker-"):
			return "docker"
		case strings.HasSuffix(before, "/libpod-"):
			return "podman"
		}
	}
	return ""
}

// holder returns the container that a process is in, as the kernel has it; the
// zero Match for none that any runtime lists.
//
// Where there are several, one within another, it is the outermost: what is in
// that is its own.
func (q *inquiry) holder(ctx context.Context, m Match) (Match, error) {
	where, err := placeOf(m.PID)
	if err != nil {
		return Match{}, fmt.Errorf("router: %s: %w", m, err)
	}
	matches, _ := q.ask(ctx, q.containers(), everything)
	var holders []holding
	for _, c := range matches {
		at, err := containerPlace(c.PID)
		if by := where.within(at); err == nil && by != nowhere && q.confirmed(c) {
			holders = append(holders, holding{c, at, by})
		}
	}
	holders = outer(closest(mergeHoldings(holders)))
	if len(holders) > 1 { // systemd-nspawn may give all of its containers one cgroup
		holders = nearest(where, holders)
	}
	if len(holders) > 1 {
		ambiguous := &AmbiguousError{Ref: Ref{m.Runtime, m.ID}}
		for _, h := range holders {
			ambiguous.Matches = append(ambiguous.Matches, h.Match)
		}
		return Match{}, ambiguous
	}
	if len(holders) == 0 {
		return Match{}, nil
	}
	return holders[0].Match, nil
}

// confirmed leaves out what has left its state behind, and whose PID may be
// anybody's.
func (q *inquiry) confirmed(m Match) bool {
	stat, err := readStat(m.PID)
	return err == nil && q.confirm(m, stat) == nil
}

// holding is a container that has a process in it.
type holding struct {
	Match
	at place
	by relation
}

func mergeHoldings(holders []holding) (distinct []holding) {
	for _, h := range holders {
		known := func(other holding) bool { return other.same(h.Match) }
		if !slices.ContainsFunc(distinct, known) {
			distinct = append(distinct, h)
		}
	}
	return distinct
}

// closest keeps those that are the surest: a process is in the container whose
// cgroup it is in, whatever mounts it sees.
func closest(holders []holding) (best []holding) {
	for _, h := range holders {
		if len(best) > 0 && h.by > best[0].by {
			best = nil
		}
		if len(best) == 0 || h.by == best[0].by {
			best = append(best, h)
		}
	}
	return best
}

// nearest keeps those that the process also shares the mounts with, or else the
// processes.
func nearest(where place, holders []holding) []holding {
	for _, shares := range []func(holding) bool{
		func(h holding) bool { return where.mounts == h.at.mounts },
		func(h holding) bool { return len(h.at.spaces) > 0 && slices.Contains(where.spaces, h.at.spaces[0]) },
	} {
		near := slices.DeleteFunc(slices.Clone(holders), func(h holding) bool { return !shares(h) })
		if len(near) > 0 {
			return near
		}
	}
	return holders
}

// outer leaves out what is within another.
func outer(holders []holding) (outermost []holding) {
	for i, h := range holders {
		inner := slices.ContainsFunc(slices.Delete(slices.Clone(holders), i, i+1), func(other holding) bool {
			return h.at.within(other.at) != nowhere && other.at.within(h.at) == nowhere
		})
		if !inner {
			outermost = append(outermost, h)
		}
	}
	return outermost
}

// place is where the kernel has a process.
type place struct {
	cgroups []string
	mounts  string   // its mount namespace
	spaces  []uint64 // its PID namespace and those above it, but the host's
}

func placeOf(pid int) (p place, err error) {
	if p.cgroups, err = cgroupPaths(pid); err != nil {
		return p, err
	}
	if p.mounts, err = namespace(pid, "mnt"); err != nil {
		return p, err
	}
	p.spaces, err = pidSpaces(pid)
	return p, err
}

// containerPlace is the place of a container's init, without the cgroups that
// are not the container's own: the root, what we are in ourselves, what it has
// in common with who started it.
func containerPlace(pid int) (place, error) {
	p, err := placeOf(pid)
	if err != nil {
		return p, err
	}
	stat, err := readStat(pid)
	if err != nil {
		return p, err
	}
	parents, _ := cgroupPaths(stat.parent)
	ours, err := cgroupPaths(os.Getpid())
	p.cgroups = slices.DeleteFunc(p.cgroups, func(path string) bool {
		shared := func(other string) bool { return below(other, path) }
		return path == "/" || slices.ContainsFunc(ours, shared) || slices.ContainsFunc(parents, shared)
	})
	for i, path := range p.cgroups {
		p.cgroups[i] = strings.TrimSuffix(path, "/init.scope") // of a systemd inside
	}
	return p, err
}

// relation is how sure it is that a process is in a container.
type relation int

const (
	nowhere relation = iota
	bySpace
	byMounts
	byCgroup
)

// within tells how a process is in a container.
func (p place) within(c place) relation {
	inCgroup := func(path string) bool {
		return slices.ContainsFunc(c.cgroups, func(of string) bool { return below(path, of) })
	}
	switch {
	case slices.ContainsFunc(p.cgroups, inCgroup):
		return byCgroup
	case p.mounts == c.mounts:
		return byMounts
	case len(c.spaces) > 0 && slices.Contains(p.spaces, c.spaces[0]):
		return bySpace
	}
	return nowhere
}
