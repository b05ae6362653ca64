package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

func TestSeveralSessionsShareOneConnection(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1")
	h := serving(t, d)
	socket := h.path("control")
	shared := func(more ...string) []string {
		return append([]string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + socket, "-o", "ControlPersist=yes"}, more...)
	}
	// Its first session brings the connection up, and in the background it stays.
	first := h.begin(t, "alice", "web-1", shared("echo first; cat; exit 1")...)
	first.sees(t, "first\n")
	second := h.begin(t, "alice", "web-1", shared("echo second; cat; exit 2")...)
	second.sees(t, "second\n")
	third := h.terminal(t, "alice", "web-1", shared()...)
	third.sees(t, prompt)
	third.shows(t, "tty", "/dev/pts/0\n")

	second.types(t, "to the second\n")
	second.in.Close()
	if got := second.ends(t); got.code != 2 || got.stdout != "second\nto the second\n" {
		t.Errorf("the second: %+v", got)
	}
	third.types(t, "exit 3\n")
	if got := third.ends(t); got.code != 3 {
		t.Errorf("the third: %+v", got)
	}
	first.types(t, "to the first\n")
	first.in.Close()
	if got := first.ends(t); got.code != 1 || got.stdout != "first\nto the first\n" {
		t.Errorf("the first: %+v", got)
	}

	if got := h.run(t, "alice", "web-1", "-o", "ControlPath="+socket, "-O", "exit"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	var clients []string
	for _, r := range h.recorded(t, audit.SessionClose) {
		clients = append(clients, r.Client.Address)
	}
	if len(clients) != 3 || clients[0] != clients[1] || clients[1] != clients[2] {
		t.Errorf("sessions came from %v", clients)
	}
}

func TestTwoPeopleInOneContainerAndOneInTwoDoNotNotice(t *testing.T) {
	d := rig.Docker(t)
	d.Run(t, "web-1", "--hostname", "one")
	d.Run(t, "web-2", "--hostname", "two")
	h := serving(t, d)
	shells := []*session{h.shell(t, "alice", "web-1"), h.shell(t, "carol", "web-1"), h.shell(t, "carol", "web-2")}
	for i, want := range []string{"alice one", "carol one", "carol two"} {
		shells[i].shows(t, "echo $CARTSSHD_PERSON $(hostname); tty", want+"\n/dev/pts/0\n")
		shells[i].shows(t, fmt.Sprintf("mine=%d; touch /dev/shm-%d 2>/dev/null; ls /dev/crashcart | wc -l | tr -d 0-9", i, i), "\n")
	}
	// One ends, roughly; the others go on.
	shells[1].types(t, "kill -9 $$\n")
	if got := shells[1].ends(t); got.code != 255 {
		t.Errorf("%+v", got)
	}
	shells[0].shows(t, "echo $mine; tty", "0\n/dev/pts/0\n")
	shells[2].shows(t, "echo $mine; tty", "2\n/dev/pts/0\n")
	for _, i := range []int{0, 2} {
		shells[i].types(t, "exit\n")
		if got := shells[i].ends(t); got.code != 0 || strings.Contains(got.stdout, "Killed") {
			t.Errorf("%+v", got)
		}
	}
}
