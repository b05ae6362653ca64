package router

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Docker is a Docker engine: the state that it keeps on disk, which is there
// while it hangs or is dead, and its Unix socket, for what the disk does not
// tell. On the socket it is spoken to in plain HTTP: three questions need no
// client library. Without a version in its path a request is answered in the
// engine's own.
type Docker struct {
	socket string
	client *http.Client

	state    atomic.Pointer[stateDir] // nil until the data root is known
	fallback *stateDir                // while it is not; or nil
}

// Limits of what an engine may answer.
const (
	maxAnswer    = 8 << 20 // bytes
	maxAmbiguous = 8       // containers of one ID prefix that are looked at
)

// NewDocker returns the engine that listens on a Unix socket and keeps its
// state below the directory root. It need not be up yet. Where root is empty
// the engine is asked for it when it is first needed.
func NewDocker(socket, root string) *Docker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	d := &Docker{socket: socket, client: &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
		},
		// An engine has nowhere else to send us to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case root != "":
		d.state.Store(newDockerState(root))
	case socket == "/run/docker.sock" || socket == "/var/run/docker.sock":
		d.fallback = newDockerState("/var/lib/docker")
	}
	return d
}

// Name is that of the runtime in a login.
func (d *Docker) Name() string { return "docker" }

// Verify asks for the container's full ID in the cgroup of its process.
func (d *Docker) Verify(f Found) error { return inCgroupOf(f.PID, f.ID) }

// Find looks on disk, and asks the engine only where the disk leaves a doubt:
// it may be that of another engine, or cannot be read. While nobody knows where
// on disk, the engine comes first: its answer tells.
func (d *Docker) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) {
		return nil, nil
	}
	state := d.state.Load()
	if state == nil {
		found, err := d.askQuickly(ctx, id)
		if err == nil {
			return found, nil
		}
		if d.absent(err) {
			return nil, nil
		}
		if state = d.fallback; state == nil {
			return nil, fmt.Errorf("%w; and %w", err, errNoRoot)
		}
	}
	found, doubt := state.find(ctx, id)
	if len(found) > 0 && doubt == nil {
		return found, nil
	}
	told, err := d.ask(ctx, id)
	if err == nil {
		return told, nil
	}
	if doubt != nil {
		// Not wrapped: time that the disk took is not the engine's.
		err = fmt.Errorf("%w; nor does the disk tell: %v", err, doubt)
	}
	return found, err
}

// absent tells whether there is no Docker on this host: neither the usual socket
// nor the usual data root.
func (d *Docker) absent(err error) bool {
	if d.fallback == nil || !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = os.Lstat(d.fallback.dir)
	return errors.Is(err, fs.ErrNotExist)
}

var errNoRoot = errors.New("its data root is not known (name it in the configuration: runtimes: docker: root)")

// Offline tells why containers would not be found while the engine is dead;
// nil if they would. It asks the engine for its data root if need be, which
// takes ten times as long as to ask it for a container.
func (d *Docker) Offline(ctx context.Context) error {
	state := d.state.Load()
	if state == nil {
		var info struct{ DockerRootDir string }
		err := d.get(ctx, "/info", &info)
		if err == nil {
			err = d.learn(info.DockerRootDir)
		}
		if state = cmp.Or(d.state.Load(), d.fallback); state == nil {
			return fmt.Errorf("%w: %w", errNoRoot, err)
		}
	}
	_, err := state.find(ctx, "cartsshd-check")
	return err
}

// List reads the disk, or asks the engine where the disk does not tell.
func (d *Docker) List(ctx context.Context) ([]Found, error) {
	if state := cmp.Or(d.state.Load(), d.fallback); state != nil {
		if found, err := state.list(ctx); err == nil {
			return found, nil
		}
	}
	found, err := d.listed(ctx, map[string][]string{}, maxStateDirs)
	if d.state.Load() == nil && d.absent(err) {
		return nil, nil
	}
	return found, err
}

// learn takes note of where the engine keeps its state. Many may say so at
// once: all go on with the state, and the cache, of the first.
func (d *Docker) learn(root string) error {
	if strconv.Quote(root) != `"`+root+`"` || !filepath.IsAbs(root) {
		return fmt.Errorf("it is said to be %s", quote(root))
	}
	d.state.CompareAndSwap(nil, newDockerState(root))
	return nil
}

// ask asks the engine to inspect what it knows by id, as one cheap request
// answers all that is ever asked in earnest. The engine prefers a full ID to a
// name and a name to a prefix, of containers that are stopped, too; only where
// it finds a prefix ambiguous are the running ones listed.
func (d *Docker) ask(ctx context.Context, id string) ([]Found, error) {
	f, err := d.inspect(ctx, id)
	if errors.Is(err, errAmbiguousPrefix) {
		return d.findPrefix(ctx, id)
	}
	if errors.Is(err, errNoContainer) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []Found{f}, nil
}

// What an engine says to an ID that does not mean one container.
var (
	errNoContainer     = errors.New("no such container")
	errAmbiguousPrefix = errors.New("prefix of several IDs")
)

// askQuickly is ask, and not for long: the disk is the one that is there if the
// engine hangs.
func (d *Docker) askQuickly(ctx context.Context, id string) ([]Found, error) {
	quick, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	found, err := d.ask(quick, id)
	if err != nil && quick.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: no answer within %v", d.socket, statePatience)
	}
	return found, err
}

// findPrefix returns the running containers whose IDs begin so.
func (d *Docker) findPrefix(ctx context.Context, prefix string) ([]Found, error) {
	return d.listed(ctx, map[string][]string{"id": {"^" + prefix}}, maxAmbiguous)
}

// listed returns the running containers that pass these filters, and of them no
// more than limit.
func (d *Docker) listed(ctx context.Context, filters map[string][]string, limit int) ([]Found, error) {
	query, err := json.Marshal(filters)
	if err != nil {
		return nil, err
	}
	var list []struct{ Id string }
	if err := d.get(ctx, "/containers/json?filters="+url.QueryEscape(string(query)), &list); err != nil {
		return nil, err
	}
	var found []Found
	for _, c := range list[:min(len(list), limit)] {
		f, err := d.inspect(ctx, c.Id)
		if errors.Is(err, errNoContainer) {
			continue // removed in the meantime
		}
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

// inspection is what we read of the answer to an inspect; see
// https://docs.docker.com/reference/api/engine/, ContainerInspect. The state
// on disk has the same fields.
type inspection struct {
	Id, Name string
	Image    string // its digest
	State    struct {
		Running, Paused, Restarting bool
		Pid                         int
	}
	Config struct {
		Image  string
		Labels map[string]string
	}
	ResolvConfPath string
}

// root is the data root of the engine that has this container, or "".
func (in *inspection) root() string {
	root, ok := strings.CutSuffix(in.ResolvConfPath, "/containers/"+in.Id+"/resolv.conf")
	if !ok {
		return ""
	}
	return root
}

func (d *Docker) inspect(ctx context.Context, id string) (Found, error) {
	if !plain(id) { // of a list
		return Found{}, fmt.Errorf("says that a container is called %s", quote(id))
	}
	var in inspection
	if err := d.get(ctx, "/containers/"+id+"/json", &in); err != nil {
		return Found{}, err
	}
	f, err := in.found()
	f.Source = d.socket
	if root := in.root(); err == nil && root != "" {
		_ = d.learn(root) // or not, and it is asked again
	}
	return f, err
}

// found checks that it makes sense.
func (in *inspection) found() (Found, error) {
	f := Found{
		ID: in.Id, Name: strings.TrimPrefix(in.Name, "/"), Image: in.Config.Image, Digest: in.Image, Labels: in.Config.Labels,
		PID: in.State.Pid, Closed: in.closed(),
	}
	if !isContainerID(f.ID) || !plain(f.Name) || f.PID < 0 || f.PID > maxPID {
		return Found{}, fmt.Errorf("makes no sense: container %s is called %s and its process %d", quote(f.ID), quote(f.Name), f.PID)
	}
	return f, nil
}

// closed tells why a container cannot be entered.
func (in *inspection) closed() string {
	switch {
	case in.State.Restarting:
		return "is restarting"
	case in.State.Paused:
		return "is paused"
	case !in.State.Running || in.State.Pid == 0:
		return "is not running"
	}
	return ""
}

// get asks the engine one thing.
func (d *Docker) get(ctx context.Context, path string, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	response, err := d.client.Do(request)
	if err != nil {
		return errors.Unwrap(err) // of the URL, which is not one that anybody knows
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%s: %w", d.socket, err)
	}
	switch {
	case len(body) > maxAnswer:
		return fmt.Errorf("%s: answers with more than %d bytes", d.socket, maxAnswer)
	case response.StatusCode == http.StatusNotFound:
		return errNoContainer
	case response.StatusCode == http.StatusBadRequest:
		return errAmbiguousPrefix
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", d.socket, quote(response.Status+" "+string(body)))
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s: %w", d.socket, err)
	}
	return nil
}
