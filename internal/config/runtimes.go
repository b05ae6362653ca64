package config

import (
	"errors"
	"reflect"
)

// Runtimes are where containers are looked for. One that is nil is off.
type Runtimes struct {
	Docker     *Docker     `yaml:"docker"`
	Podman     *Podman     `yaml:"podman"`
	CRI        *CRI        `yaml:"cri"`
	Containerd *Containerd `yaml:"containerd"`
	Incus      *Incus      `yaml:"incus"`
	LXC        *LXC        `yaml:"lxc"`
	Nspawn     *Nspawn     `yaml:"nspawn"`
	Rkt        *Rkt        `yaml:"rkt"`
	Crun       *Roots      `yaml:"crun"`
	Runc       *Roots      `yaml:"runc"`
	PID        *PID        `yaml:"pid"`
}

// runtimeNames are what rules may call them.
var runtimeNames = []string{"docker", "podman", "cri", "containerd", "incus", "lxc", "nspawn", "rkt", "crun", "runc", "pid"}

// Docker is a Docker engine.
type Docker struct {
	Socket string   `yaml:"socket"`
	Root   DataRoot `yaml:"root"`
}

// Podman is root's containers, and those of users.
type Podman struct {
	Socket string `yaml:"socket"`
	Root   string `yaml:"root"`
	Run    string `yaml:"run"`
	Users  string `yaml:"users"`
}

// Incus is an Incus or an LXD.
type Incus struct {
	Root DataRoot `yaml:"root"`
}

// LXC is the containers of liblxc.
type LXC struct {
	Root string `yaml:"root"`
}

// Nspawn is the machines of systemd-nspawn.
type Nspawn struct {
	Dir string `yaml:"dir"`
}

// Rkt is the pods of rkt.
type Rkt struct {
	Root string `yaml:"root"`
}

// DataRoot is the path of a daemon's data; empty if it is to be found out, for
// which the file says auto.
type DataRoot string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *DataRoot) UnmarshalText(text []byte) error {
	switch string(text) {
	case "":
		return errors.New("wants a path, or auto")
	case "auto":
		*r = ""
	default:
		*r = DataRoot(text)
	}
	return nil
}

// CRI is Kubernetes' containers: containerd's, by its state directory, and
// CRI-O's, by the run directory of its storage.
type CRI struct {
	Containerd string `yaml:"containerd"`
	CRIO       string `yaml:"crio"`
}

// Containerd is one by its state directory.
type Containerd struct {
	Root string `yaml:"root"`
}

// Roots is runc or crun, by the state directories that are given it as --root.
// One that ends in /* is each of the directories in it.
type Roots struct {
	Roots []string `yaml:"roots"`
}

// PID is the host's process table.
type PID struct{}

// turnOn turns all of them on where none is named, and fills in what those that
// are on do not say.
func (r *Runtimes) turnOn() {
	if *r == (Runtimes{}) {
		all := reflect.ValueOf(r).Elem()
		for i := range all.NumField() {
			all.Field(i).Set(reflect.New(all.Field(i).Type().Elem()))
		}
	}
	if r.Docker != nil {
		standard(&r.Docker.Socket, "/run/docker.sock")
	}
	if r.CRI != nil {
		standard(&r.CRI.Containerd, "/run/containerd")
		standard(&r.CRI.CRIO, "/run/containers/storage")
	}
	if r.Containerd != nil {
		standard(&r.Containerd.Root, "/run/containerd")
	}
	if r.Crun != nil && r.Crun.Roots == nil {
		r.Crun.Roots = []string{"/run/crun"}
	}
	if r.Runc != nil && r.Runc.Roots == nil {
		r.Runc.Roots = []string{"/run/runc", "/run/containerd/runc/*", "/run/docker/runtime-runc/*"}
	}
	if r.Podman != nil {
		standard(&r.Podman.Socket, "/run/podman/podman.sock")
		standard(&r.Podman.Root, "/var/lib/containers/storage")
		standard(&r.Podman.Run, "/run/containers/storage")
		standard(&r.Podman.Users, "/run/user")
	}
	if r.LXC != nil {
		standard(&r.LXC.Root, "/var/lib/lxc")
	}
	if r.Nspawn != nil {
		standard(&r.Nspawn.Dir, "/run/systemd")
	}
	if r.Rkt != nil {
		standard(&r.Rkt.Root, "/var/lib/rkt")
	}
}

func standard(path *string, is string) {
	if *path == "" {
		*path = is
	}
}

// paths are all that are named.
func (r *Runtimes) paths() []*string {
	var paths []*string
	if d := r.Docker; d != nil {
		paths = append(append(paths, &d.Socket), d.Root.path()...)
	}
	if p := r.Podman; p != nil {
		paths = append(paths, &p.Socket, &p.Root, &p.Run, &p.Users)
	}
	if i := r.Incus; i != nil {
		paths = append(paths, i.Root.path()...)
	}
	if l := r.LXC; l != nil {
		paths = append(paths, &l.Root)
	}
	if n := r.Nspawn; n != nil {
		paths = append(paths, &n.Dir)
	}
	if r := r.Rkt; r != nil {
		paths = append(paths, &r.Root)
	}
	if c := r.CRI; c != nil {
		paths = append(paths, &c.Containerd, &c.CRIO)
	}
	if c := r.Containerd; c != nil {
		paths = append(paths, &c.Root)
	}
	for _, r := range []*Roots{r.Crun, r.Runc} {
		for i := range r.all() {
			paths = append(paths, &r.Roots[i])
		}
	}
	return paths
}

func (r *Roots) all() []string {
	if r == nil {
		return nil
	}
	return r.Roots
}

// path is none where it is to be found out.
func (r *DataRoot) path() []*string {
	if *r == "" {
		return nil
	}
	return []*string{(*string)(r)}
}
