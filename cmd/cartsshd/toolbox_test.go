package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/sshd"
)

// replace puts a copy of one file in the place of another, as install(1) does.
func replace(t testing.TB, path, with string) {
	t.Helper()
	b, err := os.ReadFile(with)
	must(t, err)
	must(t, os.WriteFile(path+".new", b, 0o600))
	must(t, os.Rename(path+".new", path))
}

func renewed(t testing.TB, old toolset, list ...config.Image) toolset {
	t.Helper()
	set, err := old.renewed(list)
	must(t, err)
	t.Cleanup(func() { set.close() })
	return set
}

func TestWhatIsOpenAndUnchangedIsNotOpenedAgain(t *testing.T) {
	path, other := makeImage(t, ours()), makeImage(t, ours())
	first := openSet(t, config.Image{Path: path})
	second := renewed(t, first,
		config.Image{Path: other},
		config.Image{Path: path, Name: "full", SHA256: config.Digest(digest(t, path))})
	if second[1].tools != first[0].tools || second[0].tools == first[0].tools {
		t.Error("it was")
	}
	must(t, first.close())
	if mount, err := second[1].tools.Mount(nil); err != nil {
		t.Errorf("what both have went with the first: %v", err)
	} else {
		mount.Close()
	}
	// Another pin on a file that stays is looked at, too.
	if _, err := second.renewed(config.Images{{Path: path, SHA256: config.Digest(digest(t, other))}}); err == nil || !strings.Contains(err.Error(), "its sha256 is to be "+digest(t, other)) {
		t.Errorf("got %v", err)
	}

	// What is in it is what counts, not when it was touched.
	must(t, os.Chmod(path, 0o600))
	if third := renewed(t, second, config.Image{Path: path}); third[0].tools != second[1].tools {
		t.Error("after chmod, it was")
	}

	replace(t, path, other)
	if third := renewed(t, second, config.Image{Path: path}); third[0].tools == second[1].tools || third[0].tools.ID() == second[1].tools.ID() {
		t.Error("after mv, it was not")
	}
}

func TestAFileThatIsOverwrittenInPlaceIsRefused(t *testing.T) {
	path, other := makeImage(t, ours()), makeImage(t, ours())
	set := openSet(t, config.Image{Path: path})
	b, err := os.ReadFile(other)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o600))
	for _, pin := range []string{"", digest(t, other)} {
		_, err := set.renewed(config.Images{{Path: path, SHA256: config.Digest(pin)}})
		if want := path + ": was written to while it is in use: put another file in its place, with mv or install"; err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("pin %q: %v", pin, err)
		}
	}
}

func TestToolsGoWithTheLastSessionThatHasThem(t *testing.T) {
	path, other := makeImage(t, ours()), makeImage(t, ours())
	box := toolbox{set: openSet(t, config.Image{Path: path})}
	one, err := box.choose("")
	must(t, err)
	two, err := box.choose("sha256:" + digest(t, path))
	must(t, err)
	must(t, box.swap(openSet(t, config.Image{Path: other})))

	must(t, one.Close())
	mount, err := two.Mount(nil)
	if err != nil {
		t.Fatalf("one session's end is another's: %v", err)
	}
	must(t, two.Close())
	if devices(path) != 1 {
		t.Error("the device went while a mount of it was there")
	}
	mount.Close()
	eventuallyGone(path)
	if _, err := box.choose("sha256:" + digest(t, other)); err != nil {
		t.Error(err)
	}
}

func TestASessionMountsWhatItWasGivenWhateverIsSwappedMeanwhile(t *testing.T) {
	a, b, path := makeImage(t, ours()), makeImage(t, ours()), makeImage(t, ours())
	made := map[string]string{"sha256:" + digest(t, a): a, "sha256:" + digest(t, b): b, "sha256:" + digest(t, path): path}
	set, err := openToolset(config.Images{{Path: path}})
	must(t, err)
	box := toolbox{set: set}
	swapped := make(chan struct{})
	var sessions sync.WaitGroup
	for range 4 {
		sessions.Go(func() {
			for enough := false; !enough; {
				select {
				case <-swapped:
					enough = true
				default:
				}
				chosen, err := box.choose("")
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := madeFor(chosen); err != nil || got != made[chosen.ID()] {
					t.Errorf("mounted %q, %v; recorded %s", got, err, chosen.ID())
				}
				if err := chosen.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	func() {
		defer close(swapped)
		for i := range 60 {
			replace(t, path, []string{a, b}[i%2])
			next, err := box.now().renewed(config.Images{{Path: path}})
			must(t, err)
			must(t, box.swap(next))
		}
	}()
	sessions.Wait()
	must(t, box.swap(nil))
	eventuallyGone(path)
}

// madeFor mounts the tools, and reads which image they are.
func madeFor(chosen sshd.Tools) (string, error) {
	mount, err := chosen.Mount(nil)
	if err != nil {
		return "", err
	}
	defer mount.Close()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/made-for", mount.Fd()))
	return string(text), err
}
