package router

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

func TestAContainerOfLXDIsFoundByItsName(t *testing.T) {
	d := rig.LXD(t)
	c := d.Run(t, "web-1", "--config", "user.team=web")
	d.CLI(t, "project", "create", "other", "--config", "features.images=false", "--config", "features.profiles=false")
	other := d.Run(t, "web-1", "--project", "other", "--config", "security.privileged=true")
	incus := NewIncus("/nonexistent", d.Root)
	for _, login := range []string{"web-1", "default_web-1", "incus:web-1"} {
		target := isFound(t, incus, login, c)
		if target.Image != rig.Busybox || !isContainerID(target.Digest[len("sha256:"):]) || fmt.Sprint(target.Labels) != "map[team:web]" {
			t.Errorf("%s: got %+v", login, target)
		}
	}
	other.Name = "other_web-1"
	isFound(t, incus, "other_web-1", other)
	if target := isFound(t, incus, "web-1", c); target.ID != d.Root+"/containers/web-1" {
		t.Errorf("got %+v", target)
	}
	isNot(t, incus, "web-2", "no such container")

	t.Run("while the daemon hangs or is dead", func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			syscall.Kill(d.PID(), sig)
			if target := isFound(t, incus, "web-1", c); target.Labels[LabelsUnknown] == "" || target.Image != "" {
				t.Errorf("%v: got %+v", sig, target)
			}
			isFound(t, incus, "other_web-1", other)
			if names := lists(t, incus); names != "other_web-1 web-1" && names != "web-1 other_web-1" {
				t.Errorf("lists %q", names)
			}
		}
	})
}

// What a daemon answers is only about the labels and the image, and only if it
// is of the container that it was asked for.
func TestAHostileIncusLendsNoLabels(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":              "\x00",
		"another container":    `{"metadata":{"name":"web-2","project":"default","type":"container","expanded_config":{"user.env":"prod"}}}`,
		"another project":      `{"metadata":{"name":"web-1","project":"other","type":"container","expanded_config":{"user.env":"prod"}}}`,
		"a virtual machine":    `{"metadata":{"name":"web-1","project":"default","type":"virtual-machine","expanded_config":{"user.env":"prod"}}}`,
		"another type of text": `{"metadata":[]}`,
	} {
		root := t.TempDir()
		if err := os.MkdirAll(root+"/containers/web-1", 0o711); err != nil {
			t.Fatal(err)
		}
		serveAt(t, root+"/unix.socket", says("%s", answer))
		incus := NewIncus(root)
		found, err := incus.Find(t.Context(), "web-1")
		if err != nil || len(found) != 1 || fmt.Sprint(found[0].Labels) != "map[cartsshd.labels:unknown]" || found[0].Closed != "is not running" {
			t.Errorf("%s: got %+v, %v", name, found, err)
		}
		if _, err := resolve(t, "web-1", incus); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func serveAt(t *testing.T, path string, answer http.HandlerFunc) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer}
	go server.Serve(listener) // until it is closed
	t.Cleanup(func() { server.Close() })
}
