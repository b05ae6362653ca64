package router

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Incus is the containers of Incus, or of LXD, from which it comes: one API, and
// one layout of files. Below both is liblxc, so that the kernel tells of those
// that run, whatever the daemon does; see LXC. The daemon is asked for what is
// only in its database: labels, which are the configuration's user.* keys, and
// the image.
//
// It was tried with Debian's LXD 5.0, as Debian 12 has no Incus. What Incus
// answers is of the same form.
//
// A container of another project than the default one is called PROJECT_NAME,
// as it is by liblxc: whoever may make containers in one project must not
// choose those that a rule means by a name in another.
type Incus struct{ daemons []*incusd }

// incusd is a daemon, which need not be up, nor there.
type incusd struct {
	root string
	http *Docker // only the plain HTTP of it
	disk patience
}

// NewIncus returns the containers of the daemons whose data is below these.
func NewIncus(roots ...string) *Incus {
	c := &Incus{}
	for _, root := range roots {
		root = filepath.Clean(root)
		c.daemons = append(c.daemons, &incusd{root, NewDocker(root+"/unix.socket", ""), newPatience(root)})
	}
	return c
}

// Name is that of the runtime in a login.
func (c *Incus) Name() string { return "incus" }

// Find looks for a container of that name.
func (c *Incus) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) {
		return nil, nil
	}
	return c.all(func(d *incusd) ([]Found, error) {
		found, err := d.stored(ctx, func(f Found) bool { return Match{Found: f}.grade(id) != noMatch })
		return d.described(ctx, found), err
	})
}

// List returns the containers that run.
func (c *Incus) List(ctx context.Context) ([]Found, error) {
	return c.all(func(d *incusd) ([]Found, error) {
		found, err := d.stored(ctx, func(Found) bool { return true })
		return d.described(ctx, living(found)), err
	})
}

func (c *Incus) all(ask func(*incusd) ([]Found, error)) (found []Found, err error) {
	for _, d := range c.daemons {
		theirs, errTheirs := ask(d)
		found, err = append(found, theirs...), errors.Join(err, errTheirs)
	}
	return found, err
}

// Verify asks the kernel for the container's name once more.
func (c *Incus) Verify(f Found) error {
	p, err := payloadOf(f.PID)
	if err == nil && !p.is(f.ID) {
		err = fmt.Errorf("process %d is in the container %s, not %s", f.PID, quote(p.name), f.ID)
	}
	return err
}

// stored returns the containers on disk that are wanted.
func (d *incusd) stored(ctx context.Context, wanted func(Found) bool) ([]Found, error) {
	return d.disk.ask(ctx, func() ([]Found, error) {
		names, err := directories(d.containers())
		var found []Found
		for _, name := range names {
			if f := d.container(name); plain(name) && wanted(f) {
				found = append(found, f)
			}
		}
		return started(found, err)
	})
}

// containers is where each container's directory is, or a link to it.
func (d *incusd) containers() string { return d.root + "/containers" }

// container is that which liblxc calls so.
func (d *incusd) container(name string) Found {
	f := Found{ID: d.containers() + "/" + name, Name: name}
	if project, instance := inProject(name); project == "default" {
		f.Name, f.Names = instance, []string{project + "_" + instance}
	}
	return f
}

// inProject takes apart what liblxc calls a container: an instance's name is
// that of a host, and has no underscore.
func inProject(name string) (project, instance string) {
	at := strings.LastIndexByte(name, '_')
	if at < 0 {
		return "default", name
	}
	return name[:at], name[at+1:]
}

// described adds what the daemon knows, as far as it tells.
func (d *incusd) described(ctx context.Context, found []Found) []Found {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	for i := range found {
		found[i].Labels = unknownLabels()
		if in, err := d.ask(ctx, found[i]); err == nil {
			in.describe(&found[i])
		}
	}
	return found
}

// instance is what we read of an answer; see
// https://linuxcontainers.org/incus/docs/main/rest-api/, GET /1.0/instances/{name}.
type instance struct {
	Name    string            `json:"name"`
	Project string            `json:"project"`
	Type    string            `json:"type"`
	Config  map[string]string `json:"expanded_config"` // with what its profiles say
}

func (d *incusd) ask(ctx context.Context, f Found) (instance, error) {
	project, name := inProject(f.ID[strings.LastIndexByte(f.ID, '/')+1:])
	var answer struct {
		Metadata instance `json:"metadata"`
	}
	if _, err := os.Stat(d.http.socket); err != nil {
		return instance{}, err
	}
	err := d.http.get(ctx, "/1.0/instances/"+name+"?project="+url.QueryEscape(project), &answer)
	if in := answer.Metadata; err == nil && (in.Name != name || in.Project != project || in.Type != "container") {
		err = errors.New("it was asked for one container, and tells of another")
	}
	return answer.Metadata, err
}

func (in instance) describe(f *Found) {
	f.Labels = map[string]string{}
	for key, value := range in.Config {
		if label, ok := strings.CutPrefix(key, "user."); ok {
			f.Labels[label] = value
		}
	}
	f.Labels = theirLabels(f.Labels)
	f.Image = in.Config["image.description"]
	if base := in.Config["volatile.base_image"]; isContainerID(base) { // 256 bits of hex, too
		f.Digest = "sha256:" + base
	}
}
