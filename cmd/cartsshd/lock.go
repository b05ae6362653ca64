package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

type lockCmd struct {
	besideRules `embed:""`
	What        string `arg:"" help:"person NAME, target NAME, or all."`
	Name        string `arg:"" optional:"" help:"The person; or the container: its exact NAME, or RUNTIME:NAME."`
	For         span   `placeholder:"TIME" help:"For how long: 90m, 2h, 3d. Without: until it is unlocked."`
	Reason      string `required:"" placeholder:"WHY" help:"Why: 'laptop stolen'."`
}

// Validate is called by kong.
func (c lockCmd) Validate() error {
	if !slices.Contains([]string{"person", "target", "all"}, c.What) {
		return fmt.Errorf("%q: wants person NAME, target NAME, or all", c.What)
	}
	return cmp.Or(checkNamed(c.What, c.Name), checkReason(c.Reason))
}

func checkNamed(what, name string) error {
	switch {
	case (what == "person" || what == "target") && name == "":
		return fmt.Errorf("%s: which? Say %s NAME", what, what)
	case what != "person" && what != "target" && name != "":
		return fmt.Errorf("%s takes no name", what)
	}
	return nil
}

// Run locks, and does so also while the policy is broken, or nothing can be
// recorded.
func (c lockCmd) Run(out io.Writer) error {
	cfg, store, err := c.open()
	if err != nil {
		return err
	}
	l := standing.Lock{Since: now(), Until: c.For.from(now()), Reason: c.Reason, By: doer(localPerson())}
	switch c.What {
	case "person":
		l.Person = c.Name
		doubtPerson(cfg.Policy, c.Name)
	case "target":
		l.Target, err = c.Name, doubtTarget(cfg, c.Name)
	}
	if err != nil {
		return err
	}
	var unrecorded error
	l, err = store.AddLock(l, func(l standing.Lock) error {
		unrecorded = noteAtHost(cfg, lockEvent(audit.LockAdded, l, l.Says()))
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s\n", l.ID, audit.Printable(l.Says()))
	if unrecorded != nil {
		return fmt.Errorf("%s holds, and that is not on the record: %w", l.ID, unrecorded)
	}
	return nil
}

// doubtPerson is a warning only: they may have a certificate, or just have been
// taken out of people.
func doubtPerson(p *authz.Policy, name string) {
	if _, ok := p.Subject(name); !ok && p != nil {
		tell("%q is none of people (%s); locked all the same", name, strictyaml.Suggest(name, names(p)))
	}
}

// doubtTarget fails if the name is not that by which the container is known: such
// a lock would not hold. Where nobody can tell, it is only a warning.
func doubtTarget(cfg *config.Config, name string) error {
	if _, err := router.ParseRef(name); err != nil || cfg.Policy == nil { // then the runtimes are not known either
		return err
	}
	_, _, err := exactly(cfg, name)
	if errors.Is(err, router.ErrAmbiguous) {
		tell("%v: all of them are locked", err)
		return nil
	}
	return err
}

type unlockCmd struct {
	besideRules `embed:""`
	What        string `arg:"" help:"ID; or person NAME, target NAME, or all: the locks of this, and of nothing else."`
	Name        string `arg:"" optional:"" help:"The person, or the container, as it was locked."`
}

// Validate is called by kong.
func (c unlockCmd) Validate() error { return checkNamed(c.What, c.Name) }

// Run takes locks away, if it can be recorded.
func (c unlockCmd) Run(out io.Writer) error {
	cfg, store, err := c.open()
	if err != nil {
		return err
	}
	state := store.Read()
	found := slices.DeleteFunc(state.Locks, func(l standing.Lock) bool { return !c.means(l, state.Faults) })
	if len(found) == 0 {
		return errors.New("there is no such lock (cartsshd locks lists them)")
	}
	for _, l := range found {
		if err := noteAtHost(cfg, lockEvent(audit.LockEnded, l, "unlocked by "+doer(localPerson())+": "+l.Says())); err != nil {
			return status(err)
		}
		if err := store.EndLock(l.ID); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: unlocked; it was: %s\n", audit.Printable(l.ID), audit.Printable(l.Says()))
	}
	return nil
}

// means takes a lock that cannot be believed by its ID alone: nobody knows what
// it was for.
func (c unlockCmd) means(l standing.Lock, faults []standing.Fault) bool {
	damaged := slices.ContainsFunc(faults, func(f standing.Fault) bool { return f.Lock && f.ID == l.ID })
	switch {
	case c.What == l.ID:
		return true
	case damaged:
		return false
	case c.What == "person":
		return l.Person == c.Name
	case c.What == "target":
		return l.Target == c.Name
	}
	return c.What == "all" && l.Person == "" && l.Target == ""
}

type locksCmd struct {
	besideRules `embed:""`
	JSON        bool `name:"json" help:"As JSON."`
}

// Run lists the locks that hold.
func (c locksCmd) Run(out io.Writer) error {
	_, store, err := c.open()
	if err != nil {
		return err
	}
	state := store.Read()
	list := slices.DeleteFunc(append([]standing.Lock{}, state.Locks...), func(l standing.Lock) bool { return l.Over(now()) })
	rows := [][]string{{"ID", "PERSON", "TARGET", "UNTIL", "BY", "REASON"}}
	for _, l := range list {
		rows = append(rows, []string{l.ID, orAll(l.Person), orAll(l.Target), until(l.Until), l.By, l.Reason})
	}
	if c.JSON {
		err = writeJSON(out, list)
	} else {
		err = table(out, rows...)
	}
	return errors.Join(err, tellFaults(state.Faults, true))
}

func orAll(name string) string {
	if name == "" {
		return "*"
	}
	return name
}
