package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/flock"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

// ledgerDir is where it is kept which mounts somebody wants. It goes with a
// reboot, and so do they.
const ledgerDir = "/run/cartsshd"

// A ledger is what the kernel cannot tell of the tools in containers: who wants
// them there, and what had to be made for them. That they are there is the
// kernel's to say. Who has it open has it alone.
type ledger struct {
	lock   *os.File // the directory
	Mounts []*mounted
	Binds  []string // directories of the host that were made for the image
}

// mounted is a container in which the tools are.
type mounted struct {
	Runtime, ID, Name string
	Init              procID
	Made              nsexec.Made
	Wanted            bool     // by mount, until unmount
	Users             []procID // by each `enter --exec` that runs
}

// procID is a process. Its number alone could be another's by now.
type procID struct {
	PID     int
	Started uint64 // in clock ticks since boot
}

const ledgerPatience = 10 * time.Second

// openLedger waits for whoever has it open. Of what nobody wants any more, since
// whoever wanted it was killed, nothing is left when it returns.
func openLedger() (*ledger, error) {
	l, err := readLedger()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ledgerDir, err)
	}
	if err := l.sweep(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func readLedger() (*ledger, error) {
	if err := os.MkdirAll(ledgerDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(ledgerDir)
	if err != nil {
		return nil, err
	}
	l := &ledger{lock: lock}
	if err := flock.Within(lock, ledgerPatience); err != nil {
		return nil, errors.Join(err, l.close())
	}
	text, err := os.ReadFile(l.path())
	if err == nil {
		err = json.Unmarshal(text, l)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *ledger) path() string { return filepath.Join(ledgerDir, "mounts.json") }

func (l *ledger) close() error { return l.lock.Close() }

// save makes the file whole, or leaves it as it was.
func (l *ledger) save() error {
	text, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path()+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(l.path()+".new", l.path())
}

// sweep forgets the dead: containers with all that was in them, and users. What
// was there for those only is taken away.
func (l *ledger) sweep() error {
	l.Mounts = slices.DeleteFunc(l.Mounts, func(m *mounted) bool { return !m.Init.lives() })
	for _, m := range slices.Clone(l.Mounts) {
		m.Users = slices.DeleteFunc(m.Users, func(u procID) bool { return !u.lives() })
		if err := l.release(m); err != nil {
			tell("%s: what was left there could not be taken away: %v", m.name(), err) // and is tried again
		}
	}
	return l.save()
}

// release takes the tools away that nobody wants any more.
func (l *ledger) release(m *mounted) error {
	if m.Wanted || len(m.Users) > 0 {
		return nil
	}
	err := m.detach()
	if err != nil && !errors.Is(err, nsexec.ErrDetached) {
		return err
	}
	l.forget(m)
	return nil
}

// forget drops the entry of a container in which nobody wants the tools.
func (l *ledger) forget(m *mounted) {
	if !m.Wanted && len(m.Users) == 0 {
		l.Mounts = slices.DeleteFunc(l.Mounts, func(other *mounted) bool { return other == m })
	}
}

func (m *mounted) detach() error {
	target, err := m.Init.open()
	if errors.Is(err, unix.ESRCH) {
		return nil // and with it all that was there
	}
	if err != nil {
		return err
	}
	defer target.Close()
	return nsexec.Detach(target, m.Made)
}

// name is what a person calls the container.
func (m *mounted) name() string {
	if m.Name != "" {
		return m.Name
	}
	return m.ID
}

// of is the entry of a container; nil if the tools are not there by us.
func (l *ledger) of(t *router.Target) *mounted {
	for _, m := range l.Mounts {
		if m.Init == (procID{t.PID, t.Started}) {
			return m
		}
	}
	return nil
}

// take is the same, and makes one.
func (l *ledger) take(t *router.Target) *mounted {
	if m := l.of(t); m != nil {
		return m
	}
	m := &mounted{Runtime: t.Runtime, ID: t.ID, Name: t.Name, Init: procID{t.PID, t.Started}}
	l.Mounts = append(l.Mounts, m)
	return m
}

func (p procID) lives() bool { return p.PID > 0 && startTime(p.PID) == p.Started }

// open pins the process.
func (p procID) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.lives() { // and now it is told for certain
		f.Close()
		return nil, unix.ESRCH
	}
	return f, nil
}

func ourselves() procID { return procID{os.Getpid(), startTime(os.Getpid())} }

// startTime is field 22 of proc_pid_stat(5); 0 if there is no such process.
func startTime(pid int) uint64 {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}
