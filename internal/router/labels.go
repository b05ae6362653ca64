package router

import (
	"maps"
	"strings"
)

// Labels of our own, which no runtime can set.
const (
	ourLabels = "cartsshd."

	// LabelsUnknown is "unknown" on a container that may have labels which
	// nobody could tell: a rule that asks for labels cannot be judged.
	LabelsUnknown = ourLabels + "labels"

	// Rootless is the uid of whose container it is: nothing that is said of it
	// is said by root.
	Rootless = ourLabels + "rootless"
)

func unknownLabels() map[string]string { return map[string]string{LabelsUnknown: "unknown"} }

// theirLabels are those that a runtime tells, without any that are ours.
func theirLabels(labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(name, _ string) bool { return strings.HasPrefix(name, ourLabels) })
	return labels
}
