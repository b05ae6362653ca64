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
	Image      Glob            `yaml:"image"`
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
func (p *TargetPattern) Match(t Target) bool {
	if p.empty() {
		return false
	}
	return p.Name.allows(t.Name) && p.Runtime.allows(t.Runtime) && p.allowsImage(t.Image) &&
		p.Namespace.allows(t.Namespace) && p.Pod.allows(t.Pod) && p.allowsLabels(t.Labels) &&
		p.Privileged.allows(t.Facts.Privileged) && p.HostPID.allows(t.Facts.HostPID) && p.HostNet.allows(t.Facts.HostNet)
}

func (p *TargetPattern) empty() bool {
	return p.Name.pattern == nil && p.Runtime.pattern == nil && p.Image.pattern == nil && p.Namespace.pattern == nil && p.Pod.pattern == nil &&
		len(p.Labels) == 0 && p.Privileged == nil && p.HostPID == nil && p.HostNet == nil
}

// allows tells whether a fact is as it is asked for, if it is.
func (s *Switch) allows(fact bool) bool { return s == nil || bool(*s) == fact }

func (p *TargetPattern) allowsImage(image string) bool {
	return p.Image.pattern == nil || image != "" && slices.ContainsFunc(spellings(image), p.Image.Match)
}

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
func (p *TargetPattern) matchesButForLabels(t Target) bool {
	if len(p.Labels) == 0 {
		return false
	}
	others := *p
	others.Labels = nil
	return others.empty() || others.Match(t)
}

// misses says what of t does not fit.
func (p *TargetPattern) misses(t Target) (words []string) {
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
	if !p.allowsImage(t.Image) {
		words = append(words, missed("image", t.Image, p.Image))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Labels)) {
		if value, ok := t.Labels[name]; !ok || !p.Labels[name].Match(value) {
			words = append(words, missed("label "+name, value, p.Labels[name]))
		}
	}
	return append(words, p.missedFacts(t.Facts)...)
}

func missed(what, value string, glob Glob) string {
	if value == "" {
		return fmt.Sprintf("it has no %s (%s is asked for)", what, glob)
	}
	return fmt.Sprintf("%s %s does not match %s", what, value, glob)
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
