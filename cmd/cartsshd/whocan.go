package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/sshd"
)

type whoCanCmd struct {
	byPolicy
	Target   string   `arg:"" help:"The container, as in ssh NAME@host."`
	Imagined imagined `embed:"" group:"A container that need not run:"`
}

// Run lists everyone who may do something in one container, and what.
func (c whoCanCmd) Run(out io.Writer) error {
	cfg, policy, err := c.load()
	if err != nil {
		return failed(exitUnknown, err)
	}
	about, err := c.Imagined.or(cfg, c.Target)
	if err != nil {
		return failed(exitUnknown, err)
	}
	offers := []offer{} // [], and not null
	for _, who := range everyone(policy) {
		for _, o := range policy.Offers(who.Subject, authz.Request{Target: about.Target, Time: time.Now()}) {
			offers = append(offers, c.offer(o, who.name, about.Target))
		}
	}
	if about.note != "" {
		tell("%s", about.note)
	}
	return c.list(out, offers, "PERSON", func(o offer) string { return o.Person })
}

// somebody is one who may sign in, or a pattern of such.
type somebody struct {
	authz.Subject
	name string
}

func everyone(policy *authz.Policy) (all []somebody) {
	for _, who := range policy.People() {
		all = append(all, somebody{who, who.Person})
	}
	patterns, holders := policy.Certificates()
	for i, who := range holders {
		all = append(all, somebody{who, "principal:" + patterns[i]})
	}
	return all
}

type whatCanCmd struct {
	byPolicy
	Person string `arg:"" help:"One of people, or principal:NAME of a certificate."`
}

// Run lists what somebody may do in each container that runs; and then each rule
// that names them, for whatever else may come to run.
func (c whatCanCmd) Run(ctx context.Context, out io.Writer) error {
	cfg, policy, err := c.load()
	if err != nil {
		return failed(exitUnknown, err)
	}
	who, err := subject(policy, c.Person)
	if err != nil {
		return failed(exitUnknown, err)
	}
	table := router.Table{Runtimes: runtimes(cfg.Runtimes)}
	list, warnings := table.List(ctx)
	warn(warnings)
	offers := []offer{}
	for _, m := range list {
		offers = append(offers, c.in(m, policy, who)...)
	}
	rules := []offer{}
	for _, o := range policy.Reach(who) {
		rules = append(rules, c.offer(o, c.Person, authz.Target{}))
	}
	if c.JSON {
		return writeJSON(out, map[string][]offer{"running": offers, "rules": rules})
	}
	err = c.list(out, offers, "CONTAINER", func(o offer) string { return o.Target })
	if len(rules) == 0 || err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe rules that name %s, in their order, for whatever runs:\n", audit.Printable(c.Person))
	return c.list(out, rules, "TARGETS", func(o offer) string { return strings.Join(o.Targets, " or ") })
}

// in is what there is for somebody in one container.
func (c whatCanCmd) in(m router.Listed, policy *authz.Policy, who authz.Subject) (offers []offer) {
	targets, err := sshd.JudgedUnpinned(m.Match)
	if err != nil {
		warn([]error{err}) // it has ended, maybe
		return nil
	}
	for _, o := range policy.Offers(who, authz.Request{Target: targets[0], Time: time.Now()}) {
		one := c.offer(o, c.Person, targets[0])
		if len(m.Logins) > 0 {
			one.Target = m.Logins[0]
		}
		offers = append(offers, one)
	}
	return offers
}

// offer is an authz.Offer for people, and for scripts.
type offer struct {
	Person     string            `json:"person"`
	Target     string            `json:"target,omitempty"`
	Targets    []string          `json:"targets,omitempty"` // patterns
	Allow      []string          `json:"allow,omitempty"`
	Deny       string            `json:"deny,omitempty"`
	When       string            `json:"when,omitempty"`
	BreakGlass bool              `json:"break_glass,omitempty"`
	Hardware   bool              `json:"hardware_key,omitempty"`
	Key        string            `json:"key,omitempty"` // what it is bound to
	Rule       string            `json:"rule"`
	Where      string            `json:"where,omitempty"`
	Terms      map[string]string `json:"terms,omitempty"`

	terms []authz.Term
}

func (c byPolicy) offer(o authz.Offer, person string, target authz.Target) offer {
	made := offer{
		Person: person, Target: cmp.Or(target.Name, target.ID), Targets: o.Targets, Allow: o.Allow, Deny: o.Deny, When: o.When,
		BreakGlass: o.BreakGlass, Hardware: o.Hardware, Key: o.Key, Rule: o.Rule,
	}
	if o.Line > 0 {
		made.Where = fmt.Sprintf("%s:%d", filepath.Base(c.Config), o.Line)
	}
	if o.Deny == "" {
		made.terms = o.Terms.Words()
		made.Terms = mapped(made.terms)
	}
	return made
}

// what is in a word or more what is allowed.
func (o offer) what() string {
	if o.Deny != "" {
		return "nothing: " + o.Deny
	}
	return strings.Join(o.Allow, ", ")
}

// conditions are all that must hold, or be given.
func (o offer) conditions() string {
	var words []string
	if o.When != "" {
		words = append(words, "when "+o.When)
	}
	if o.BreakGlass {
		words = append(words, "breakglass+NAME only")
	}
	if o.Hardware {
		words = append(words, "hardware key")
	}
	if o.Key != "" {
		words = append(words, "key bound to "+o.Key)
	}
	for _, t := range o.terms {
		if t.Name != "break_glass" && t.Words != "output full" { // said, or as ever
			words = append(words, t.Name+" "+t.Words)
		}
	}
	return strings.Join(words, "; ")
}

func (c byPolicy) list(out io.Writer, offers []offer, title string, first func(offer) string) error {
	if c.JSON {
		return writeJSON(out, offers)
	}
	w := columns(out)
	fmt.Fprintln(w, title+"\tMAY\tRULE\tON WHICH TERMS")
	for _, o := range offers {
		rule := o.Rule
		if o.Where != "" {
			rule += " (" + o.Where + ")"
		}
		row := []string{first(o), o.what(), rule, o.conditions()}
		for i, cell := range row {
			row[i] = audit.Printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}
