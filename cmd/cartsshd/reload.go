package main

import (
	"slices"
	"sync"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/glance"
)

// glanceAtConfig is how often the daemon looks whether config.yaml has changed,
// or what it names.
const glanceAtConfig = 500 * time.Millisecond

// source is where the configuration is from. Reloads come one at a time.
type source struct {
	reloading sync.Mutex
	path      string
	read      glance.Watch
	named     []string // all that is looked at
}

// watched are the files that make the policy.
func watched(path string, cfg *config.Config) []string {
	return append([]string{path}, cfg.Files...)
}

// followConfig reloads if a file has changed.
func (d *daemon) followConfig() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.read.Changed() {
		d.takeConfig()
	}
}

// reload does it, changed or not.
func (d *daemon) reload() {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.takeConfig()
}

// takeConfig takes people, rules and tools images from the file anew, all or
// nothing: if any of it is wrong, nothing changes, and that is told once. The
// rest of it is read at start only.
func (d *daemon) takeConfig() {
	d.read.Look(d.named...) // first: what changes while it is read is seen
	old := d.tools.now()
	cfg, set, err := loadAnew(d.path, old)
	if err != nil {
		d.logger.Error("configuration refused, the old one stays", "err", err)
		d.complain(d.record.Event(audit.Event{Event: audit.PolicyRefused, Detail: err.Error()}))
		d.followMended()
		return
	}
	d.named = watched(d.path, cfg)
	d.read.Also(d.named...)
	d.complain(d.announce(set, old))
	d.warnUnmet(cfg.Policy, set)
	// Tools first: what the new rules demand is there when they are in force.
	d.complain(d.tools.swap(set))
	d.takeRules(cfg.Policy)
	d.logger.Info("people, rules and tools loaded", "file", d.path)
	d.complain(d.record.Event(audit.Event{Event: audit.PolicyLoaded, Detail: d.path}))
}

// followMended also looks at what the refused file names: the mistake may be there,
// and be mended there.
func (d *daemon) followMended() {
	refused, _ := config.Inspect(d.path)
	if refused == nil {
		return
	}
	for _, path := range watched(d.path, refused) {
		if !slices.Contains(d.named, path) {
			d.named = append(d.named, path)
		}
	}
	d.read.Also(d.named...)
}

func loadAnew(path string, old toolset) (*config.Config, toolset, error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, nil, err
	}
	set, err := old.renewed(cfg.Image)
	return cfg, set, err
}

// complain is for what must not keep a reload from going on.
func (d *daemon) complain(err error) {
	if err != nil {
		d.logger.Error("reloading", "err", err)
	}
}
