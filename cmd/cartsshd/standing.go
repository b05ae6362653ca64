package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/glance"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// glanceAtState is how often the daemon looks whether grants and locks have
// changed, or run out.
const glanceAtState = 250 * time.Millisecond

// beside is what the daemon has in force beside the rules.
type beside struct {
	store *standing.Store
	files glance.Watch

	mu    sync.Mutex
	rules *authz.Policy
	holds holding
	told  map[string]bool // what is wrong, as far as it has been told
	next  time.Time       // when it is to be read again, if nothing changes before; zero: never
}

// holding are the grants and locks that hold, by their IDs.
type holding struct {
	grants map[string]standing.Grant
	locks  map[string]standing.Lock
}

// startState reads what stands before anybody could come in.
func (d *daemon) startState(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files.Look(d.store.Dirs()...) // first: what changes from here on is seen
	d.takeState(now)
}

// followState takes what has changed of it, or has run out.
func (d *daemon) followState(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	due := !d.next.IsZero() && !now.Before(d.next)
	if d.files.Differs() || due {
		d.takeState(now)
	}
}

// takeRules puts new rules in force, under the same grants and locks.
func (d *daemon) takeRules(p *authz.Policy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = p
	d.enforce(d.holds)
}

// takeState reads grants and locks and puts them in force. What takes access away
// comes first; what gives it waits until it is on the record.
func (d *daemon) takeState(now time.Time) {
	state := d.store.Read()
	was := d.holds
	is, unfit := hold(state, now)
	d.next = state.Next(now)
	d.enforce(stricter(was, is))
	d.tellFaults(append(state.Faults, unfit...))
	d.recordTaken(was, is)
	d.recordGiven(was, is, now)
	d.enforce(is)
	d.bury(state, was, now)
}

// hold is what of a state holds now, and which grants no policy understands.
func hold(state standing.State, now time.Time) (holding, []standing.Fault) {
	h := holding{map[string]standing.Grant{}, map[string]standing.Lock{}}
	var unfit []standing.Fault
	for _, l := range state.Locks {
		if !l.Over(now) {
			h.locks[l.ID] = l
		}
	}
	for _, g := range state.Grants {
		_, err := grantOf(g)
		switch {
		case g.Over(now):
		case err != nil:
			unfit = append(unfit, standing.Fault{Path: g.ID, ID: g.ID, Err: err})
		default:
			h.grants[g.ID] = g
		}
	}
	return h, unfit
}

// stricter is with the grants of both, and the locks of either.
func stricter(was, is holding) holding {
	h := holding{maps.Clone(is.grants), maps.Clone(was.locks)}
	for _, g := range fresh(was.grants, is.grants) {
		delete(h.grants, g.ID)
	}
	if h.locks == nil {
		h.locks = map[string]standing.Lock{}
	}
	maps.Copy(h.locks, is.locks)
	return h
}

// fresh are those that are new, or not what they were, in order.
func fresh[T any](was, is map[string]T) (all []T) {
	for _, id := range slices.Sorted(maps.Keys(is)) {
		old, ok := was[id]
		if !ok || !reflect.DeepEqual(old, is[id]) {
			all = append(all, is[id])
		}
	}
	return all
}

// gone are those that are no more, in order.
func gone[T any](was, is map[string]T) (all []T) {
	for _, id := range slices.Sorted(maps.Keys(was)) {
		if _, ok := is[id]; !ok {
			all = append(all, was[id])
		}
	}
	return all
}

// enforce makes the policy that is asked from now on, also about those who are
// in already.
func (d *daemon) enforce(h holding) {
	d.holds = h
	d.policy.Store(h.beside(d.rules))
	if d.changed != nil {
		d.changed()
	}
}

// beside returns rules with this beside them.
func (h holding) beside(rules *authz.Policy) *authz.Policy {
	var grants []authz.Grant
	for _, g := range fresh(nil, h.grants) {
		made, _ := grantOf(g) // hold has seen that it can be
		grants = append(grants, made)
	}
	var locks []authz.Lock
	for _, l := range fresh(nil, h.locks) {
		locks = append(locks, lockOf(l))
	}
	return rules.With(grants, locks)
}

// recordTaken is after the fact: that nobody can tell of it keeps nobody in.
func (d *daemon) recordTaken(was, is holding) {
	for _, l := range fresh(was.locks, is.locks) {
		d.logger.Warn("locked", "lock", l.ID, "what", l.Says(), "reason", l.Reason)
		d.complain(d.record.Event(lockEvent(audit.LockAdded, l, "in force: "+l.Says())))
	}
	for _, g := range gone(was.grants, is.grants) {
		d.logger.Info("grant has ended", "grant", g.ID, "what", g.Says())
		d.complain(d.record.Event(grantEvent(audit.GrantEnded, g, "in force no more: "+g.Says())))
	}
}

// recordGiven leaves out what could not be recorded, until the next time.
func (d *daemon) recordGiven(was, is holding, now time.Time) {
	for _, g := range fresh(was.grants, is.grants) {
		d.logger.Info("granted", "grant", g.ID, "what", g.Says(), "reason", g.Reason)
		if err := d.record.Event(grantEvent(audit.GrantAdded, g, "in force: "+g.Says())); err != nil {
			d.complain(err)
			delete(is.grants, g.ID)
			d.next = now
		}
	}
	for _, l := range gone(was.locks, is.locks) {
		d.logger.Info("lock has ended", "lock", l.ID, "what", l.Says())
		if err := d.record.Event(lockEvent(audit.LockEnded, l, "in force no more: "+l.Says())); err != nil {
			d.complain(err)
			is.locks[l.ID] = l
			d.next = now
		}
	}
}

// tellFaults tells of each once, as long as it is there.
func (d *daemon) tellFaults(faults []standing.Fault) {
	told := map[string]bool{}
	for _, f := range faults {
		text := f.Error()
		told[text] = true
		if d.told[text] {
			continue
		}
		d.logger.Error("what stands beside the rules", "err", text)
		if !f.Lock { // else the lock that it makes is recorded
			d.complain(d.record.Event(audit.Event{Event: audit.GrantRefused, Rule: ruleOf("grant", f.ID), Detail: text}))
		}
	}
	d.told = told
}

// bury takes away what has run out. What did so while no daemon was there is
// told now.
func (d *daemon) bury(state standing.State, was holding, now time.Time) {
	for _, g := range state.Grants {
		if !g.Over(now) {
			continue
		}
		if _, told := was.grants[g.ID]; !told {
			d.complain(d.record.Event(grantEvent(audit.GrantEnded, g, "has run out: "+g.Says())))
		}
		d.complain(d.store.EndGrant(g.ID))
	}
	for _, l := range state.Locks {
		if !l.Over(now) || d.holds.locks[l.ID] == l {
			continue
		}
		if _, told := was.locks[l.ID]; !told {
			d.complain(d.record.Event(lockEvent(audit.LockEnded, l, "has run out: "+l.Says())))
		}
		d.complain(d.store.EndLock(l.ID))
	}
}

func grantEvent(event string, g standing.Grant, detail string) audit.Event {
	return audit.Event{Event: event, Rule: ruleOf("grant", g.ID), Reason: g.Reason, Detail: detail}
}

func lockEvent(event string, l standing.Lock, detail string) audit.Event {
	return audit.Event{Event: event, Rule: ruleOf("lock", l.ID), Reason: l.Reason, Detail: detail}
}

// ruleOf is what decisions have for a rule that are by a grant or a lock.
func ruleOf(kind, id string) string { return kind + " " + id }

// grantOf is a grant as the policy has it. The error is about what this cartsshd
// does not know.
func grantOf(g standing.Grant) (authz.Grant, error) {
	made := authz.Grant{ID: g.ID, Person: g.Person, Target: g.Target, Profile: g.Profile, Until: g.Until, Reason: g.Reason, By: g.By}
	if g.Profile != "" && !slices.Contains(nsexec.Profiles, g.Profile) {
		return made, fmt.Errorf("unknown profile %q (%s)", g.Profile, strictyaml.Suggest(g.Profile, nsexec.Profiles))
	}
	for _, text := range g.Exec {
		var p authz.Pattern
		if err := p.UnmarshalText([]byte(text)); err != nil {
			return made, fmt.Errorf("exec %q: %w", text, err)
		}
		made.Exec = append(made.Exec, p)
	}
	return made, nil
}

func lockOf(l standing.Lock) authz.Lock {
	return authz.Lock{ID: l.ID, Person: l.Person, Target: l.Target, Until: l.Until, Reason: l.Reason, By: l.By}
}
