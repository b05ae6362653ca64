package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/need"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// house is DIR/etc/cartsshd/config.yaml, and DIR.
func house(t *testing.T, text string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "etc/cartsshd/config.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

func TestADirectoryThatOthersMayWriteToIsRefused(t *testing.T) {
	for mode, refused := range map[os.FileMode]bool{0o755: false, 0o775: true, 0o757: true, 0o777: true, 0o777 | os.ModeSticky: false} {
		for _, which := range []string{"etc", "etc/cartsshd"} {
			path, dir := house(t, nobody)
			open := filepath.Join(dir, which)
			if err := os.Chmod(open, mode); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if refused && (err == nil || !strings.HasSuffix(err.Error(), open+": others may write to this directory, and so replace what is in it: chmod go-w "+open)) || !refused && err != nil {
				t.Errorf("%s of mode %o: %v", which, mode, err)
			}
		}
	}
}

func TestADirectoryOfSomebodyElseIsRefused(t *testing.T) {
	need.Root(t)
	path, dir := house(t, nobody)
	for _, theirs := range []string{filepath.Join(dir, "etc"), filepath.Dir(path)} {
		if err := os.Chown(theirs, 65534, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), theirs+": belongs to uid 65534, who could change it: chown root "+theirs) {
			t.Errorf("%s: %v", theirs, err)
		}
		os.Chown(theirs, 0, 0)
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
}

// The way is every way: that to a link, and that which the link goes.
func TestLinksAreFollowedToTheFile(t *testing.T) {
	path, dir := house(t, nobody)
	for _, link := range [][2]string{{"etc/cartsshd/config.yaml", "plain"}, {dir + "/etc", "etc2"}, {"plain", "twice"},
		{"../cartsshd/config.yaml", "etc/cartsshd/within"}, {dir + "/etc/cartsshd", "c"}} {
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	logins := []string{filepath.Join(dir, "plain"), filepath.Join(dir, "twice"), filepath.Join(dir, "etc2/cartsshd/config.yaml"), dir + "/c/within", dir + "/c/../cartsshd/config.yaml"}
	for _, login := range logins {
		if _, err := Load(login); err != nil {
			t.Errorf("%s: %v", login, err)
		}
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, login := range logins {
		if _, err := Load(login); err == nil || !strings.Contains(err.Error(), "others may write to this directory") {
			t.Errorf("%s: %v", login, err)
		}
	}
}

func TestALinkOfSomebodyElseIsRefused(t *testing.T) {
	need.Root(t)
	_, dir := house(t, nobody)
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Symlink("etc/cartsshd/config.yaml", link), os.Lchown(link, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); err == nil || !strings.Contains(err.Error(), link+": belongs to uid 65534") {
		t.Errorf("got %v", err)
	}
}

func TestInspectTellsAllAndGoesOn(t *testing.T) {
	path, _ := house(t, "listen: ':1'\nhost_key: key\nlisen: x\npeople: {}\nrules: [{name: r, who: [x], targets: [{name: x}], deny: x}]\n")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	c, errs := Inspect(path)
	if len(errs) != 2 || !strings.Contains(errs[0].Error(), "others may write to it") {
		t.Fatalf("got %v", errs)
	}
	if problems, ok := errors.AsType[strictyaml.Problems](errs[1]); !ok || len(problems) != 2 {
		t.Errorf("got %v", errs[1])
	}
	if c == nil || c.Listen != ":1" || c.HostKey != filepath.Join(filepath.Dir(path), "key") || c.Runtimes.Docker == nil || c.Policy != nil {
		t.Errorf("got %+v", c)
	}
	for _, none := range []string{filepath.Dir(path), filepath.Join(filepath.Dir(path), "nothing")} {
		if c, errs := Inspect(none); c != nil || len(errs) != 1 || fmt.Sprint(errs) == "[]" {
			t.Errorf("%s: %v, %v", none, c, errs)
		}
	}
}
