package config

import (
	"errors"
	"reflect"
)

// Runtimes are where containers are looked for. One that is nil is off.
type Runtimes struct {
	Docker *Docker `yaml:"docker"`
	PID    *PID    `yaml:"pid"`
}

// runtimeNames are what rules may call them.
var runtimeNames = []string{"docker", "pid"}

// Docker is a Docker engine.
type Docker struct {
	Socket string   `yaml:"socket"`
	Root   DataRoot `yaml:"root"`
}

// DataRoot is the path of a Docker engine's data root; empty if the engine is
// to be asked for it, for which the file says auto.
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
		paths = append(paths, &d.Socket)
		if d.Root != "" {
			paths = append(paths, (*string)(&d.Root))
		}
	}
	return paths
}
