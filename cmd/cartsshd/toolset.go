package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/cartsshd/cartsshd/internal/config"
)

// A toolset is the images of a configuration, in its order.
type toolset []choice

type choice struct {
	name, path string
	arch       string
	tools      *tools // nil if they are for another architecture, and were closed again
}

// openToolset opens all of them, or none.
func openToolset(list config.Images) (toolset, error) {
	var set toolset
	for _, c := range list {
		next, err := open(c)
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

func open(c config.Image) (choice, error) {
	t, err := openTools(c)
	if err != nil {
		return choice{}, err
	}
	return choose(c, t)
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
		return fmt.Errorf("tools images: none is for this machine, which is %s: %s: build one with \"make image\"", runtime.GOARCH, s.architectures())
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
		return nil, fmt.Errorf("the rule demands the tools image %q, which is here for %s only, and not for %s", demand, strings.Join(elsewhere, " and "), runtime.GOARCH)
	}
	return nil, fmt.Errorf("the rule demands the tools image %q, which is not loaded", demand)
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
