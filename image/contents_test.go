package image

import (
	"fmt"
	"io/fs"
	"reflect"
	"testing"
	"testing/fstest"
)

func TestWhatIsNoImageSaysWhy(t *testing.T) {
	head := "profile: min\narchitecture: amd64\nfrom: x\n\n"
	for want, tree := range map[string]fstest.MapFS{
		"no MANIFEST in it":                                              {},
		"no packages.lock in it":                                         {manifestName: {Data: []byte(head)}},
		"MANIFEST: is not a regular file":                                {manifestName: {Mode: fs.ModeNamedPipe}},
		"MANIFEST: more than 16 MB":                                      {manifestName: {Data: make([]byte, maxText+1)}},
		"MANIFEST: its last line has no end: it was cut off":             {manifestName: {Data: []byte(head + "x")}},
		`packages.lock:1: "x": not of the form "package version sha256"`: {manifestName: {Data: []byte(head)}, lockName: {Data: []byte("x")}},
	} {
		if _, err := ReadContents(tree); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func TestSharesAreTheLargestFirst(t *testing.T) {
	c := &Contents{*sample(), []Package{{"libnothing", "2", digest("n")}, {"bash-static", "5.2", digest("b")}}}
	want := []Share{
		{Package{"bash-static", "5.2", digest("b")}, 2, 4},
		{Package{}, 2, 2},
		{Package{"libnothing", "2", digest("n")}, 0, 0},
	}
	if got := c.Shares(); !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %v\nwant %v", got, want)
	}
	if c.Unpacked() != 6 || c.Version("bash-static") != "5.2" || c.Version("nowhere") != "" || len(c.Commands()) != 2 {
		t.Errorf("%d bytes, commands %v", c.Unpacked(), c.Commands())
	}
}

func TestDiffSaysEverythingOnceOnly(t *testing.T) {
	of := func(name, pkg, content string) File {
		return File{Name: name, Package: pkg, SHA256: digest(content), Size: int64(len(content)), Exec: isCommand(name)}
	}
	a := &Contents{Manifest{Profile: "min", Arch: "amd64", From: "Debian 12", Inputs: []string{"--add x"}, Files: []File{
		of("bin/bash", "bash", "1"), of("bin/old", "old", "1"), of("lib/odd", "same", "1"), of("rc", "", "1"), of(lockName, "", "1"),
	}}, []Package{{"bash", "1", digest("1")}, {"old", "1", digest("1")}, {"same", "1", digest("1")}, {"again", "1", digest("1")}}}
	b := &Contents{Manifest{Profile: "std", Arch: "amd64", From: "Debian 12", Files: []File{
		of("bin/bash", "bash", "2"), of("bin/new", "new", "1"), of("bin/own", "", "1"), of("lib/odd", "same", "22"), of("rc", "", "1"), of(lockName, "", "2"),
	}}, []Package{{"bash", "2", digest("2")}, {"new", "1", digest("1")}, {"same", "1", digest("1")}, {"again", "1", digest("2")}}}
	want := fmt.Sprint([]Change{
		{"", "profile", "min", "std"},
		{"input", "--add x", "--add x", ""},
		{"package", "again", "1 sha256 " + digest("1")[:12], "1 sha256 " + digest("2")[:12]},
		{"package", "bash", "1", "2"},
		{"package", "new", "", "1"},
		{"package", "old", "1", ""},
		{"command", "new", "", "1 bytes, sha256 " + digest("1")[:12] + ", can be run, of new"},
		{"command", "old", "1 bytes, sha256 " + digest("1")[:12] + ", can be run, of old", ""},
		{"command", "own", "", "1 bytes, sha256 " + digest("1")[:12] + ", can be run"},
		{"file", "lib/odd", "1 bytes, sha256 " + digest("1")[:12] + ", of same", "2 bytes, sha256 " + digest("22")[:12] + ", of same"},
	})
	if got := fmt.Sprint(Diff(a, b)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got := Diff(a, a); got != nil {
		t.Errorf("of one and the same: %v", got)
	}
}
