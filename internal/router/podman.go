package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Podman is the containers of podman: root's, and those of users.
//
// It has no daemon. On disk are the names and images of all containers, below
// its root, and the process of each, below its run root. Labels are not, but in
// a database of libpod's own. So they are asked for at the socket that speaks as
// Docker's does, where podman's service is turned on; a container's labels
// never change, and are asked for once. Where nobody tells, the container is
// marked with the label LabelsUnknown.
//
// A user's containers are found as well, by the name USER/NAME and by nothing
// else. All that is on disk of them has been written by that user. So they are
// believed only of a process that is in a user namespace of that user, and
// that tells nothing of an image or of labels: a name web-1, a label env=prod
// or a full ID that is another's would let a user choose what a rule says. The
// name has the user in it, and so no rule for "web-*" means one; the label
// Rootless has the uid.
type Podman struct {
	root, run string
	users     string // directory of the users' run-time directories
	engine    *Docker
	theirDisk patience // with what belongs to users, who may make it hang
	disk      patience

	mu     sync.Mutex
	labels map[string]map[string]string // by full ID
}

// NewPodman returns root's containers, with the storage below root and run and
// a service at a socket, if there is one, and the containers of those users who
// have a run-time directory in users, which is /run/user.
func NewPodman(socket, root, run, users string) *Podman {
	return &Podman{
		root: root, run: run, users: users,
		engine: NewDocker(socket, ""), theirDisk: newPatience(users),
		disk:   newPatience(root),
		labels: map[string]map[string]string{},
	}
}

// Name is that of the runtime in a login.
func (p *Podman) Name() string { return "podman" }

// Find looks on disk, and asks the service for labels; for more only where the
// disk cannot be read.
func (p *Podman) Find(ctx context.Context, id string) ([]Found, error) {
	if user, name, ok := strings.Cut(id, "/"); ok {
		return p.rootless(ctx, user, name)
	}
	if !plain(id) {
		return nil, nil
	}
	found, err := p.disk.ask(ctx, p.stored)
	if err != nil {
		told, errTold := p.engine.ask(ctx, id)
		for i := range told {
			told[i].Labels = theirLabels(told[i].Labels)
		}
		if errTold == nil {
			return told, nil
		}
		return meantBy(id, found), fmt.Errorf("%w; nor does the service tell: %v", err, errTold)
	}
	return p.labelled(ctx, meantBy(id, found)), nil
}

// List returns the containers that run.
func (p *Podman) List(ctx context.Context) ([]Found, error) {
	found, err := p.disk.ask(ctx, p.stored)
	users, errUsers := p.theirDisk.ask(ctx, p.everybodys)
	return append(p.labelled(ctx, living(found)), living(users)...), errors.Join(err, errUsers)
}

// Verify asks for the container's full ID in the cgroup of its process. A
// systemd service may have put it into its own (--cgroups=split), and then it
// is the child of a conmon that root has started with that ID.
func (p *Podman) Verify(f Found) error {
	if uid, ok := f.Labels[Rootless]; ok {
		return verifyRootless(f.PID, uid)
	}
	err := inCgroupOf(f.PID, f.ID)
	if err == nil || conmonOf(f) == nil {
		return nil
	}
	return err
}

// conmonOf fails unless the parent of a container's process is its conmon.
func conmonOf(f Found) error {
	parent, err := parentOf(f.PID)
	if err != nil {
		return err
	}
	if err := startedByRoot(parent); err != nil {
		return err
	}
	args, err := cmdline(parent)
	if err != nil {
		return err
	}
	at := slices.Index(args, "-c") + 1
	if !runs(parent, "conmon") || at == 0 || at == len(args) || args[at] != f.ID {
		return fmt.Errorf("process %d is not the child of a conmon for %s", f.PID, f.ID)
	}
	return nil
}

// stored reads what there is on disk of root's containers.
func (p *Podman) stored() ([]Found, error) {
	dir, _, err := openStateDir(p.root, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	run, _, err := openStateDir(p.run, 0)
	if err != nil && !absent(err) {
		return nil, err
	}
	if run != nil {
		defer run.Close()
	}
	entries, err := storedIn(dir)
	var found []Found
	for _, e := range entries {
		f := e.found()
		pid, path := e.process(run)
		if f.PID = pid; pid != 0 && p.Verify(f) != nil {
			f.PID = 0 // of a time when it ran; its number may be another's
		}
		if f.Source = path; f.PID == 0 {
			f.Closed = "is not running"
		}
		found = append(found, f)
	}
	return found, err
}

// A storedContainer is what containers/storage writes of one.
type storedContainer struct {
	ID       string   `json:"id"`
	Names    []string `json:"names"`
	Image    string   `json:"image"`
	Metadata string   `json:"metadata"` // JSON

	driver string
}

// The drivers of containers/storage: its directories are called after them.
var storageDrivers = []string{"overlay", "vfs", "btrfs", "zfs"}

// storedIn reads the lists of containers below a root of containers/storage.
func storedIn(root *os.File) (all []storedContainer, err error) {
	for _, driver := range storageDrivers {
		for _, file := range []string{"containers.json", "volatile-containers.json"} {
			entries, errFile := readStored(root, driver, driver+"-containers/"+file)
			if errFile != nil {
				err = errors.Join(err, fmt.Errorf("%s/%s-containers/%s: %w", root.Name(), driver, file, errFile))
			}
			all = append(all, entries...)
		}
	}
	return all, err
}

func readStored(root *os.File, driver, path string) ([]storedContainer, error) {
	text, _, err := readVersion(root, path)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []storedContainer
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, err
	}
	for i, e := range entries {
		if !isContainerID(e.ID) || len(e.Names) == 0 || !plain(e.Names[0]) {
			return nil, fmt.Errorf("makes no sense: container %s is called %s", quote(e.ID), quote(strings.Join(e.Names, " ")))
		}
		entries[i].driver = driver
	}
	return entries, nil
}

func (e storedContainer) found() Found {
	var meta struct {
		Image string `json:"image-name"`
	}
	_ = json.Unmarshal([]byte(e.Metadata), &meta) // or its image has no name
	f := Found{ID: e.ID, Name: e.Names[0], Image: meta.Image}
	if e.Image != "" {
		f.Digest = "sha256:" + e.Image
	}
	return f
}

// process returns what the runtime has written as the container's process, and
// where; 0 if it has not, or that is gone.
func (e storedContainer) process(run *os.File) (pid int, path string) {
	if run == nil {
		return 0, ""
	}
	path = e.driver + "-containers/" + e.ID + "/userdata/pidfile"
	text, _, err := readVersion(run, path)
	if err != nil {
		return 0, ""
	}
	return parsePID(strings.TrimSpace(string(text))), run.Name() + "/" + path
}

// labelled adds the labels, as far as anybody tells.
func (p *Podman) labelled(ctx context.Context, found []Found) []Found {
	ctx, cancel := context.WithTimeout(ctx, statePatience)
	defer cancel()
	for i, f := range found {
		found[i].Labels = p.labelsOf(ctx, f.ID)
	}
	return found
}

func (p *Podman) labelsOf(ctx context.Context, id string) map[string]string {
	p.mu.Lock()
	labels, known := p.labels[id]
	p.mu.Unlock()
	if known {
		return theirLabels(labels)
	}
	told, err := p.engine.inspect(ctx, id)
	if err != nil || told.ID != id {
		return unknownLabels()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.labels) >= maxStateDirs {
		clear(p.labels) // most of them are of containers long gone
	}
	p.labels[id] = told.Labels
	return theirLabels(told.Labels)
}

// everybodys returns the containers of all users.
func (p *Podman) everybodys() (found []Found, err error) {
	dir, _, err := openStateDir(p.users, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	uids, err := dir.Readdirnames(maxStateDirs)
	for _, uid := range uids {
		if owner, errUser := userByID(uid); errUser == nil {
			theirs, errTheirs := p.theirs(owner)
			found, err = append(found, theirs...), errors.Join(err, errTheirs)
		}
	}
	return found, err
}

// rootless returns the container of a user's that is called so.
func (p *Podman) rootless(ctx context.Context, user, name string) ([]Found, error) {
	if !plain(user) || !plain(name) {
		return nil, nil
	}
	return p.theirDisk.ask(ctx, func() ([]Found, error) {
		owner, err := userByName(user)
		if err != nil {
			return nil, nil // nobody is called so
		}
		found, err := p.theirs(owner)
		return meantBy(user+"/"+name, found), err
	})
}

// theirs returns all containers of a user's. That user may write to all that is
// read here, while it is read.
func (p *Podman) theirs(u owner) ([]Found, error) {
	run, err := openOwn(p.users+"/"+u.uid, u.uid)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer run.Close()
	home, err := openOwn(u.home, u.uid)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	return rootlessIn(u, home, run)
}

// maxTheirs is how many containers of one user are looked at.
const maxTheirs = 200

func rootlessIn(u owner, home, run *os.File) ([]Found, error) {
	storage, err := openBelow(home, ".local/share/containers/storage")
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer storage.Close()
	state, err := openBelow(run, "containers")
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer state.Close()
	entries, err := storedIn(storage)
	entries = entries[:min(len(entries), maxTheirs)]
	var found []Found
	for _, e := range entries {
		found = append(found, u.container(e, state))
	}
	return found, err
}

// container is what a user says, and no more of it than is safe to believe.
func (u owner) container(e storedContainer, state *os.File) Found {
	f := Found{
		ID:     "/rootless/" + u.uid + "/" + e.ID, // not the ID alone, which may be another container's
		Name:   u.name + "/" + e.Names[0],
		Labels: unknownLabels(),
		Closed: "is not running",
	}
	f.Labels[Rootless] = u.uid
	pid, path := e.process(state)
	if f.Source = path; pid != 0 && verifyRootless(pid, u.uid) == nil {
		f.PID, f.Closed = pid, ""
	}
	return f
}

// verifyRootless asks the kernel whether a process is in a user namespace that
// this user has made, and in no other container: in one whose root has the
// number of a user of the host, a process may have such a namespace as well.
func verifyRootless(pid int, uid string) error {
	number, err := strconv.Atoi(uid)
	if err != nil || number == 0 {
		return fmt.Errorf("%s is not the number of a user", quote(uid))
	}
	owner, err := usersOwner(pid)
	if err != nil {
		return err
	}
	if int(owner) != number {
		return fmt.Errorf("process %d is in no user namespace of uid %d", pid, number)
	}
	paths, err := cgroupPaths(pid)
	if err != nil {
		return err
	}
	if inAnyContainer(paths, uid) {
		return fmt.Errorf("process %d is in another container", pid)
	}
	return nil
}

// inAnyContainer tells whether any of these cgroups is a container's of root's.
// Those of a user's own are below user.slice, or, where the host has cgroup v1,
// below a directory that has the user's name.
func inAnyContainer(paths []string, uid string) bool {
	owner, err := userByID(uid)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		if strings.HasPrefix(path, "/user.slice/user-"+uid+".slice/") || strings.HasPrefix(path, "/user/"+owner.name+"/") {
			return false
		}
		return len(foreignIDs(path)) > 0 || payloadGroup([]string{path}) != "" || strings.HasPrefix(path, "/machine.slice/")
	})
}

// openOwn opens a directory that must be a user's.
func openOwn(path, uid string) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil || strconv.Itoa(int(st.Uid)) != uid {
		dir.Close()
		return nil, fmt.Errorf("%s: is not of uid %s", path, uid)
	}
	return dir, nil
}

// openBelow opens a directory below another, by no symbolic link.
func openBelow(dir *os.File, path string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_DIRECTORY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: dir.Name() + "/" + path, Err: err}
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+path), nil
}
