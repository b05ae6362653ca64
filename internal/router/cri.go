package router

import (
	"cmp"
	"encoding/json"
	"maps"
	"strings"
)

// NewCRI returns Kubernetes' containers on this host, by what containerd (by
// its state directory, /run/containerd) and CRI-O (by the run directory of its
// storage, /run/containers/storage) write into their configurations.
//
// A container is called namespace/pod/container; namespace/pod will do where
// the pod has no other. The sandbox of a pod, which holds its namespaces and
// runs nothing but a pause, is found by its ID only.
func NewCRI(containerd, crio string) Runtime {
	return newOnDisk("cri",
		newStateTree(&criLayout, containerd+"/io.containerd.runtime.v2.task/k8s.io"),
		newStateTree(&crioLayout, crio+"/overlay-containers"),
	)
}

var (
	criLayout  = layout{files: []string{"config.json", "init.pid"}, holds: plain, parse: parsePod(readCRI)}
	crioLayout = layout{files: []string{"userdata/config.json", "userdata/pidfile"}, holds: isContainerID, parse: parsePod(readCRIO)}
)

// podPart is what a runtime says of one container of a pod.
type podPart struct {
	kind                           string // container, or sandbox
	namespace, pod, uid, container string
	image                          string
	labels                         map[string]string
}

func readCRI(a map[string]string) podPart {
	const prefix = "io.kubernetes.cri."
	return podPart{
		kind: a[criKind], namespace: a[prefix+"sandbox-namespace"], pod: a[prefix+"sandbox-name"],
		uid: a[prefix+"sandbox-uid"], container: a[prefix+"container-name"], image: a[prefix+"image-name"],
	}
}

func readCRIO(a map[string]string) podPart {
	const prefix = "io.kubernetes.cri-o."
	p := podPart{
		kind: a[crioKind], namespace: a["io.kubernetes.pod.namespace"], pod: a["io.kubernetes.pod.name"],
		uid: a["io.kubernetes.pod.uid"], container: a["io.kubernetes.container.name"],
		image: cmp.Or(a[prefix+"ImageName"], a[prefix+"Image"]),
	}
	// Labels that cannot be read are none: a rule that wants one does not match.
	_ = json.Unmarshal([]byte(a[prefix+"Labels"]), &p.labels)
	return p
}

// parsePod reads a container that is a pod's, as read has it.
func parsePod(read func(map[string]string) podPart) func(dir, id string, texts [][]byte) (Found, error) {
	return func(_, id string, texts [][]byte) (Found, error) {
		f, err := bundle(id, texts)
		if err != nil {
			return f, err
		}
		part := read(f.Labels)
		if part.kind == "" {
			return f, errForeign
		}
		part.fill(&f)
		return f, nil
	}
}

// fill names what was found. Its labels are the annotations, the labels where
// the runtime writes them, and the kubelet's own four.
func (p podPart) fill(f *Found) {
	f.Image, f.Namespace, f.Pod, f.of = p.image, p.namespace, p.pod, "cri"
	labels := map[string]string{}
	maps.Copy(labels, f.Labels)
	maps.Copy(labels, p.labels)
	for name, value := range map[string]string{"pod.namespace": p.namespace, "pod.name": p.pod, "pod.uid": p.uid, "container.name": p.container} {
		if value != "" {
			labels["io.kubernetes."+name] = value
		}
	}
	f.Labels = labels
	pod := p.namespace + "/" + p.pod
	if name := pod + "/" + p.container; p.kind == "container" && strings.Count(name, "/") == 2 && named(name) {
		f.Name, f.Names = name, []string{pod}
	}
}
