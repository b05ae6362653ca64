package router

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/cartsshd/cartsshd/test/rig"
)

const pod = "0a1b2c3d-1111-2222-3333-444455556666"

// pods is the data of rkt with one pod, of which there is this file.
func pods(t *testing.T, file, text string) *Rkt {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/pods/run/"+pod, 0o750); err != nil {
		t.Fatal(err)
	}
	if file != "" {
		if err := os.WriteFile(dir+"/pods/run/"+pod+"/"+file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return NewRkt(dir)
}

// rkt's pods are machines of nspawn's, with the UUID in their names.
func TestAPodOfRktIsFoundByItsUUID(t *testing.T) {
	c := rig.Nspawn(t, "rootfs", "--machine", "rkt-"+pod)
	c.Name = ""
	parent, err := parentOf(c.PID)
	if err != nil {
		t.Fatal(err)
	}
	for file, number := range map[string]int{"pid": c.PID, "ppid": parent} {
		rkt := pods(t, file, fmt.Sprintln(number))
		for _, login := range []string{pod, pod[:4], pod[:13], "rkt:" + pod[:8]} {
			if target := isFound(t, rkt, login, c); target.ID != pod || target.Source != rkt.dir+"/"+pod+"/"+file {
				t.Errorf("%s, %s: got %+v", file, login, target)
			}
		}
		isNot(t, rkt, pod[:3], "no such container")
		isNot(t, rkt, "0a1c", "no such container")
		if found, err := rkt.List(t.Context()); err != nil || len(found) != 1 {
			t.Errorf("lists %+v, %v", found, err)
		}
	}
}

func TestAPodOfRktLetsNobodyIntoAnotherProcess(t *testing.T) {
	c, bare := rig.Nspawn(t, "web-1"), rig.Bare(t)
	for name, pid := range map[string]int{"a machine": c.PID, "a bare container": bare.PID} {
		isNot(t, pods(t, "pid", strconv.Itoa(pid)), pod, fmt.Sprintf("process %d is not in the pod %s", pid, pod))
		isNot(t, pods(t, "pid", strconv.Itoa(pid)), pod[:4], name[:0]+"is not in the pod")
	}
	for _, pid := range []int{1, os.Getpid(), maxPID} {
		isNot(t, pods(t, "pid", strconv.Itoa(pid)), pod, "container "+pod+" is not running")
	}
	isNot(t, pods(t, "", ""), pod, "is not running")
	for _, text := range []string{"", "x", "-1", "4711 4712", "\x1b[2J"} {
		isNot(t, pods(t, "pid", text), pod, "not the number of a process: ")
	}
}
