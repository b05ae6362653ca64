package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
)

type explainCmd struct {
	byPolicy
	Person string `arg:"" help:"One of people, or principal:NAME of a certificate."`
	Target string `arg:"" help:"The container, as in ssh NAME@host."`

	Exec    string `placeholder:"CMD" help:"To run a command; without this and what follows: a shell." xor:"what"`
	Forward string `placeholder:"HOST:PORT" help:"To forward a port." xor:"what"`
	Do      string `placeholder:"KIND" help:"To do something else: agent, 'scp up', 'env NAME' …" xor:"what"`

	At          moment        `placeholder:"TIME" help:"2026-11-25T18:00:00Z, or '2026-11-25 18:00' in this host's zone (now)."`
	From        authz.Address `placeholder:"ADDR" help:"Where they come from."`
	BreakGlass  bool          `help:"As breakglass+NAME."`
	HardwareKey bool          `help:"With a key in a hardware token."`
	Principal   []string      `placeholder:"NAME" help:"With a certificate that has this principal."`
	Groups      []string      `placeholder:"NAME" help:"In these groups as well, by a certificate."`
	All         bool          `help:"For a denial, tell of all rules, not only of the nearest."`

	Imagined imagined `embed:"" group:"A container that need not run:"`
}

// imagined are the flags of a container that is not looked for.
type imagined struct {
	Runtime   string            `placeholder:"NAME" help:"Its runtime."`
	Image     string            `placeholder:"NAME" help:"Its image."`
	Namespace string            `placeholder:"NAME" help:"Its namespace, of Kubernetes."`
	Pod       string            `placeholder:"NAME" help:"Its pod."`
	Label     map[string]string `placeholder:"K=V" help:"Its labels." mapsep:"none"`
	Fact      []string          `placeholder:"FACT" enum:"privileged,host_pid,host_net,host" help:"privileged, host_pid, host_net, host."`
}

func (i imagined) given() bool {
	return cmp.Or(i.Runtime, i.Image, i.Namespace, i.Pod) != "" || len(i.Label) > 0 || len(i.Fact) > 0
}

// or is what was imagined, or else what runs.
func (i imagined) or(cfg *config.Config, login string) (asked, error) {
	if i.given() {
		return i.as(login)
	}
	return look(cfg, login)
}

func (i imagined) as(login string) (asked, error) {
	ref, err := router.ParseRef(login)
	if err != nil {
		return asked{}, err
	}
	has := func(fact string) bool { return slices.Contains(i.Fact, fact) }
	t := authz.Target{
		Runtime: cmp.Or(i.Runtime, ref.Runtime, usual), ID: ref.ID, Name: ref.ID, Image: i.Image, Namespace: i.Namespace, Pod: i.Pod, Labels: i.Label, Host: has("host"),
		Facts: authz.Facts{Privileged: has("privileged"), HostPID: has("host_pid"), HostNet: has("host_net")},
	}
	return asked{t, login + " is imagined, as " + t.Runtime + "'s: what runs here was not asked"}, nil
}

// Run answers, and gives its reasons.
func (c explainCmd) Run(out io.Writer) error {
	cfg, policy, err := c.load()
	if err != nil {
		return failed(exitUnknown, err)
	}
	a, err := c.answer(cfg, policy)
	if err != nil {
		return failed(exitUnknown, err)
	}
	if err := c.tell(out, a); err != nil || a.Allow {
		return err
	}
	return exitCode(exitDenied)
}

// answer is one for people, and for scripts.
type answer struct {
	Allow     bool              `json:"allow"`
	Person    string            `json:"person"`
	Target    string            `json:"target"`
	What      string            `json:"what"`
	Rule      string            `json:"rule,omitempty"`
	Where     string            `json:"where,omitempty"` // in the file
	Why       string            `json:"why"`
	Note      string            `json:"note,omitempty"`
	DependsOn string            `json:"depends_on,omitempty"`
	Emergency string            `json:"break_glass,omitempty"` // the rule by which the answer would be yes then
	Asked     map[string]string `json:"asked,omitempty"`
	Terms     map[string]string `json:"terms,omitempty"`
	Argv      []string          `json:"argv,omitempty"` // to be run without a shell
	Rules     []judged          `json:"rules,omitempty"`

	asked, terms []authz.Term
	lacks        string // what they need, and have not got
}

// judged is one rule that did not decide, or does not give what is asked for.
type judged struct {
	Rule    string   `json:"rule"`
	Where   string   `json:"where"`
	Decided bool     `json:"decided,omitempty"`
	Failed  []string `json:"failed"`
}

func (c explainCmd) answer(cfg *config.Config, policy *authz.Policy) (answer, error) {
	who, err := c.who(policy)
	if err != nil {
		return answer{}, err
	}
	what, err := c.what()
	if err != nil {
		return answer{}, err
	}
	login, emergency := strings.CutPrefix(c.Target, "breakglass+")
	what.BreakGlass = c.BreakGlass || emergency
	about, err := c.Imagined.or(cfg, login)
	if err != nil {
		return answer{}, err
	}
	what.Target = about.Target
	e := policy.Explain(who, what)
	a := c.of(e, who, what)
	a.Note = about.note
	what.BreakGlass = true
	if d := policy.Decide(who, what); d.Allow && !a.Allow {
		a.Emergency = d.Rule
	}
	return a, nil
}

// who is somebody as they would have signed in.
func (c explainCmd) who(policy *authz.Policy) (authz.Subject, error) {
	who, err := subject(policy, c.Person)
	if len(c.Principal) > 0 {
		who.Principals, who.Certificate = append(who.Principals, c.Principal...), &authz.Certificate{}
	}
	who.Groups = append(who.Groups, c.Groups...)
	who.Hardware = who.Hardware || c.HardwareKey
	return who, err
}

func (c explainCmd) what() (what authz.Request, err error) {
	what = authz.Request{Kind: authz.Shell, Time: c.At.or(time.Now()), From: c.From.Addr}
	switch {
	case c.Exec != "":
		what.Kind, what.Command = authz.Exec, c.Exec
	case c.Forward != "":
		what.Kind, what.Object = authz.Forward, c.Forward
	case c.Do != "":
		what.Kind, what.Object, err = authz.Doing(c.Do)
	}
	return what, err
}

// of is an answer of what the policy says.
func (c explainCmd) of(e authz.Explanation, who authz.Subject, what authz.Request) answer {
	d := e.Decision
	a := answer{
		Allow: d.Allow, Person: who.Person, Target: cmp.Or(what.Target.Name, what.Target.ID), What: what.Words(),
		Rule: d.Rule, Why: d.Why, DependsOn: e.DependsOn, Argv: d.Argv,
	}
	for _, j := range e.Rules {
		if j.Rule == d.Rule {
			a.Where = c.where(j.Line)
		}
	}
	if d.Allow {
		a.asked, a.terms = d.Terms.Asked(), d.Terms.Words()[len(d.Terms.Asked()):]
		a.Asked, a.Terms = mapped(a.asked), mapped(a.terms)
		if d.Terms.TOTP && who.TOTP == "" {
			a.lacks = who.Person + " has no secret for one-time passwords, and so cannot give one"
		}
		return a
	}
	a.Rules = c.judged(e)
	return a
}

func mapped(terms []authz.Term) map[string]string {
	m := map[string]string{}
	for _, t := range terms {
		m[t.Name] = t.Words
	}
	return m
}

func (c explainCmd) where(line int) string {
	return fmt.Sprintf("%s:%d", filepath.Base(c.Config), line)
}

// nearest is of how many rules a denial tells.
const nearest = 5

// judged are the rules that come nearest to letting somebody in; or all of them,
// in their order.
func (c explainCmd) judged(e authz.Explanation) (list []judged) {
	for _, j := range e.Rules {
		if !c.All && (j.Denies != "" || j.Decided) {
			continue // it could only have denied, or has been told of
		}
		one := judged{Rule: j.Rule, Where: c.where(j.Line), Decided: j.Decided, Failed: j.Failed}
		if why := cmp.Or(j.Denies, j.Lacks); why != "" {
			one.Failed = append(one.Failed, why)
		}
		if len(one.Failed) == 0 && !one.Decided && !c.All {
			continue // it would let them in: something stronger decides
		}
		list = append(list, one)
	}
	if c.All {
		return list
	}
	slices.SortStableFunc(list, func(a, b judged) int { return cmp.Compare(len(a.Failed), len(b.Failed)) })
	return list[:min(len(list), nearest)]
}

func (c explainCmd) tell(out io.Writer, a answer) error {
	if c.JSON {
		return writeJSON(out, a)
	}
	_, err := io.WriteString(out, a.text())
	return err
}

// text says first what the answer is.
func (a answer) text() string {
	var text page
	text.line("%s", a.sentence())
	for _, more := range []string{a.Note, a.lacks} {
		if more != "" {
			text.line("%s", more)
		}
	}
	if a.DependsOn != "" {
		text.line("the answer depends on %s: say --from", a.DependsOn)
	}
	text.terms("on these terms:", a.terms)
	text.terms("and "+a.Person+" has to give:", a.asked)
	if a.Emergency != "" {
		text.line("in an emergency, ssh breakglass+%s@… is another matter: rule %s allows it", a.Target, a.Emergency)
	}
	if len(a.Rules) > 0 {
		text.line("the nearest rules, and what of them does not hold:")
	}
	for _, r := range a.Rules {
		text.line("  %s (%s)", r.Rule, r.Where)
		for _, failed := range r.Failed {
			text.line("    %s", failed)
		}
	}
	return text.String()
}

func (a answer) sentence() string {
	rule := ""
	if a.Rule != "" {
		rule = "by rule " + a.Rule + " (" + a.Where + ")"
	}
	if a.Where == "" && a.Rule != "" { // a grant, or a lock
		rule = "by " + a.Rule
	}
	switch {
	case !a.Allow && a.Rule == "":
		return fmt.Sprintf("%s may not %s in %s: %s", a.Person, a.What, a.Target, a.Why)
	case !a.Allow:
		return fmt.Sprintf("%s may not %s in %s, %s: %s", a.Person, a.What, a.Target, rule, a.Why)
	case a.Argv != nil:
		rule += ", without a shell in between"
	}
	return fmt.Sprintf("%s may %s in %s, %s", a.Person, a.What, a.Target, rule)
}

// page is text of which no line is more than one, whatever is in it.
type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) {
	p.WriteString(audit.Printable(fmt.Sprintf(format, args...)) + "\n")
}

func (p *page) terms(title string, terms []authz.Term) {
	if len(terms) > 0 {
		p.line("%s", title)
	}
	for _, t := range terms {
		p.line("  %-11s %s", t.Name, t.Words)
	}
}
