package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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

	state    atomic.Pointer[dockerState] // nil until the data root is known
	fallback *dockerState                // while it is not; or nil
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
// it may be that of another engine, or cannot be read.
func (d *Docker) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) {
		return nil, nil
	}
	found, doubt := d.onDisk(ctx, id)
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

// Offline tells why containers would not be found while the engine is dead;
// nil if they would.
func (d *Docker) Offline(ctx context.Context) error {
	_, err := d.onDisk(ctx, "cartsshd-check")
	return err
}

// onDisk returns the containers that id means by the state on disk. With an
// error that may be too few.
func (d *Docker) onDisk(ctx context.Context, id string) ([]Found, error) {
	state, err := d.knownState(ctx)
	if err != nil {
		return nil, err
	}
	return state.find(ctx, id)
}

// errNoRoot hides why the engine did not say: it is asked again, and then
// that is told.
var errNoRoot = errors.New("its data root is not known (name it in the configuration: runtimes: docker: root)")

// knownState asks the engine where it keeps its state, until it has once said
// so. While it does not, at the usual socket, that is the usual place.
func (d *Docker) knownState(ctx context.Context) (*dockerState, error) {
	if state := d.state.Load(); state != nil {
		return state, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	var info struct{ DockerRootDir string }
	switch err := d.get(ctx, "/info", &info); {
	case err == nil && strconv.Quote(info.DockerRootDir) == `"`+info.DockerRootDir+`"` && filepath.IsAbs(info.DockerRootDir):
		// Many may have asked at once. All go on with the state, and the
		// cache, of the first.
		d.state.CompareAndSwap(nil, newDockerState(info.DockerRootDir))
		return d.state.Load(), nil
	case err == nil:
		return nil, fmt.Errorf("its data root is said to be %s", quote(info.DockerRootDir))
	case d.fallback != nil:
		return d.fallback, nil
	}
	return nil, errNoRoot
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

// findPrefix returns the running containers whose IDs begin so.
func (d *Docker) findPrefix(ctx context.Context, prefix string) ([]Found, error) {
	filters, err := json.Marshal(map[string][]string{"id": {"^" + prefix}})
	if err != nil {
		return nil, err
	}
	var list []struct{ Id string }
	if err := d.get(ctx, "/containers/json?filters="+url.QueryEscape(string(filters)), &list); err != nil {
		return nil, err
	}
	var found []Found
	for _, c := range list[:min(len(list), maxAmbiguous)] {
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
	State    struct {
		Running, Paused, Restarting bool
		Pid                         int
	}
	Config struct {
		Image  string
		Labels map[string]string
	}
}

func (d *Docker) inspect(ctx context.Context, id string) (Found, error) {
	if !plain(id) { // of a list
		return Found{}, fmt.Errorf("says that a container is called %s", quote(id))
	}
	var in inspection
	if err := d.get(ctx, "/containers/"+id+"/json", &in); err != nil {
		return Found{}, err
	}
	return in.found()
}

// found checks that it makes sense.
func (in *inspection) found() (Found, error) {
	f := Found{
		ID: in.Id, Name: strings.TrimPrefix(in.Name, "/"), Image: in.Config.Image, Labels: in.Config.Labels,
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
