package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Rkt is the pods of rkt, which nobody develops any more: a directory for each,
// that is named by its UUID and has the number of a process in it.
type Rkt struct {
	dir  string
	disk patience
}

// NewRkt returns the pods whose data is in a directory, which is /var/lib/rkt.
func NewRkt(dir string) *Rkt {
	return &Rkt{dir: dir + "/pods/run", disk: newPatience(dir)}
}

// Name is that of the runtime in a login.
func (r *Rkt) Name() string { return "rkt" }

// Find looks for a pod by its UUID, or by the beginning of it.
func (r *Rkt) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) || len(id) < minPrefix {
		return nil, nil
	}
	found, err := r.all(ctx, func(uuid string) bool { return strings.HasPrefix(uuid, id) })
	return meantBy(id, found), err
}

// List returns the pods that run.
func (r *Rkt) List(ctx context.Context) ([]Found, error) {
	found, err := r.all(ctx, func(string) bool { return true })
	return living(found), err
}

// Verify asks whether the pod's UUID is in the name of its cgroup, or in the
// command line of the nspawn that root has started for it.
func (r *Rkt) Verify(f Found) error {
	supervisor, err := supervisorOf(f.PID)
	if err != nil {
		return err
	}
	paths, err := cgroupPaths(f.PID)
	if err != nil {
		return err
	}
	args, err := cmdline(supervisor)
	if err != nil {
		return err
	}
	if !namesPod(paths, f.ID) && !namesPod(args, f.ID) {
		return fmt.Errorf("process %d is not in the pod %s", f.PID, f.ID)
	}
	return nil
}

// namesPod tells whether any of these has the UUID of a pod in it, be it as
// systemd escapes it.
func namesPod(texts []string, uuid string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		return strings.Contains(strings.ReplaceAll(text, `\x2d`, "-"), uuid)
	})
}

var podUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// all returns the pods that are wanted.
func (r *Rkt) all(ctx context.Context, wanted func(uuid string) bool) ([]Found, error) {
	return r.disk.ask(ctx, func() (found []Found, err error) {
		dir, _, err := openStateDir(r.dir, 0)
		if absent(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		for _, name := range names {
			if podUUID.MatchString(name) && wanted(name) {
				f, errPod := readPod(dir, name)
				if errPod == nil {
					found = append(found, f)
				}
				err = errors.Join(err, errPod)
			}
		}
		return found, err
	})
}

// readPod returns the pod's init: that of the file pid, or else the child of the
// process in ppid.
func readPod(dir *os.File, uuid string) (Found, error) {
	f := Found{ID: uuid, Closed: "is not running"}
	for _, file := range []string{"pid", "ppid"} {
		path := uuid + "/" + file
		text, _, err := readVersion(dir, path)
		if absent(err) {
			continue
		}
		pid := parsePID(strings.TrimSpace(string(text)))
		if err == nil && pid == 0 {
			err = fmt.Errorf("not the number of a process: %s", quote(string(text)))
		}
		if err != nil {
			return f, fmt.Errorf("%s/%s: %w", dir.Name(), path, err)
		}
		if file == "ppid" {
			pid = onlyChildOf(pid)
		}
		if pid != 0 && isInit(pid) {
			f.PID, f.Closed, f.Source = pid, "", dir.Name()+"/"+path
			return f, nil
		}
	}
	return f, nil
}

// onlyChildOf returns the one child of a process, or 0.
func onlyChildOf(pid int) int {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	return parsePID(strings.TrimSpace(string(children)))
}
