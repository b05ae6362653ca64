package router

import (
	"cmp"
	"context"
	"slices"
)

// Listed is a container that runs, and the logins that lead to it and to no
// other.
type Listed struct {
	Match
	Logins []string
}

// List returns every container that can be entered, or could if it were not
// paused, as the first runtime has it that knows it. The errors say who could
// not be asked.
func (t *Table) List(ctx context.Context) ([]Listed, []error) {
	q := newInquiry(t)
	matches, failures := q.ask(ctx, q.Runtimes, everything)
	// Who has said all that it knows need not be asked for each login.
	said := &Table{Runtimes: q.said(matches), Timeout: t.Timeout, hostToo: t.hostToo}
	var list []Listed
	for _, m := range merge(slices.DeleteFunc(matches, func(m Match) bool { return !q.confirmed(m) })) {
		if q.taken(m) != nil {
			continue
		}
		if m.Closed == "" && paused(m.PID) {
			m.Closed = "is paused"
		}
		list = append(list, Listed{m, said.logins(ctx, m)})
	}
	slices.SortStableFunc(list, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return list, failures
}

// logins are those of a container's names that lead to it.
func (t *Table) logins(ctx context.Context, m Match) (logins []string) {
	for _, login := range m.spellings() {
		ref, err := ParseRef(login)
		if err != nil {
			continue
		}
		got, _, err := newInquiry(t).find(ctx, ref)
		if closed, ok := err.(*ClosedError); ok {
			got, err = closed.Match, nil
		}
		if err == nil && got.Runtime == m.Runtime && got.ID == m.ID && got.PID == m.PID {
			logins = append(logins, login)
		}
	}
	return logins
}

// spellings are the logins that a person may think of.
func (m Match) spellings() []string {
	short := m.Short()
	names := append([]string{m.Name}, m.Names...)
	for _, id := range []string{cmp.Or(m.Name, short), short} {
		names = append(names, id, Ref{m.Runtime, id}.String())
	}
	return slices.DeleteFunc(distinct(names), func(name string) bool { return name == "" })
}

// Short is enough of an ID for people.
func (f Found) Short() string {
	if isContainerID(f.ID) {
		return f.ID[:12]
	}
	return f.ID
}

// notes is what a runtime has said of all its containers.
type notes struct {
	Runtime
	found []Found
	err   error
}

func (n notes) List(context.Context) ([]Found, error) { return n.found, n.err }

func (n notes) Find(_ context.Context, id string) (found []Found, err error) {
	for _, f := range n.found {
		if (Match{n.Name(), f}).grade(id) != noMatch {
			found = append(found, f)
		}
	}
	return found, n.err
}

// said are the runtimes as they have answered. Processes are still looked up.
func (q *inquiry) said(matches []Match) (runtimes []Runtime) {
	for _, r := range q.Runtimes {
		if r.Name() == pidRuntime {
			runtimes = append(runtimes, r)
			continue
		}
		n := notes{Runtime: r, err: q.failed[r.Name()]}
		for _, m := range matches {
			if m.Runtime == r.Name() {
				n.found = append(n.found, m.Found)
			}
		}
		runtimes = append(runtimes, n)
	}
	return runtimes
}
