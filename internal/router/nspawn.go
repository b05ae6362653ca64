package router

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Nspawn is the machines of systemd-nspawn: those that systemd-machined has
// registered, and those that it has not, where it does not run or was told
// not to. Of these there is the nspawn process, whose child is the machine's
// init.
type Nspawn struct {
	dir  string
	disk patience
}

// NewNspawn returns the machines that systemd knows of in a directory, which is
// /run/systemd.
func NewNspawn(dir string) *Nspawn {
	return &Nspawn{dir: dir, disk: newPatience(dir)}
}

// Name is that of the runtime in a login.
func (n *Nspawn) Name() string { return "nspawn" }

// Find looks for a machine of that name.
func (n *Nspawn) Find(ctx context.Context, id string) ([]Found, error) {
	if !plain(id) {
		return nil, nil
	}
	found, err := n.all(ctx, func(name string) bool { return name == id })
	return meantBy(id, found), err
}

// List returns all machines. What has stopped is not one any more.
func (n *Nspawn) List(ctx context.Context) ([]Found, error) {
	return n.all(ctx, plain)
}

// Verify asks whether the process is a child of the machine's nspawn, or in the
// scope that machined has made for it.
func (n *Nspawn) Verify(f Found) error {
	supervisor, err := supervisorOf(f.PID)
	if err != nil {
		return err
	}
	if runs(supervisor, "systemd-nspawn") {
		name, err := machineOf(supervisor)
		if err == nil && name != f.Name {
			err = fmt.Errorf("process %d is in the machine %s, not %s", f.PID, quote(name), f.Name)
		}
		return err
	}
	paths, err := cgroupPaths(f.PID)
	if err == nil && !slices.ContainsFunc(paths, func(path string) bool { return inScope(path, f.Name) }) {
		err = fmt.Errorf("process %d is not in the machine %s", f.PID, f.Name)
	}
	return err
}

// inScope tells whether a cgroup is that of a machine: machined's scope for it,
// or the service that it is. See systemd.unit(5) for how a name is escaped.
func inScope(path, name string) bool {
	escaped := strings.ReplaceAll(name, "-", `\x2d`)
	for dir := range strings.SplitSeq(path, "/") {
		if dir == "user.slice" {
			return false
		}
		if dir == "machine-"+escaped+".scope" || dir == "systemd-nspawn@"+escaped+".service" {
			return true
		}
	}
	return false
}

// all returns the machines that are wanted, each once.
func (n *Nspawn) all(ctx context.Context, wanted func(string) bool) ([]Found, error) {
	return n.disk.ask(ctx, func() ([]Found, error) {
		found, err := n.registered(wanted)
		running, errRunning := n.running(wanted)
		for _, f := range running {
			if !slices.ContainsFunc(found, func(other Found) bool { return other.PID == f.PID }) {
				found = append(found, f)
			}
		}
		return found, errors.Join(err, errRunning)
	})
}

func machine(name string, pid int, source string) Found {
	// The name is all that a machine has. The ID must not be another's name.
	return Found{ID: "/machine/" + name, Name: name, PID: pid, Source: source}
}

// registered reads what machined has written of each machine.
func (n *Nspawn) registered(wanted func(string) bool) (found []Found, err error) {
	dir, _, err := openStateDir(n.dir+"/machines", 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		if !plain(name) || !wanted(name) { // .host; unit:machine-NAME.scope is a link to NAME
			continue
		}
		text, _, errFile := readVersion(dir, name)
		if errFile != nil {
			err = errors.Join(err, fmt.Errorf("%s/%s: %w", dir.Name(), name, errFile))
			continue
		}
		if pid := leader(text); pid != 0 {
			found = append(found, machine(name, pid, dir.Name()+"/"+name))
		}
	}
	return found, err
}

// leader returns the init of a container, from what machined writes of it; 0 if
// it is no container but a virtual machine, or no leader is named.
func leader(text []byte) (pid int) {
	container := false
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		switch key, value, _ := strings.Cut(lines.Text(), "="); {
		case key == "LEADER":
			pid = parsePID(value)
		case key == "CLASS":
			container = value == "container"
		}
	}
	if !container {
		return 0
	}
	return pid
}

// running looks for the children of nspawn processes. There are none without
// this directory, so that a host without nspawn's machines is not searched.
func (n *Nspawn) running(wanted func(string) bool) (found []Found, err error) {
	if machines, _ := os.ReadDir(n.dir + "/nspawn/propagate"); len(machines) == 0 {
		return nil, nil
	}
	pids, err := nestedInits()
	for _, pid := range pids {
		supervisor, err := supervisorOf(pid)
		if err != nil || !runs(supervisor, "systemd-nspawn") {
			continue
		}
		if name, err := machineOf(supervisor); err == nil && plain(name) && wanted(name) {
			found = append(found, machine(name, pid, fmt.Sprintf("/proc/%d/cmdline", supervisor)))
		}
	}
	return found, err
}

// machineOf returns the name of an nspawn's machine: that which it was given, or
// else that of the directory or image that it was given, or of its own.
func machineOf(pid int) (string, error) {
	args, err := cmdline(pid)
	if err != nil {
		return "", err
	}
	options := nspawnOptions(args[1:])
	if name := options["machine"]; name != "" {
		return name, nil
	}
	if options["ephemeral"] != "" {
		return "", errors.New("a machine whose name nspawn made up")
	}
	tree := options["directory"]
	if image := options["image"]; image != "" {
		tree = strings.TrimSuffix(image, ".raw")
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(tree) {
		tree = filepath.Join(own, tree)
	}
	if resolved, err := filepath.EvalSymlinks(tree); err == nil {
		tree = resolved
	}
	return filepath.Base(tree), nil
}

// The options of nspawn that have an argument: of one letter, where they have
// such a name, and of those whose argument may be the next word. The others'
// stands behind a "=".
const nspawnLetters = "DuLMSZipE"

var (
	nspawnShort = map[byte]string{'M': "machine", 'D': "directory", 'i': "image", 'x': "ephemeral"}
	nspawnLong  = strings.Fields(`settings directory template image oci-bundle root-hash root-hash-sig verity-data
		pivot-root chdir setenv user kill-signal notify-ready suppress-sync machine hostname uuid slice property
		register private-users-ownership network-interface network-macvlan network-ipvlan network-veth-extra
		network-bridge network-zone network-namespace-path port capability drop-capability ambient-capability
		system-call-filter selinux-context selinux-apifs-context rlimit oom-score-adjust cpu-affinity personality
		resolv-conf timezone link-journal bind bind-ro inaccessible tmpfs overlay overlay-ro bind-user console
		set-credential load-credential background share-system`)
)

// nspawnOptions reads a command line as getopt_long(3) does, up to the command
// that is run in the machine.
func nspawnOptions(args []string) map[string]string {
	options := map[string]string{}
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if word == "--" || len(word) < 2 || word[0] != '-' {
			break
		}
		if long, ok := strings.CutPrefix(word, "--"); ok {
			name, value, given := strings.Cut(long, "=")
			if !given && slices.Contains(nspawnLong, name) && len(args) > 0 {
				value, args = args[0], args[1:]
			}
			options[name] = value
			if name == "ephemeral" {
				options[name] = "yes"
			}
			continue
		}
		args = nspawnCluster(word[1:], args, options)
	}
	return options
}

// nspawnCluster reads options of one letter, and returns the words after them.
func nspawnCluster(letters string, args []string, options map[string]string) []string {
	for i := range len(letters) {
		if !strings.ContainsRune(nspawnLetters, rune(letters[i])) {
			options[nspawnShort[letters[i]]] = "yes"
			continue
		}
		value := letters[i+1:]
		if value == "" && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		options[nspawnShort[letters[i]]] = value
		return args
	}
	return args
}
