package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/sshd"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// The exit codes of the commands that answer for the policy, like grep's.
const (
	exitDenied  = 1
	exitUnknown = 2 // nobody can tell
)

// byPolicy is what the commands have in common that answer for the policy.
type byPolicy struct {
	Config string `short:"c" placeholder:"FILE" default:"/etc/cartsshd/config.yaml" help:"Configuration (${default})."`
	JSON   bool   `name:"json" help:"For scripts."`
}

// load returns the policy as serve would have it, and where containers are
// looked for.
func (c byPolicy) load() (*config.Config, *authz.Policy, error) {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return nil, nil, err
	}
	return cfg, inForce(cfg), nil
}

// inForce is the policy with what stands beside its rules. Where there is no
// host's key, as on the machine on which a policy is written, nothing can.
func inForce(cfg *config.Config) *authz.Policy {
	key, err := hostKey(cfg.HostKey)
	if err != nil {
		tell("by the rules alone, without grants and locks: %v", err)
		return cfg.Policy
	}
	state := standing.In(cfg.State.Dir, key).Read()
	for _, f := range state.Faults {
		tell("%v", f)
	}
	holds, _ := hold(state, time.Now())
	return holds.beside(cfg.Policy)
}

// subject is somebody by the name of a person, or principal:NAME.
func subject(policy *authz.Policy, name string) (authz.Subject, error) {
	if principal, ok := strings.CutPrefix(name, "principal:"); ok && principal != "" {
		who, ok := policy.Principal(principal)
		if !ok {
			return who, fmt.Errorf("no authority speaks for the principal %q", principal)
		}
		return who, nil
	}
	who, ok := policy.Subject(name)
	if !ok {
		var known []string
		for _, p := range policy.People() {
			known = append(known, p.Person)
		}
		return who, fmt.Errorf("nobody of people is called %q (%s); who has a certificate is principal:NAME", name, strictyaml.Suggest(name, known))
	}
	return who, nil
}

// asked is a container that the policy is asked about.
type asked struct {
	authz.Target
	note string // what is to be known of the answer
}

// look finds a container among those that run. Of one that does not, the name
// alone is known.
func look(cfg *config.Config, login string) (asked, error) {
	ref, err := router.ParseRef(login)
	if err != nil {
		return asked{}, err
	}
	table := router.Table{Runtimes: runtimes(cfg.Runtimes)}
	target, err := table.Resolve(context.Background(), ref)
	if closed, ok := errors.AsType[*router.ClosedError](err); ok {
		return shut(closed.Match, login)
	}
	if errors.Is(err, router.ErrNotFound) && ref.Runtime != "pid" {
		t := authz.Target{Runtime: cmp.Or(ref.Runtime, usual), ID: ref.ID, Name: ref.ID}
		return asked{t, login + " does not run here: judged by its name alone, as " + t.Runtime + "'s"}, nil
	}
	if err != nil {
		return asked{}, fmt.Errorf("%w (to judge a container by its name alone: --runtime %s)", err, usual)
	}
	defer target.Close()
	warn(target.Warnings)
	return asked{Target: sshd.Judged(target)}, nil
}

// shut is a container that is there, and cannot be entered now.
func shut(m router.Match, login string) (asked, error) {
	targets, err := sshd.JudgedUnpinned(m)
	if err != nil {
		return asked{}, err
	}
	note := login + " " + m.Closed + ", and nobody can enter it now"
	if len(targets) > 1 {
		note += "; judged as if it was neither privileged nor in namespaces of the host's"
	}
	return asked{targets[0], note}, nil
}

// usual is whose a container is that does not run, if nobody says.
const usual = "docker"

// moment is a time as people write it: of RFC 3339, or in the host's own zone.
type moment struct{ time.Time }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *moment) UnmarshalText(text []byte) (err error) {
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04"} {
		if m.Time, err = time.ParseInLocation(layout, string(text), time.Local); err == nil {
			return nil
		}
	}
	return fmt.Errorf(`%q is no time: write 2026-11-25T18:00:00Z, or "2026-11-25 18:00" in this host's zone`, text)
}

// or is the moment, or now.
func (m moment) or(now time.Time) time.Time {
	if m.IsZero() {
		return now
	}
	return m.Time
}
