package router

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

func TestAMachineIsFoundByItsName(t *testing.T) {
	for name, flags := range map[string][]string{
		"by its directory":    {},
		"named":               {"--machine", "machine-1"},
		"named with =":        {"--machine=machine-1"},
		"named by a letter":   {"-Mmachine-1"},
		"in a user namespace": {"-U"},
		"after other options": {"--bind", "/tmp:/mnt", "-qM", "machine-1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := rig.Nspawn(t, "web-1", flags...)
			if strings.Contains(strings.Join(flags, ""), "machine-1") {
				c.Name = "machine-1"
			}
			nspawn := NewNspawn("/run/systemd")
			for _, login := range []string{c.Name, "nspawn:" + c.Name} {
				isFound(t, nspawn, login, c)
			}
			if names := lists(t, nspawn); names != c.Name {
				t.Errorf("lists %q", names)
			}
			isNot(t, nspawn, "web-2", "no such container")
		})
	}
}

// registered is what machined writes.
const registered = `# This is private data. Do not parse.
NAME=%s
SCOPE=machine-%s.scope
SERVICE=systemd-nspawn
ROOT=/var/lib/machines/web-1
LEADER=%d
CLASS=%s
REALTIME=1
`

// run is a /run/systemd in which these machines are registered.
func run(t *testing.T, class string, machines map[string]int) *Nspawn {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/machines", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, pid := range machines {
		if err := os.WriteFile(dir+"/machines/"+name, fmt.Appendf(nil, registered, name, name, pid, class), 0o644); err != nil {
			t.Fatal(err)
		}
		os.Symlink(name, dir+"/machines/unit:machine-"+name+".scope")
	}
	os.WriteFile(dir+"/machines/.host", []byte("NAME=.host\nLEADER=1\nCLASS=host\n"), 0o644)
	return NewNspawn(dir)
}

func TestARegisteredMachineIsFoundByItsLeader(t *testing.T) {
	c := rig.Nspawn(t, "web-1")
	nspawn := run(t, "container", map[string]int{"web-1": c.PID})
	if target := isFound(t, nspawn, "web-1", c); target.Source != nspawn.dir+"/machines/web-1" {
		t.Errorf("from %s", target.Source)
	}
	if names := lists(t, nspawn); names != "web-1" {
		t.Errorf("lists %q", names)
	}
	isNot(t, run(t, "vm", map[string]int{"web-1": c.PID}), "web-1", "no such container")
}

func TestARegistrationLetsNobodyIntoAnotherProcess(t *testing.T) {
	c, bare := rig.Nspawn(t, "web-1"), rig.Bare(t)
	for name, pid := range map[string]int{"another machine": c.PID, "no machine": bare.PID, "ours": os.Getpid(), "the host's": 1} {
		nspawn := run(t, "container", map[string]int{"web-2": pid})
		target, err := resolveBy(t, &Table{Runtimes: []Runtime{nspawn}}, "web-2")
		if err == nil {
			t.Errorf("%s: got %+v", name, target)
		}
	}
	nspawn := run(t, "container", map[string]int{"web-1": c.PID})
	os.Chmod(nspawn.dir+"/machines", 0o777)
	isNot(t, nspawn, "web-1", "others may write to it")
}

func TestAMachinesCgroupIsNamedAfterIt(t *testing.T) {
	for path, want := range map[string]bool{
		"/machine.slice/machine-web.scope":                true,
		`/machine.slice/machine-we\x2db.scope/payload`:    false,
		"/machine.slice/systemd-nspawn@web.service":       true,
		"/machine.slice/machine-web2.scope":               false,
		"/user.slice/user-1000.slice/x/machine-web.scope": false,
		"/": false,
	} {
		if inScope(path, "web") != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
	if !inScope(`/machine.slice/machine-we\x2db.scope/payload`, "we-b") {
		t.Error("a name with a dash")
	}
}

func TestOptionsOfNspawn(t *testing.T) {
	for line, want := range map[string]map[string]string{
		"-D /a -M b":                    {"directory": "/a", "machine": "b"},
		"-bqD /a":                       {"": "yes", "directory": "/a"},
		"--bind /x --machine b sh -M c": {"bind": "/x", "machine": "b"},
		"-M b -- -M c":                  {"machine": "b"},
		"--ephemeral --directory=/a=b":  {"ephemeral": "yes", "directory": "/a=b"},
		"-x":                            {"ephemeral": "yes"},
		"--private-users --machine b":   {"private-users": "", "machine": "b"},
		"-i /a.raw -M":                  {"image": "/a.raw", "machine": ""},
	} {
		if got := nspawnOptions(strings.Fields(line)); !maps.Equal(got, want) {
			t.Errorf("%s: got %v", line, got)
		}
	}
}
