package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server that dies with us, in a cgroup of its own.
type process struct {
	pid    int
	cgroup string
	done   <-chan struct{} // closed once it has been waited for
}

// startProcess starts cmd, born in the cgroup.
func startProcess(cmd *exec.Cmd, cgroup string) (*process, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	tie(cmd)
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	done, err := startTied(cmd)
	if err != nil {
		return nil, err
	}
	return &process{cmd.Process.Pid, cgroup, done}, nil
}

// tie lets cmd die with us.
func tie(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

// startTied starts cmd on a thread that lives as long as cmd does: the death
// signal is for the death of the parent thread, and Go ends threads as it
// likes. The channel is closed when cmd has ended.
func startTied(cmd *exec.Cmd) (<-chan struct{}, error) {
	done, started := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // we end it, so it ends with an error
		}
	}()
	return done, <-started
}

// Close asks the server to end, kills what is left of it, and takes its cgroup
// away.
func (p *process) Close() error {
	if p.running() {
		_ = syscall.Kill(p.pid, syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
	if err := os.WriteFile(p.cgroup+"/cgroup.kill", []byte("1"), 0); err != nil {
		return err
	}
	return eventually(func() error { return removeTree(p.cgroup) })
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// removeTree removes a cgroup and those below it, which hold files that
// cannot be removed.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// cgroupRoot finds where the second version of cgroups is mounted, which is
// not the same place everywhere.
func cgroupRoot() (string, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if before, after, _ := strings.Cut(lines.Text(), " - "); strings.HasPrefix(after, "cgroup2 ") {
			return strings.Fields(before)[4], nil
		}
	}
	return "", errors.New("bench: no cgroup2 is mounted (try: mount -t cgroup2 none /sys/fs/cgroup)")
}

// cpuMeter reads how much CPU some cgroups and all below them have used, dead
// processes and removed cgroups included. That works without a cpu controller.
type cpuMeter []string

func (m cpuMeter) seconds() (sum float64, err error) {
	for _, cgroup := range m {
		used, err := cpuSeconds(cgroup)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func cpuSeconds(cgroup string) (float64, error) {
	stat, err := os.ReadFile(cgroup + "/cpu.stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return usec / 1e6, err
		}
	}
	return 0, fmt.Errorf("bench: %s: no usage_usec in cpu.stat", cgroup)
}

// descendants returns the live processes whose line of parents leads to pid,
// which is the first of them.
func descendants(pid int) []int {
	children := map[int][]int{}
	for child, stat := range processes() {
		if stat.state != "Z" {
			children[stat.parent] = append(children[stat.parent], child)
		}
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// status is what proc_pid_stat(5) says of a process.
type status struct {
	state  string
	parent int
}

func processes() map[int]status {
	all := map[int]status{}
	dirs, _ := os.ReadDir("/proc")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(dir.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it is gone
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		all[pid] = status{fields[0], parent}
	}
	return all
}

// pssKiB is the proportional set size of some processes: their memory, with
// what several share counted once among them.
func pssKiB(pids []int) (sum float64) {
	for _, pid := range pids {
		rollup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)) // empty if it is gone
		sum += field(rollup, "Pss:")
	}
	return sum
}

// threads is how many OS threads a process has.
func threads(pid int) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return field(text, "Threads:")
}

// field returns the number after a name at the beginning of a line.
func field(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			v, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return v
		}
	}
	return 0
}

// inside returns the processes of a container but its init; none if that is
// not in a PID namespace of its own, or is gone.
func inside(init int) (pids []int) {
	space := pidNamespace(init)
	if space == "" || space == pidNamespace(os.Getpid()) {
		return nil // they would be the host's
	}
	for pid, stat := range processes() {
		if pid != init && stat.state != "Z" && pidNamespace(pid) == space {
			pids = append(pids, pid)
		}
	}
	return pids
}

func pidNamespace(pid int) string {
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return space
}

// killAll ends processes and waits until they are gone.
func killAll(pids func() []int) error {
	return eventually(func() error {
		left := pids()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if len(left) > 0 {
			return fmt.Errorf("bench: processes %v are still there", left)
		}
		return nil
	})
}
