package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

type grantCmd struct {
	besideRules `embed:""`
	Person      string   `arg:"" help:"One of people."`
	Target      string   `arg:"" help:"The container: its exact NAME, or RUNTIME:NAME."`
	For         span     `required:"" placeholder:"TIME" help:"For how long: 90m, 2h, 3d; 30d at most."`
	Reason      string   `required:"" placeholder:"WHY" help:"What for: INC-7."`
	Exec        []string `sep:"none" placeholder:"PATTERN" help:"Only such commands, as in rules ('ps *'); once for each. Without: a shell."`
	Profile     string   `placeholder:"NAME" help:"Privileges: ${profiles}."`
}

const maxGrant = 30 * 24 * time.Hour

// Validate is called by kong.
func (c grantCmd) Validate() error {
	if time.Duration(c.For) > maxGrant {
		return errors.New("--for: 30d at most: for longer there are rules")
	}
	_, err := grantOf(c.made(time.Time{}))
	return cmp.Or(err, checkReason(c.Reason))
}

func (c grantCmd) made(since time.Time) standing.Grant {
	return standing.Grant{
		Person: c.Person, Target: c.Target, Exec: c.Exec, Profile: c.Profile,
		Since: since, Until: c.For.from(since), Reason: c.Reason, By: doer(localPerson()),
	}
}

// Run makes a grant, which the daemon finds, now or when it runs again.
func (c grantCmd) Run(out io.Writer) error {
	cfg, err := config.Load(c.Config) // there are no people in the defaults
	if err != nil {
		return err
	}
	store, err := openStore(cfg)
	if err != nil {
		return err
	}
	g := c.made(now())
	if err := c.consider(cfg, store, g); err != nil {
		return err
	}
	g, err = store.AddGrant(g, func(g standing.Grant) error {
		return noteAtHost(cfg, grantEvent(audit.GrantAdded, g, g.Says()))
	})
	if err != nil {
		return status(err)
	}
	_, err = fmt.Fprintf(out, "%s: %s\n", g.ID, audit.Printable(g.Says()))
	return err
}

// consider refuses what can never hold, and warns of what will not.
func (c grantCmd) consider(cfg *config.Config, store *standing.Store, g standing.Grant) error {
	who, ok := cfg.Policy.Subject(c.Person)
	if !ok {
		return fmt.Errorf("%q is none of people (%s)", c.Person, strictyaml.Suggest(c.Person, names(cfg.Policy)))
	}
	if strings.HasPrefix(c.Target, "pid:") {
		return fmt.Errorf("%s: a grant is for a container: the number of a process will be another's", c.Target)
	}
	target, found, err := exactly(cfg, c.Target)
	if err != nil || !found {
		return err
	}
	if target.Runtime == "pid" {
		return fmt.Errorf("%s: a grant is for a container, and this is a bare process", c.Target)
	}
	stands, _ := hold(store.Read(), g.Since)
	stands.grants = map[string]standing.Grant{"": g}
	d := stands.beside(cfg.Policy).Decide(who, ask(target, g))
	switch {
	case !d.Allow:
		tell("this will not let %s in: %s", c.Person, strings.TrimPrefix(d.Rule+": "+d.Why, ": "))
	case !strings.HasPrefix(d.Rule, "grant "):
		tell("rule %s lets %s in already", d.Rule, c.Person)
	}
	return nil
}

// ask is what a grant is for, as a question.
func ask(t authz.Target, g standing.Grant) authz.Request {
	r := authz.Request{Target: t, Kind: authz.Shell, Time: g.Since}
	if len(g.Exec) > 0 {
		r.Kind, r.Command = authz.Exec, g.Exec[0]
	}
	return r
}

func names(p *authz.Policy) (all []string) {
	for _, who := range p.People() {
		all = append(all, who.Person)
	}
	slices.Sort(all)
	return all
}

type revokeCmd struct {
	besideRules `embed:""`
	ID          string `arg:"" help:"Of the grant, as cartsshd grants lists it."`
}

// Run takes a grant away, also if nobody can record it.
func (c revokeCmd) Run() error {
	cfg, store, err := c.open()
	if err != nil {
		return err
	}
	g, what, err := c.find(store.Read())
	if err != nil {
		return err
	}
	unrecorded := noteAtHost(cfg, grantEvent(audit.GrantEnded, g, "revoked by "+doer(localPerson())+": "+what))
	if err := store.EndGrant(c.ID); err != nil {
		return err
	}
	if unrecorded != nil {
		return fmt.Errorf("%s is revoked, and that is not on the record: %w", c.ID, unrecorded)
	}
	return nil
}

// find also finds what is damaged, and says what it is.
func (c revokeCmd) find(state standing.State) (g standing.Grant, what string, err error) {
	for _, g := range state.Grants {
		if g.ID == c.ID {
			return g, g.Says(), nil
		}
	}
	for _, f := range state.Faults {
		if !f.Lock && f.ID == c.ID {
			return standing.Grant{ID: c.ID}, f.Err.Error(), nil
		}
	}
	return g, "", fmt.Errorf("no grant has the ID %s (cartsshd grants lists them)", audit.Printable(c.ID))
}

type grantsCmd struct {
	besideRules `embed:""`
	JSON        bool `name:"json" help:"As JSON."`
}

// Run lists the grants that hold.
func (c grantsCmd) Run(out io.Writer) error {
	_, store, err := c.open()
	if err != nil {
		return err
	}
	state := store.Read()
	list := slices.DeleteFunc(append([]standing.Grant{}, state.Grants...), func(g standing.Grant) bool { return g.Over(now()) })
	rows := [][]string{{"ID", "PERSON", "TARGET", "WHAT", "UNTIL", "BY", "REASON"}}
	for _, g := range list {
		what := "shell"
		if len(g.Exec) > 0 {
			what = fmt.Sprintf("exec %q", g.Exec)
		}
		rows = append(rows, []string{g.ID, g.Person, g.Target, strings.TrimSpace(what + " " + g.Profile), until(g.Until), g.By, g.Reason})
	}
	if c.JSON {
		err = writeJSON(out, list)
	} else {
		err = table(out, rows...)
	}
	return errors.Join(err, tellFaults(state.Faults, false))
}
