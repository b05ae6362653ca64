package e2e_test

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cartsshd/cartsshd/"

// The rooms know nothing of each other, not even by way of others, nor of the
// hall; what is below them is shared by all and knows none of them.
func TestTheRoomsDoNotImportEachOther(t *testing.T) {
	rooms := []string{"router", "authz", "loop", "nsexec", "audit", "approval", "totp", "krl", "standing", "glance"}
	for _, room := range rooms {
		forbidden := []string{"sshd", "config"}
		for _, other := range rooms {
			if other != room {
				forbidden = append(forbidden, other)
			}
		}
		for _, dep := range dependencies(t, "../../internal/"+room) {
			if slices.Contains(forbidden, strings.TrimPrefix(dep, module+"internal/")) {
				t.Errorf("%s depends on %s", room, dep)
			}
		}
	}
}

func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=Deps", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Deps []string }
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Deps) == 0 {
		t.Fatalf("%s depends on nothing", pkg)
	}
	return list.Deps
}

func TestTheProgramIsSmall(t *testing.T) {
	path := shipped(t)
	file, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d modules besides ours", file.Size(), len(info.Deps))
	if file.Size() > 12<<20 {
		t.Errorf("%d bytes", file.Size())
	}
	if len(info.Deps) > 20 {
		t.Errorf("%d modules", len(info.Deps))
	}
}
