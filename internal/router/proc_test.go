package router

import (
	"slices"
	"strings"
	"testing"
)

func TestContainerIDsOfCgroups(t *testing.T) {
	a, b := fullID("aaaa"), fullID("bbbb")
	for path, want := range map[string][]string{
		"/":                                            nil,
		"/system.slice/ssh.service":                    nil,
		"/docker/" + a:                                 {a},
		"/docker/" + a + "/init.scope":                 {a},
		"/docker/" + a + "/docker/" + b:                {a, b},
		"/system.slice/docker-" + a + ".scope":         {a},
		"/machine.slice/libpod-" + a + ".scope/ctr":    {a},
		"/kubepods/besteffort/pod12-34/" + a:           {a},
		"/x.slice/cri-containerd-" + a + ".scope":      {a},
		"/system.slice/x.slice:cri-containerd:" + a:    {a},
		"/docker/" + a[1:]:                             nil,
		"/docker/" + a + "0":                           nil,
		"/docker/" + strings.ToUpper(a):                nil,
		"/../../docker/" + a:                           {a},
		"/" + strings.Repeat("x", 10_000) + "/docker/": nil,
	} {
		if got := containerIDs(path); !slices.Equal(got, want) {
			t.Errorf("%.80s: got %q", path, got)
		}
	}
}
