package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/loop"
)

// A toolset is the images of a configuration, in its order.
type toolset []choice

type choice struct {
	name, path string
	arch       string
	tools      *tools // nil if they are for another architecture, and were closed again
}

// openToolset opens all of them, or none.
func openToolset(list config.Images) (toolset, error) { return toolset(nil).renewed(list) }

// renewed opens another configuration's images, all or none. What s has open
// already stays open, and is held by both.
func (s toolset) renewed(list config.Images) (toolset, error) {
	var set toolset
	for _, c := range list {
		next, err := s.open(c)
		if err != nil {
			return nil, errors.Join(err, set.close())
		}
		set = append(set, next)
	}
	if err := set.check(); err != nil {
		return nil, errors.Join(err, set.close())
	}
	return set, nil
}

func (s toolset) open(c config.Image) (choice, error) {
	file, err := openFile(c.Path)
	if err != nil {
		return choice{}, err
	}
	var t *tools
	if had := s.of(file); had != nil {
		t, err = had.again(file, c.SHA256)
	} else {
		t, err = attachTools(file, c.SHA256)
	}
	if err != nil {
		return choice{}, err
	}
	return choose(c, t)
}

// of returns the tools that are open from this very file.
func (s toolset) of(file *loop.File) *tools {
	for _, c := range s {
		if c.tools != nil && os.SameFile(c.tools.Info(), file.Info()) {
			return c.tools
		}
	}
	return nil
}

// choose keeps of an image what can be of use here.
func choose(c config.Image, t *tools) (choice, error) {
	made := choice{name: string(c.Name), path: c.Path, arch: t.arch}
	if !t.fit() {
		return made, t.Close()
	}
	if _, err := t.SHA256(); err != nil {
		return choice{}, errors.Join(err, t.Close())
	}
	made.tools = t
	return made, nil
}

func (s toolset) has(t *tools) bool {
	return slices.ContainsFunc(s, func(c choice) bool { return c.tools == t })
}

func (s toolset) close() error {
	var errs []error
	for _, c := range s {
		if c.tools != nil {
			errs = append(errs, c.tools.Close())
		}
	}
	return errors.Join(errs...)
}

// check finds what is wrong with images that have nothing wrong with them.
func (s toolset) check() error {
	for i, c := range s {
		double := func(other choice) bool { return c.name != "" && other.name == c.name && other.arch == c.arch }
		if j := slices.IndexFunc(s[:i], double); j >= 0 {
			return fmt.Errorf("tools images: %s and %s are both called %q, and both for %s: give one another name", s[j].path, c.path, c.name, c.arch)
		}
	}
	if !slices.ContainsFunc(s, func(c choice) bool { return c.tools != nil }) {
		return fmt.Errorf("tools images: none is for this machine, which is %s: %s: build one with \"cartsshd image build\"", runtime.GOARCH, s.architectures())
	}
	return nil
}

func (s toolset) architectures() string {
	var each []string
	for _, c := range s {
		each = append(each, c.path+" is for "+c.arch)
	}
	return strings.Join(each, ", ")
}

// find returns what a rule demands (authz.Terms.Image): the first image of that
// name or digest which fits here, or of all if it demands none.
func (s toolset) find(demand string) (*tools, error) {
	var elsewhere []string
	for _, c := range s {
		switch {
		case c.tools != nil && (demand == "" || demand == c.name || demand == c.tools.ID()):
			return c.tools, nil
		case demand == c.name:
			elsewhere = append(elsewhere, c.arch)
		}
	}
	if elsewhere != nil {
		return nil, fmt.Errorf("a rule demands the tools image %q, which is here for %s only, and not for %s", demand, strings.Join(elsewhere, " and "), runtime.GOARCH)
	}
	return nil, fmt.Errorf("a rule demands the tools image %q, which is not loaded", demand)
}

// unmet tells which demands of a policy's rules these images cannot meet: who
// comes by such a rule is denied.
func (s toolset) unmet(p *authz.Policy) []error {
	var errs []error
	for _, demand := range p.Images() {
		if _, err := s.find(demand); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// firstTools opens what a session has that demands nothing, and no more than
// that: one is all that a single command needs.
func firstTools(list config.Images) (*tools, error) {
	var others toolset
	for _, c := range list {
		t, err := openTools(c)
		if err != nil || t.fit() {
			return t, err
		}
		if err := t.Close(); err != nil {
			return nil, err
		}
		others = append(others, choice{path: c.Path, arch: t.arch})
	}
	return nil, others.check()
}
