package main

import (
	"errors"
	"fmt"
	"io"
	osuser "os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/sshd"
	"github.com/cartsshd/cartsshd/internal/standing"
)

// besideRules is what the commands about grants and locks have in common. They
// need no daemon: it may hang, and finds the files when it does not.
type besideRules struct{ atHost }

// places is where things are, also while the policy is broken.
func (c besideRules) places() (*config.Config, error) {
	cfg, err := c.config()
	if err == nil {
		return cfg, nil
	}
	places, worse := config.Places(c.Config)
	if worse != nil {
		return nil, err
	}
	tell("%s does not load (see cartsshd check): nothing is taken from it but where things are, such as %s", c.Config, places.State.Dir)
	return places, nil
}

func (c besideRules) open() (*config.Config, *standing.Store, error) {
	cfg, err := c.places()
	if err != nil {
		return nil, nil, err
	}
	store, err := openStore(cfg)
	return cfg, store, err
}

func openStore(cfg *config.Config) (*standing.Store, error) {
	key, err := hostKey(cfg.HostKey)
	if err != nil {
		return nil, err
	}
	return standing.In(cfg.State.Dir, key), nil
}

// noteAtHost writes an event to the record of what is done at the host.
func noteAtHost(cfg *config.Config, e audit.Event) error {
	person, client := localPerson(), localClient()
	e.Person, e.Client = &person, &client
	record, err := audit.OpenHost(cfg.Record.Dir)
	if err != nil {
		return err
	}
	return errors.Join(record.Event(e), record.Close())
}

// doer is who does it, in one word: who signed in at the host, if that is known.
func doer(p audit.Person) string {
	switch {
	case p.LoginUID != nil:
		if u, err := osuser.LookupId(strconv.Itoa(*p.LoginUID)); err == nil {
			return u.Username
		}
		return fmt.Sprint("uid ", *p.LoginUID)
	case p.SudoUser != "":
		return p.SudoUser
	}
	return p.Name
}

// span is how long something is to last.
type span time.Duration

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second {
		return fmt.Errorf("%q: wants how long, from 1s on: 90m, 2h, 3d", text)
	}
	*s = span(d)
	return nil
}

// from is when it is over; zero if it has no end.
func (s span) from(now time.Time) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(s))
}

// now is to the second, as people read it.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

const maxReason = 1000

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || len(reason) > maxReason {
		return fmt.Errorf("--reason wants some words, and at most %d bytes", maxReason)
	}
	return nil
}

// exactly finds the container that is called so. Grants and locks are compared
// with names and IDs as they are, so that what leads to a container in another
// way would never hold. It is not found if it is not there, which is no error.
func exactly(cfg *config.Config, name string) (t authz.Target, found bool, err error) {
	if _, err := router.ParseRef(name); err != nil {
		return t, false, err
	}
	target, err := lookFor(cfg, name)
	if t, err = asJudged(target, err); errors.Is(err, router.ErrAmbiguous) {
		return t, false, err
	}
	if err != nil { // not there, or its runtime does not answer
		tell("%s was not found now, and is taken by its name alone (%v)", name, err)
		return t, false, nil
	}
	if !slices.Contains(spellings(t), name) {
		return t, false, fmt.Errorf("%s leads to %s: say that, since it is compared exactly", name, spellings(t)[0])
	}
	return t, true, nil
}

// asJudged is what the policy is told of a container, also of one that nobody can
// enter now.
func asJudged(target *router.Target, err error) (authz.Target, error) {
	if closed, ok := errors.AsType[*router.ClosedError](err); ok {
		targets, err := sshd.JudgedUnpinned(closed.Match)
		if err != nil {
			return authz.Target{}, err
		}
		return targets[0], nil
	}
	if err != nil {
		return authz.Target{}, err
	}
	defer target.Close()
	return sshd.Judged(target), nil
}

// spellings are the names under which a grant or a lock finds a container, the
// clearest first.
func spellings(t authz.Target) []string {
	names := []string{t.Runtime + ":" + t.ID, t.ID}
	if t.Name != "" {
		names = append([]string{t.Runtime + ":" + t.Name, t.Name}, names...)
	}
	return names
}

// tellFaults says what of a store cannot be believed; the error is that there is
// something.
func tellFaults(faults []standing.Fault, locks bool) error {
	var err error
	for _, f := range faults {
		if f.Lock == locks {
			tell("%v", f)
			err = exitCode(1)
		}
	}
	return err
}

// table writes rows that are safe for a terminal.
func table(out io.Writer, rows ...[]string) error {
	w := columns(out)
	for _, row := range rows {
		for i, cell := range row {
			if row[i] = audit.Printable(cell); row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func until(t time.Time) string {
	if t.IsZero() {
		return "unlocked"
	}
	return t.UTC().Format(time.RFC3339)
}
