package authz

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// TargetPattern matches targets by everything it mentions. What a target does
// not have never matches, not even by "*": {name: "*"} is every container with
// a name, and no bare process.
type TargetPattern struct {
	Name       Glob            `yaml:"name"`
	Runtime    Glob            `yaml:"runtime"`
	Image      ImagePattern    `yaml:"image"`
	Namespace  Glob            `yaml:"namespace"`
	Pod        Glob            `yaml:"pod"`
	Labels     map[string]Glob `yaml:"labels"`
	Privileged *Switch         `yaml:"privileged"`
	HostPID    *Switch         `yaml:"host_pid"`
	HostNet    *Switch         `yaml:"host_net"`
}

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (p *TargetPattern) UnmarshalStrict(n *strictyaml.Node) {
	type plain TargetPattern // without this method
	n.Decode((*plain)(p))
	if _, isText := n.Text(); !isText && n.Len() == 0 {
		n.Problemf(`target says nothing: write {name: "*"} for every container`)
	}
	if p.Labels != nil && len(p.Labels) == 0 {
		n.Problemf("labels name none: give one or take them out")
	}
}

// Match reports whether t is meant. The zero pattern means nothing.
func (p *TargetPattern) Match(t Target) bool { return p.matches(t.read()) }

// A container is a target, read once for all rules.
type container struct {
	Target
	image image
}

func (t Target) read() *container { return &container{t, imageOf(t.Image)} }

func (p *TargetPattern) matches(c *container) bool {
	return p.Name.allows(c.Name) && p.Runtime.allows(c.Runtime) && p.Image.allows(c.image) &&
		p.Namespace.allows(c.Namespace) && p.Pod.allows(c.Pod) && p.allowsLabels(c.Labels) &&
		p.Privileged.allows(c.Facts.Privileged) && p.HostPID.allows(c.Facts.HostPID) && p.HostNet.allows(c.Facts.HostNet) &&
		!p.empty()
}

func (p *TargetPattern) empty() bool {
	return p.Name.pattern == nil && p.Runtime.pattern == nil && !p.Image.said() && p.Namespace.pattern == nil && p.Pod.pattern == nil &&
		len(p.Labels) == 0 && p.Privileged == nil && p.HostPID == nil && p.HostNet == nil
}

// allows tells whether a fact is as it is asked for, if it is.
func (s *Switch) allows(fact bool) bool { return s == nil || bool(*s) == fact }

func (p *TargetPattern) allowsLabels(labels map[string]string) bool {
	for name, glob := range p.Labels {
		if value, ok := labels[name]; !ok || !glob.Match(value) {
			return false
		}
	}
	return true
}

// labelsUnknown is a label of a target whose own labels could not be found out:
// it may have any. The router sets it, and no runtime can.
const labelsUnknown = "cartsshd.labels"

// matchesButForLabels reports whether t is meant if it has the labels that p
// asks for.
func (p *TargetPattern) matchesButForLabels(c *container) bool {
	if len(p.Labels) == 0 {
		return false
	}
	others := *p
	others.Labels = nil
	return others.empty() || others.matches(c)
}

// misses says what of a target does not fit.
func (p *TargetPattern) misses(t *container) (words []string) {
	for _, part := range []struct {
		what  string
		glob  Glob
		value string
	}{
		{"name", p.Name, t.Name}, {"runtime", p.Runtime, t.Runtime}, {"namespace", p.Namespace, t.Namespace}, {"pod", p.Pod, t.Pod},
	} {
		if !part.glob.allows(part.value) {
			words = append(words, missed(part.what, part.value, part.glob))
		}
	}
	if !p.Image.allows(t.image) {
		words = append(words, missed("image", t.Image, p.Image))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Labels)) {
		value, ok := t.Labels[name]
		switch {
		case !ok:
			words = append(words, missed("label "+name, "", p.Labels[name]))
		case !p.Labels[name].Match(value):
			words = append(words, fmt.Sprintf("label %s is %q, does not match %s", name, value, p.Labels[name]))
		}
	}
	return append(words, p.missedFacts(t.Facts)...)
}

func missed(what, value string, pattern fmt.Stringer) string {
	if value == "" {
		return fmt.Sprintf("it has no %s (%s is asked for)", what, pattern)
	}
	return fmt.Sprintf("%s %s does not match %s", what, value, pattern)
}

// wanted is a fact, and how it is asked for.
type wanted struct {
	name string
	want *Switch
	is   bool
}

func (p *TargetPattern) facts(f Facts) []wanted {
	return []wanted{{"privileged", p.Privileged, f.Privileged}, {"host_pid", p.HostPID, f.HostPID}, {"host_net", p.HostNet, f.HostNet}}
}

func (p *TargetPattern) missedFacts(f Facts) (words []string) {
	for _, fact := range p.facts(f) {
		if !fact.want.allows(fact.is) {
			words = append(words, fmt.Sprintf("%s is %v", fact.name, fact.is))
		}
	}
	return words
}
