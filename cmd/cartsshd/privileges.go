package main

import (
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
)

// privileges are a rule's terms as flags, for who asks no policy.
type privileges struct {
	Profile    string     `placeholder:"NAME" default:"general" help:"Privileges: ${profiles}."`
	User       string     `placeholder:"UID[:GID[,GID…]]" help:"In the container's numbers, instead of the profile's user."`
	CapAdd     []string   `placeholder:"CAP" help:"Capabilities to add: NET_ADMIN."`
	CapDrop    []string   `placeholder:"CAP" help:"Capabilities to drop."`
	Namespaces []string   `placeholder:"NS" help:"Join only these: ${namespaces}."`
	Cgroup     string     `enum:"session,target" default:"session" help:"Whose limits: session's own, or target's, the container's."`
	Memory     authz.Size `placeholder:"SIZE" help:"Limit of memory: 512M."`
	Pids       int        `placeholder:"N" help:"Limit of processes."`
	Seccomp    string     `enum:"may,must" default:"may" help:"must: not without the container's own seccomp filter."`
	Host       bool       `help:"A process of the host itself is no mistake."`
}

func (p privileges) profile() (nsexec.Profile, error) {
	made := nsexec.Profile{
		Name:         p.Profile,
		CapAdd:       p.CapAdd,
		CapDrop:      p.CapDrop,
		Namespaces:   p.Namespaces,
		Host:         p.Host,
		TargetCgroup: p.Cgroup == authz.CgroupTarget,
		Memory:       int64(p.Memory),
		Processes:    p.Pids,
		SeccompMust:  p.Seccomp == "must",
	}
	if p.User == "" {
		return made, nil
	}
	var err error
	made.User, err = nsexec.ParseUser(p.User)
	return made, err
}

// given tells whether any of them is.
func (p privileges) given() bool {
	return !reflect.DeepEqual(p, privileges{Profile: "general", Cgroup: "session", Seccomp: "may"})
}

// words are what the help of these flags lists.
func (privileges) words() kong.Vars {
	return kong.Vars{
		"profiles":   strings.Join(nsexec.Profiles, ", "),
		"namespaces": strings.Join(nsexec.Namespaces, ", "),
	}
}
