package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

type mountCmd struct {
	withImage `embed:""`
	Name      string `arg:"" help:"The container, as in ssh NAME@host."`
}

// Run puts the tools at /dev/crashcart in the container's own mount namespace,
// where they stay until unmount, or the container's end.
func (c mountCmd) Run(v *verbosity) error { return status(onRecord(c.config, v, c.do)) }

func (c mountCmd) do(cfg *config.Config, record *audit.Log, v *verbosity) error {
	target, err := find(cfg, record, c.Name, v)
	if err != nil {
		return err
	}
	defer target.Close()
	image, err := openFirst(cfg, v)
	if err != nil {
		return err
	}
	defer image.Close()
	m := meta("mount", c.Name, target, nil)
	m.Tools = image.ID()
	return recorded(record, m, func() error {
		already, err := attach(target, image, func(m *mounted) { m.Wanted = true })
		if err != nil {
			return err
		}
		if already {
			tell("%s: the tools are at %s already", c.Name, nsexec.Tools)
		} else {
			tell("%s: the tools are at %s", c.Name, nsexec.Tools)
		}
		return nil
	})
}

// openFirst opens the image that a command has which demands none.
func openFirst(cfg *config.Config, v *verbosity) (*tools, error) {
	image, err := firstTools(cfg.Image)
	if err != nil {
		return nil, err
	}
	if _, err := image.SHA256(); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	v.say("tools image %s, %s", image.Path(), image.ID())
	return image, nil
}

// mountFor is a mount whose files are those of the container's root.
func (t *tools) mountFor(target *router.Target) (*os.File, error) {
	userns, err := nsexec.Userns(target.Process)
	if err != nil {
		return nil, err
	}
	if userns != nil {
		defer userns.Close()
	}
	return t.Mount(userns)
}

// attach puts the tools where the container sees them, for somebody who wants
// them there. They may be there already, for somebody else.
func attach(target *router.Target, image *tools, want func(*mounted)) (already bool, err error) {
	l, err := openLedger()
	if err != nil {
		return false, err
	}
	defer l.close()
	mount, err := image.mountFor(target)
	if err != nil {
		return false, err
	}
	defer mount.Close()
	m := l.take(target)
	// First it is written down, then done: should we be killed in between, the
	// next one takes away what nobody wants.
	err = nsexec.Attach(target.Process, mount, func(made nsexec.Made) error {
		m.Made.Dev, m.Made.Dir = m.Made.Dev || made.Dev, m.Made.Dir || made.Dir
		return l.save()
	})
	if already = errors.Is(err, nsexec.ErrAttached); err != nil && !already {
		l.forget(m)
		return false, errors.Join(fmt.Errorf("%s: %w", m.name(), err), l.save())
	}
	want(m)
	return already, l.save()
}

type unmountCmd struct {
	atHost `embed:""`
	All    bool   `help:"Of all containers."`
	Name   string `arg:"" optional:"" help:"The container, as in ssh NAME@host."`
}

// Validate is called by kong.
func (c unmountCmd) Validate() error {
	if c.All == (c.Name != "") {
		return errors.New("wants the name of a container, or --all")
	}
	return nil
}

// Run takes the tools away again that mount has put there.
func (c unmountCmd) Run(v *verbosity) error { return status(onRecord(c.config, v, c.do)) }

func (c unmountCmd) do(cfg *config.Config, record *audit.Log, v *verbosity) error {
	if c.All {
		return unmountAll(record, v)
	}
	target, err := find(cfg, record, c.Name, v)
	if err != nil {
		return err
	}
	defer target.Close()
	return recorded(record, meta("unmount", c.Name, target, nil), func() error { return detach(target, c.Name) })
}

// detach takes the tools away, but for those who still run something there.
func detach(target *router.Target, name string) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	defer l.close()
	m := l.of(target)
	if m == nil {
		m = &mounted{Init: procID{target.PID, target.Started}} // or of a ledger that was lost
	}
	return l.unwant(m, name)
}

// unwant is the end of what mount began.
func (l *ledger) unwant(m *mounted, name string) error {
	m.Wanted = false
	if len(m.Users) > 0 {
		tell("%s: the tools stay until `enter --exec` ends, process %d", name, m.Users[0].PID)
		return l.save()
	}
	err := m.detach()
	if errors.Is(err, nsexec.ErrDetached) {
		tell("%s: no tools are there that mount has put there", name)
		err = nil
	} else if err == nil {
		tell("%s: the tools are gone", name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), l.save())
	}
	return errors.Join(l.release(m), l.save())
}

// unmountAll goes by what the kernel says is mounted, whoever has put it there.
func unmountAll(record *audit.Log, v *verbosity) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	defer l.close()
	rooms, err := allRooms()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rooms {
		if !r.attached() {
			continue
		}
		m := l.in(r)
		v.say("process %d sees the tools", r.init.PID)
		target := audit.Meta{Person: localPerson(), Client: localClient(), Login: "--all", Kind: "unmount",
			Target: audit.Target{Runtime: m.Runtime, ID: m.ID, Name: m.Name, PID: m.Init.PID, Started: m.Init.Started}}
		errs = append(errs, recorded(record, target, func() error { return l.unwant(m, m.name()) }))
	}
	return errors.Join(errs...)
}

// in is the entry of the container in which a room is; a new one if the ledger
// has none.
func (l *ledger) in(r room) *mounted {
	for _, m := range l.Mounts {
		if mountNamespace(m.Init.PID) == r.namespace {
			return m
		}
	}
	id := fmt.Sprint(r.init.PID)
	return &mounted{Runtime: "pid", ID: id, Name: "pid:" + id, Init: r.init}
}
