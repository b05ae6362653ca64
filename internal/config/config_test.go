package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"gopkg.in/yaml.v3"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/need"
)

const nobody = "people: {}\nrules: []\n"

func TestTheSampleLoadsAsItIs(t *testing.T) {
	c, err := load(t, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	web := authz.Target{Runtime: "docker", ID: "68af", Name: "web-1", Labels: map[string]string{"env": "prod"}}
	got := c.Policy.Decide(authz.Subject{Person: "alice", Groups: []string{"sre"}}, authz.Request{Target: web, Kind: authz.Shell})
	if !got.Allow || got.Rule != "sre-on-web" || got.Terms.Profile != "general" {
		t.Errorf("alice on web-1: %+v", got)
	}
	got = c.Policy.Decide(authz.Subject{Person: "bob"}, authz.Request{Target: web, Kind: authz.Exec, Command: "tcpdump -i eth0",
		Time: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), From: netip.MustParseAddr("10.1.2.3")})
	if !got.Allow || !slices.Equal(got.Argv, []string{"tcpdump", "-i", "eth0"}) {
		t.Errorf("bob on web-1: %+v", got)
	}
}

func TestTheSampleShowsTheDefaults(t *testing.T) {
	shown, err := load(t, sample(t))
	if err != nil {
		t.Fatal(err)
	}
	silent, err := load(t, nobody)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{shown, silent} {
		c.People, c.Groups, c.Authorities, c.Rules, c.Tests, c.Policy = nil, nil, nil, nil, nil, nil
	}
	if !reflect.DeepEqual(shown, silent) {
		t.Errorf("the sample says\n%+v\nthe code says\n%+v", shown, silent)
	}
}

// The sample is the manual: no key without its line there, and no line without
// its key.
func TestTheSampleHasEveryKey(t *testing.T) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(sample(t)), &document); err != nil {
		t.Fatal(err)
	}
	inSample, inCode := map[string]bool{}, map[string]bool{}
	keysOfNode(document.Content[0], reflect.TypeFor[Config](), "", inSample)
	var more yaml.Node
	if err := yaml.Unmarshal([]byte(uncommented(t)), &more); err != nil {
		t.Fatal(err)
	}
	keysOfNode(more.Content[0], reflect.TypeFor[Config](), "", inSample)
	keysOfType(reflect.TypeFor[Config](), "", inCode)
	if !maps.Equal(inSample, inCode) {
		t.Errorf("in the sample: %v\nin the code: %v", slices.Sorted(maps.Keys(inSample)), slices.Sorted(maps.Keys(inCode)))
	}
	if len(inCode) < 20 || !inCode["rules.allow.exec"] || !inCode["people.*.keys"] {
		t.Errorf("this test does not see the keys: %v", slices.Sorted(maps.Keys(inCode)))
	}
}

// What is commented out in the sample is text that may be used as it is.
func TestWhatTheSampleHasInCommentsLoadsAsWell(t *testing.T) {
	path := write(t, uncommented(t))
	beside(t, path, "keys/dora", doraKey)
	beside(t, path, "revoked.krl", "# nothing yet\n")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dora, ok := c.Policy.Subject("dora")
	if !ok || dora.Key == "" || len(c.Files) != 2 {
		t.Errorf("dora %+v, files %q", dora, c.Files)
	}
	if len(c.Image) != 2 || c.Image[0].Name == "" || c.Image[0].SHA256 == "" {
		t.Errorf("images %+v", c.Image)
	}
	crashed := authz.Request{Target: authz.Target{Runtime: "docker", ID: "1", Name: "crash-1"}, Kind: authz.Shell}
	if got := c.Policy.Decide(authz.Subject{Person: "bob"}, crashed); !got.Allow || got.Terms.Image != "full" {
		t.Errorf("bob on crash-1: %+v", got)
	}
}

// uncommented is the sample with what is commented out in it, instead of the
// line that it stands for.
func uncommented(t *testing.T) string {
	t.Helper()
	text := regexp.MustCompile(`(?m)^image: .*\n`).ReplaceAllString(sample(t), "")
	return regexp.MustCompile(`(?m)^#(image:|  - \{|  dora:|    revoked:)`).ReplaceAllString(text, "$1")
}

func keysOfType(t reflect.Type, prefix string, keys map[string]bool) {
	t = inner(t)
	if t.Kind() == reflect.Map {
		keysOfType(t.Elem(), prefix+"*.", keys)
		return
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			keys[prefix+name] = true
			keysOfType(t.Field(i).Type, prefix+name+".", keys)
		}
	}
}

func keysOfNode(n *yaml.Node, t reflect.Type, prefix string, keys map[string]bool) {
	t = inner(t)
	if n.Kind == yaml.SequenceNode {
		for _, element := range n.Content {
			keysOfNode(element, t, prefix, keys)
		}
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i < len(n.Content); i += 2 {
		name := n.Content[i].Value
		if t.Kind() == reflect.Map {
			keysOfNode(n.Content[i+1], t.Elem(), prefix+"*.", keys)
			continue
		}
		keys[prefix+name] = true
		for j := range t.NumField() {
			if t.Field(j).Tag.Get("yaml") == name {
				keysOfNode(n.Content[i+1], t.Field(j).Type, prefix+name+".", keys)
			}
		}
	}
}

// inner strips lists, pointers and strictyaml.At.
func inner(t reflect.Type) reflect.Type {
	for {
		switch {
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer:
			t = t.Elem()
		case strings.HasPrefix(t.Name(), "At["):
			value, _ := t.FieldByName("Value")
			t = value.Type
		default:
			return t
		}
	}
}

func TestRuntimesAreOnAsNamed(t *testing.T) {
	for _, test := range []struct {
		yaml, socket, root string // "": docker is off, or asked for its root
		pid                bool
	}{
		{"", "/run/docker.sock", "", true},
		{"runtimes: {}", "/run/docker.sock", "", true},
		{"runtimes: {docker: {}}", "/run/docker.sock", "", false},
		{"runtimes: {docker: {socket: /x}}", "/x", "", false},
		{"runtimes: {docker: {root: auto}}", "/run/docker.sock", "", false},
		{"runtimes: {docker: {root: /y}}", "/run/docker.sock", "/y", false},
		{"runtimes: {pid: {}}", "", "", true},
	} {
		c, err := load(t, nobody+test.yaml)
		if err != nil {
			t.Fatal(err)
		}
		want := &Docker{test.socket, DataRoot(test.root)}
		if test.socket == "" {
			want = nil
		}
		if !reflect.DeepEqual(c.Runtimes.Docker, want) || (c.Runtimes.PID != nil) != test.pid {
			t.Errorf("%q: docker %+v, pid %v", test.yaml, c.Runtimes.Docker, c.Runtimes.PID)
		}
	}
}

func TestTheRuntimesOfTheOCIAreWhereTheyAreBuilt(t *testing.T) {
	c, err := load(t, nobody)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Runtimes
	if *r.CRI != (CRI{"/run/containerd", "/run/containers/storage"}) || *r.Containerd != (Containerd{"/run/containerd"}) ||
		!slices.Equal(r.Crun.Roots, []string{"/run/crun"}) ||
		!slices.Equal(r.Runc.Roots, []string{"/run/runc", "/run/containerd/runc/*", "/run/docker/runtime-runc/*"}) {
		t.Errorf("got %+v, %+v, %+v, %+v", r.CRI, r.Containerd, r.Crun, r.Runc)
	}
	c, err = load(t, nobody+"runtimes: {runc: {roots: [runc, ./k3s/*]}, containerd: {root: ctd}}")
	if err != nil {
		t.Fatal(err)
	}
	r = c.Runtimes
	dir := strings.TrimSuffix(r.Containerd.Root, "/ctd")
	if !filepath.IsAbs(dir) || !slices.Equal(r.Runc.Roots, []string{dir + "/runc", dir + "/k3s/*"}) || r.CRI != nil || r.Crun != nil || r.Docker != nil {
		t.Errorf("got %+v, runc %+v", r, r.Runc)
	}
}

func TestPathsOfRuntimesHaveDefaultsAndAreRelativeToTheFile(t *testing.T) {
	path := write(t, nobody+"runtimes: {podman: {root: r}, incus: {root: i}, lxc: {}, rkt: {root: k}}")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	want := Runtimes{
		Podman: &Podman{"/run/podman/podman.sock", dir + "/r", "/run/containers/storage", "/run/user"},
		Incus:  &Incus{DataRoot(dir + "/i")},
		LXC:    &LXC{"/var/lib/lxc"},
		Rkt:    &Rkt{dir + "/k"},
	}
	if !reflect.DeepEqual(c.Runtimes, want) {
		t.Errorf("got %+v, want %+v", c.Runtimes, want)
	}
}

func TestThereMayBeSeveralImages(t *testing.T) {
	digest := strings.Repeat("0a", 32)
	for _, test := range []struct {
		yaml string
		want Images
	}{
		{"", Images{{Path: toolsImage}}},
		{"image: {}", Images{{Path: toolsImage}}},
		{"image: {sha256: " + digest + "}", Images{{Path: toolsImage, SHA256: Digest(digest)}}},
		{"image: {path: /a, name: full}", Images{{Name: "full", Path: "/a"}}},
		{"image: [{path: /a}]", Images{{Path: "/a"}}},
		{"image:\n- {name: full, path: /a}\n- {name: full, path: /b, sha256: " + digest + "}",
			Images{{Name: "full", Path: "/a"}, {Name: "full", Path: "/b", SHA256: Digest(digest)}}},
	} {
		c, err := load(t, nobody+test.yaml)
		if err != nil {
			t.Errorf("%s: %v", test.yaml, err)
			continue
		}
		if !reflect.DeepEqual(c.Image, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.yaml, c.Image, test.want)
		}
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	path := write(t, nobody+"host_key: key\nimage: {path: ../tools.img}\nrecord: {dir: /abs}\nruntimes: {docker: {socket: sock, root: data}}")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	got := []string{c.HostKey, c.Image[0].Path, c.Record.Dir, c.Runtimes.Docker.Socket, string(c.Runtimes.Docker.Root)}
	want := []string{dir + "/key", filepath.Dir(dir) + "/tools.img", "/abs", dir + "/sock", dir + "/data"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Chdir(dir)
	if c, err = Load(filepath.Base(path)); err != nil || c.HostKey != dir+"/key" {
		t.Errorf("named without a directory: %v, %v", c, err)
	}
}

func TestEachMistakeIsNamed(t *testing.T) {
	for _, test := range []struct{ yaml, want string }{
		{"lisen: x", `:3:1: unknown key "lisen" (did you mean "listen"?)`},
		{"listen: 2222", `:3:9: wants host:port, such as ":2222"`},
		{`listen: ":ssh"`, `:3:9: wants a port from 1 to 65535`},
		{`listen: "x:65536"`, `:3:9: wants a port`},
		{"listen: [x]", `:3:9: wants text, is a list`},
		{"image: /tools.img", `:3:8: wants keys and values, is text`},
		{"image: {path: ''}", `:3:15: is empty`},
		{"image: {sha256: 12}", `:3:17: wants 64 hex digits in lower case, as sha256sum prints them`},
		{"image: {sha256: " + strings.Repeat("AB", 32) + "}", `:3:17: wants 64 hex digits in lower case`},
		{"image: {name: 'the full one'}", `:3:15: "the full one" is no name`},
		{"image: []", `:3:8: names no image: take it out for /var/lib/cartsshd/tools.img`},
		{"image: [{name: full}]", `:3:9: image has no path: write path: FILE`},
		{"image: [{path: ''}]", `:3:16: is empty`},
		{"image: [/tools.img]", `:3:9: wants keys and values, is text`},
		{"image: [{path: /a, sha: x}]", `:3:20: unknown key "sha"`},
		{"host_key:", `:3:10: is empty`},
		{"limits: {connections: 0}", `:3:23: wants a number from 1 to 1000000`},
		{"limits: {connections: -1}", `:3:23: wants a number from 1`},
		{"limits: {connections: [1]}", `:3:23: wants a number, is a list`},
		{"limits: {login_grace: 30}", `:3:23: wants a duration above zero, such as 30s`},
		{"runtimes: {docker: {root: ''}}", `:3:27: wants a path, or auto`},
		{"runtimes: {docker: {root: [/x]}}", `:3:27: wants text, is a list`},
		{"runtimes: {pid: {x: 1}}", `:3:18: unknown key "x" (none is known)`},
		{"runtimes: {pid: }", `:3:17: is empty: write {} if that is meant`},
		{"people: {}", `:3:1: key "people" again (first in line 1)`},
	} {
		c, err := load(t, nobody+test.yaml)
		if err == nil || !strings.Contains(err.Error(), "config.yaml"+test.want) {
			t.Errorf("%s: got %v, want %s", test.yaml, err, test.want)
		}
		if c != nil {
			t.Errorf("%s: there is a config nevertheless", test.yaml)
		}
	}
	for _, text := range []string{"listen: ':1'", "people: {}", "rules: []"} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), "config.yaml:1:1: without people and rules nobody may enter") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSyntaxAndPolicyAreJudgedTogether(t *testing.T) {
	path := write(t, "limits: {connections: many}\npeople: {}\nrules: [{name: r, who: [alice], targets: [{name: x}], deny: x}]\nlisen: x\n")
	_, err := Load(path)
	want := path + ":1:23: wants a number from 1 to 1000000\n" +
		path + `:3:25: unknown person "alice" (none is known)` + "\n" +
		path + `:4:1: unknown key "lisen" (did you mean "listen"?)`
	if fmt.Sprint(err) != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestARuleMayDemandWhatSomeImageIsCalled(t *testing.T) {
	const text = "image: [{name: full, path: /a}, {name: full, path: /b}]\npeople: {}\n" +
		`rules: [{name: r, who: ["*"], targets: [{name: x}], allow: [shell], terms: {image: %s}}]`
	for demand, want := range map[string]string{
		"full": "",
		"ful":  `config.yaml:3:84: no tools image is called "ful" (did you mean "full"?)`,
		"rest": `config.yaml:3:84: no tools image is called "rest" (known: full)`,
	} {
		c, err := load(t, fmt.Sprintf(text, demand))
		if want == "" && (err != nil || c == nil) || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: %v", demand, err)
		}
	}
}

const doraKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINrTXxyjYSeP3Wy353meHtynpG+o+1eL6lr5JBA71ccc dora\n"

// beside writes a file that the one at path may name.
func beside(t *testing.T, path, name, text string) string {
	t.Helper()
	file := filepath.Join(filepath.Dir(path), name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const named = `
people:
  dora: {authorized_keys: [keys/dora, keys/dora2], totp: totp/dora}
authorities:
  - {ca: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII13iFXrVZmSLYNHZY1H75pY3RlbHjlTrWxNzjw3wsTc, principals: {x: {}}, revoked: keys/dora}
rules: []
`

func TestFilesOfThePolicyAreReadAndRemembered(t *testing.T) {
	path := write(t, named)
	dora, more := beside(t, path, "keys/dora", doraKey), beside(t, path, "keys/dora2", "# none yet\n")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{dora, more}; !slices.Equal(c.Files, want) {
		t.Errorf("read %q, want %q", c.Files, want)
	}
	if who, _ := c.Policy.Subject("dora"); who.Key == "" || who.TOTP != filepath.Join(filepath.Dir(path), "totp/dora") {
		t.Errorf("dora is %+v", who)
	}
}

// Or who may write to the file of keys could enter as whom they like.
func TestFilesOfThePolicyMustBeTrustworthyToo(t *testing.T) {
	path := write(t, named)
	dora, more := beside(t, path, "keys/dora", doraKey), beside(t, path, "keys/dora2", "")
	for _, test := range []struct {
		spoil func() error
		want  string
	}{
		{func() error { return nil }, ""},
		{func() error { return os.Chmod(dora, 0o620) }, path + ":3:28: " + dora + ": others may write to it: chmod go-w " + dora},
		{func() error { return os.Truncate(more, 5<<20) }, path + ":3:39: " + more + ": is larger than 4 MiB"},
		{func() error { return os.Remove(more) }, path + ":3:39: open " + more + ": no such file or directory"},
		{func() error { return syscall.Mkfifo(more, 0o600) }, path + ":3:39: " + more + ": is not a regular file"},
		{func() error { return errors.Join(os.Chmod(dora, 0o600), os.WriteFile(dora, []byte("rubbish\n"), 0)) }, dora + ":1:1: not a public key"},
	} {
		if err := test.spoil(); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("got\n%v\nwant\n%s", err, test.want)
		}
	}
}

func TestACertificateOfSSHKeygenIsBelievedUntilItIsRevoked(t *testing.T) {
	dir := t.TempDir()
	keygen := func(args ...string) {
		t.Helper()
		cmd := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
		}
	}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	keygen("-t", "ed25519", "-N", "", "-f", "ca")
	keygen("-t", "ed25519", "-N", "", "-f", "id")
	keygen("-s", "ca", "-I", "ci 7", "-n", "ci@corp,root", "-z", "7", "-V", "20270101Z:20270201Z", "-O", "source-address=10.0.0.0/8", "-O", "no-pty", "id.pub")
	path := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("people: {}\nrules: []\nauthorities: [{ca: %s, principals: {'*@corp': {groups: [sre]}}, revoked: krl}]\n", strings.TrimSpace(read("ca.pub")))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, _, _, _, err := ssh.ParseAuthorizedKey([]byte(read("id-cert.pub")))
	if err != nil {
		t.Fatal(err)
	}
	credential := authz.Credential{Key: cert, From: netip.MustParseAddr("10.1.2.3"), Time: time.Date(2027, 1, 15, 0, 0, 0, 0, time.UTC)}
	for _, test := range []struct{ spec, want string }{
		{"serial: 8", ""},
		{"serial: 5-7", "the certificate with the serial number 7 is revoked"},
		{"id: ci 7", `certificates with the key ID "ci 7" are revoked`},
		{"key: " + read("id.pub"), "is revoked"},
		{"sha256: " + read("ca.pub"), "is revoked"},
	} {
		beside(t, path, "spec", test.spec+"\n")
		keygen("-k", "-f", "krl", "-s", "ca.pub", "spec")
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		who, err := c.Policy.Identify(credential)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %+v, %v", test.spec, who, err)
		}
		if err == nil && (who.Person != "ci@corp" || !who.Bounds.NoPTY || who.Certificate.Serial != 7 || !slices.Equal(who.Principals, []string{"ci@corp"})) {
			t.Errorf("%+v", who)
		}
		os.Remove(filepath.Join(dir, "krl"))
	}
	beside(t, path, "krl", "SSHKRL\n\x00rubbish")
	if _, err := Load(path); err == nil || !strings.HasSuffix(err.Error(), "krl:1:1: revocation list: is of format 1920295522, and only 1 is read") {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatOthersMayChangeIsRefused(t *testing.T) {
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		path := write(t, nobody)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "others may write to it: chmod go-w "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestAFileOfSomebodyElseIsRefused(t *testing.T) {
	need.Root(t)
	path := write(t, nobody)
	if err := os.Chown(path, 65534, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534, who could change it: chown root") {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := write(t, strings.Repeat("#", 10<<20))
	for path, want := range map[string]string{
		dir:                           "is not a regular file",
		fifo:                          "is not a regular file",
		filepath.Join(dir, "nothing"): "no such file",
		huge:                          ":1:1: is larger than 4 MiB",
	} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	return Load(write(t, text))
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
