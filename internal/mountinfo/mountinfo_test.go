package mountinfo

import (
	"os"
	"reflect"
	"slices"
	"testing"
)

func TestALineIsReadAsTheKernelMeansIt(t *testing.T) {
	got, err := parse(`98 97 7:12 / /dev/crash\040cart\134x ro,nosuid,nodev,relatime,nodiratime shared:1 master:2 - squashfs /dev/loop12 ro,errors=continue
99 97 0:5 / / rw - tmpfs  rw
`)
	want := []Mount{
		{7, 12, "/", `/dev/crash cart\x`, []string{"ro", "nosuid", "nodev", "relatime", "nodiratime"}, "squashfs", "/dev/loop12", []string{"ro", "errors=continue"}},
		{0, 5, "/", "/", []string{"rw"}, "tmpfs", "rw", []string{"rw"}}, // a source may be empty
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if !got[0].Has("ro", "nodiratime") || got[0].Has("ro", "rw") {
		t.Error("options")
	}
}

func TestGarbageIsAnError(t *testing.T) {
	for _, line := range []string{"\n", "1 2 3\n", "1 2 x:y / / rw - a b\n", "1 2 7:1 / / rw a b\n"} {
		if _, err := parse(line); err == nil {
			t.Errorf("%q was read", line)
		}
	}
}

func TestOurOwnMountsHaveARoot(t *testing.T) {
	all, err := Of(os.Getpid())
	if err != nil || !slices.ContainsFunc(all, func(m Mount) bool { return m.Point == "/" }) {
		t.Errorf("got %+v, %v", all, err)
	}
}

func FuzzUnescape(f *testing.F) {
	f.Add(`\`)
	f.Add(`\04`)
	f.Add(`\777a`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(s); len(got) > len(s) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
