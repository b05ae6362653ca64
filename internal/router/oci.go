package router

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// onDisk is a runtime that is read from disk alone: it may hang or be dead, or
// never have been a daemon.
type onDisk struct {
	patience
	name  string
	trees []*stateTree
}

func newOnDisk(name string, trees ...*stateTree) *onDisk {
	var roots []string
	for _, tree := range trees {
		roots = append(roots, tree.roots...)
	}
	return &onDisk{newPatience(strings.Join(roots, ", ")), name, trees}
}

// Name is that of the runtime in a login.
func (d *onDisk) Name() string { return d.name }

// Find and List look on disk. A directory that is not there is no error, and
// one that hangs an error after a second.
func (d *onDisk) Find(ctx context.Context, id string) ([]Found, error) {
	return d.each(ctx, func(s *stateDir) ([]Found, error) { return s.look(id) })
}

// List is as Find.
func (d *onDisk) List(ctx context.Context) ([]Found, error) { return d.each(ctx, (*stateDir).running) }

func (d *onDisk) each(ctx context.Context, ask func(*stateDir) ([]Found, error)) ([]Found, error) {
	return d.ask(ctx, func() (found []Found, err error) {
		for _, tree := range d.trees {
			more, failed := tree.each(ask)
			found, err = append(found, more...), errors.Join(err, failed)
		}
		return found, err
	})
}

// Verify compares the process's cgroup with that of the file. When it was started,
// and whether it has files of its own, is asked by the Table.
func (d *onDisk) Verify(f Found) error {
	if len(f.cgroups) == 0 && f.Start == 0 {
		return fmt.Errorf("nothing tells whether process %d is its", f.PID)
	}
	return inClaimed(f.PID, f.cgroups)
}

// ociConfig is what we read of an OCI runtime configuration, config.json; see
// https://github.com/opencontainers/runtime-spec/blob/main/config.md.
type ociConfig struct {
	Annotations map[string]string
	Linux       struct{ CgroupsPath string }
}

// bundle reads an ociConfig, and the PID that is beside it.
func bundle(id string, texts [][]byte) (Found, error) {
	var c ociConfig
	if err := json.Unmarshal(texts[0], &c); err != nil {
		return Found{}, err
	}
	f := Found{ID: id, Labels: c.Annotations, cgroups: []string{cgroupOf(c.Linux.CgroupsPath, id)}}
	if texts[1] == nil { // not yet
		return f, f.sensible(id)
	}
	if f.PID = parsePID(strings.TrimSpace(string(texts[1]))); f.PID == 0 {
		return f, fmt.Errorf("its process is said to be %s", quote(string(texts[1])))
	}
	return f, f.sensible(id)
}

// cgroupOf is the cgroup that a runtime makes of a cgroupsPath: "/a/b", of
// systemd's "slice:prefix:name" a scope, of none the ID. What does not begin
// with a slash is the name of a cgroup anywhere.
func cgroupOf(path, id string) string {
	parts := strings.Split(path, ":")
	switch {
	case len(parts) == 3 && parts[1] != "":
		return parts[1] + "-" + parts[2] + ".scope"
	case len(parts) == 3:
		return parts[2] + ".scope"
	case path == "" || strings.HasPrefix(path, "/"):
		return cmp.Or(path, id)
	}
	return filepath.Base(path) // below the cgroup of whoever made it
}

// ownName is the name of a container that has none but its ID: that, unless it
// is a number that nobody has chosen.
func ownName(id string) string {
	if isContainerID(id) {
		return ""
	}
	return id
}

// Annotations by which a container is seen to be a Kubernetes pod's:
// containerd's pkg/cri/annotations, and CRI-O's pkg/annotations.
const (
	criKind  = "io.kubernetes.cri.container-type"
	crioKind = "io.kubernetes.cri-o.ContainerType"
)

// maker is the runtime that has had a container made, to be seen by its
// annotations and by where it is.
func maker(labels map[string]string, dir string) string {
	const tasks = "/io.containerd.runtime.v2.task/"
	_, namespace, _ := strings.Cut(dir+"/", tasks)
	namespace, _, _ = strings.Cut(namespace, "/")
	switch {
	case labels[criKind] != "" || labels[crioKind] != "":
		return "cri"
	case namespace == "moby" || strings.Contains(dir, "/runtime-runc/moby"):
		return "docker"
	case labels["io.container.manager"] == "libpod" || strings.Contains(dir, "/overlay-containers/"):
		return "podman"
	case namespace != "":
		return "containerd"
	}
	return ""
}

// NewContainerd returns containerd by its state directory, /run/containerd:
// all of its namespaces. A container is called as nerdctl calls it, or by its
// ID, or namespace/ID.
func NewContainerd(state string) Runtime {
	return newOnDisk("containerd", newStateTree(&containerdLayout, state+"/io.containerd.runtime.v2.task/*"))
}

// containerd writes config.json before the shim writes init.pid.
var containerdLayout = layout{files: []string{"config.json", "init.pid"}, holds: plain, parse: parseTask}

func parseTask(dir, id string, texts [][]byte) (Found, error) {
	f, err := bundle(id, texts)
	f.Name = ownName(id)
	if name := f.Labels["nerdctl/name"]; plain(name) {
		f.Name = name
	}
	f.Names = []string{filepath.Base(dir) + "/" + id}
	f.of = maker(f.Labels, dir)
	return f, err
}

// NewRunc returns runc by its state directories, as --root has them.
func NewRunc(roots ...string) Runtime {
	return newOnDisk("runc", newStateTree(&runcLayout, roots...))
}

var runcLayout = layout{files: []string{"state.json"}, holds: plain, parse: parseRunc}

// runcState is what we read of state.json: libcontainer.State.
type runcState struct {
	ID               string
	InitProcessPID   int               `json:"init_process_pid"`
	InitProcessStart uint64            `json:"init_process_start"`
	CgroupPaths      map[string]string `json:"cgroup_paths"`
	Config           struct{ Labels []string }
}

func parseRunc(dir, id string, texts [][]byte) (Found, error) {
	var s runcState
	if err := json.Unmarshal(texts[0], &s); err != nil {
		return Found{}, err
	}
	f := Found{ID: s.ID, Name: ownName(s.ID), Labels: map[string]string{}, PID: s.InitProcessPID, Start: s.InitProcessStart}
	for _, path := range s.CgroupPaths {
		f.cgroups = append(f.cgroups, relativeCgroup(path))
	}
	for _, label := range s.Config.Labels { // annotations, and the bundle
		name, value, _ := strings.Cut(label, "=")
		f.Labels[name] = value
	}
	f.of = cmp.Or(maker(f.Labels, f.Labels["bundle"]), maker(nil, dir))
	return f, f.sensible(id)
}

// NewCrun returns crun by its state directories, as --root has them.
func NewCrun(roots ...string) Runtime {
	return newOnDisk("crun", newStateTree(&crunLayout, roots...))
}

// crun leaves a copy of the bundle's config.json beside its status.
var crunLayout = layout{files: []string{"status", "config.json"}, holds: plain, parse: parseCrun}

// crunStatus is what we read of crun's status: libcrun's container_status.
type crunStatus struct {
	PID    int
	Start  uint64 `json:"process-start-time"`
	Cgroup string `json:"cgroup-path"`
	Bundle string
}

func parseCrun(_, id string, texts [][]byte) (Found, error) {
	var s crunStatus
	if err := json.Unmarshal(texts[0], &s); err != nil {
		return Found{}, err
	}
	var c ociConfig
	if texts[1] != nil {
		if err := json.Unmarshal(texts[1], &c); err != nil {
			return Found{}, err
		}
	}
	f := Found{ID: id, Name: ownName(id), Labels: c.Annotations, PID: s.PID, Start: s.Start}
	if s.Cgroup != "" {
		f.cgroups = []string{s.Cgroup}
	}
	f.of = maker(f.Labels, s.Bundle)
	return f, f.sensible(id)
}

// sensible checks what a file says of a process.
func (f *Found) sensible(id string) error {
	if f.ID != id {
		return fmt.Errorf("is about another container, %s", quote(f.ID))
	}
	if f.PID < 0 || f.PID > maxPID || f.PID == 1 {
		return fmt.Errorf("makes no sense: its process is said to be %d", f.PID)
	}
	if f.PID == 0 {
		f.Closed = "is not running"
	}
	return nil
}
