package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/test/rig"
)

// asked is what a client of our own hears, which sends any name.
func (h *host) asked(t *testing.T, login string) (stderr string, code int) {
	t.Helper()
	text, err := os.ReadFile(privateKey("alice"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", "127.0.0.1:"+h.port, &ssh.ClientConfig{
		User: login, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	s.Stdout, s.Stderr = &out, &said
	err = s.Run("echo entered")
	if out.Len() > 0 {
		t.Errorf("%.40q was entered: %s", login, out.String())
	}
	exit, ok := err.(*ssh.ExitError)
	if !ok {
		t.Fatalf("%.40q: %v", login, err)
	}
	return said.String(), exit.ExitStatus()
}

func TestABadNameGetsOneSentenceAndIsRecorded(t *testing.T) {
	h := serving(t, nil)
	kernel := kernelThread(t)
	thread := otherThread(t)
	for _, login := range []string{
		"..", "../..", "a/../b", "/etc", "a//b", "a/b/c/d", "%n", "%s%n", "web-1\n", "web-1\x00", "\x1b[31mweb-1", "\xff\xfe", "we\u202eb", " ", "web 1", "-", "--help", ":", "docker:", ":web-1",
		"docker:../x", "nothing:web-1", strings.Repeat("a", 64<<10), "pid:0", "pid:1x", "pid:-1", "pid:+1", "pid:01", "pid:4294967297", "pid:99999999999999999999", "0", "-1", "4294967297",
		fmt.Sprint("pid:", kernel), fmt.Sprint(kernel), fmt.Sprint("pid:", thread), fmt.Sprint("pid:", h.server.Process.Pid), fmt.Sprint("pid:", os.Getpid()), "pid:1",
	} {
		said, code := h.asked(t, login)
		// Who may enter processes hears of one why not it.
		sentence := strings.HasSuffix(said, ": no container of that name is yours to enter\n") ||
			strings.HasSuffix(said, " is the kernel's\n") || strings.Contains(said, " is only a thread of process ") || strings.HasSuffix(said, " is this server itself\n")
		if code != 255 || strings.Count(said, "\n") != 1 || !sentence || len(said) > 400 || hostile(said) {
			t.Errorf("%.40q: exit status %d, %q", login, code, said)
		}
		r := h.last(t, audit.SessionDenied)
		if r.Detail == "" || r.Person.Name != "alice" || len(login) < 4096 && r.Login != login && !hostile(login) {
			t.Errorf("%.40q: recorded as %+v", login, r)
		}
	}
	if opened := h.recorded(t, audit.SessionOpen); len(opened) > 0 {
		t.Errorf("entered: %+v", opened)
	}
}

// hostile text has what a terminal or a log must not be shown.
func hostile(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsAny(strings.TrimSuffix(s, "\n"), "\x1b\x00\n\u202e")
}

// kernelThread is one that everybody has: kthreadd.
func kernelThread(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-x", "kthreadd").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// otherThread is one of ours that is not our first.
func otherThread(t *testing.T) int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(threads, func(e os.DirEntry) bool { return e.Name() != strconv.Itoa(os.Getpid()) })
	if i < 0 {
		t.Fatal("no other thread")
	}
	tid, _ := strconv.Atoi(threads[i].Name())
	return tid
}

// The engines are stopped at first, which is worse than dead: they take
// questions and do not answer.
func TestContainersAreEnteredWhileTheirEnginesHangOrAreDead(t *testing.T) {
	docker := rig.NewDocker(t)
	web := docker.Run(t, "web-1", "--label", "env=prod")
	containerd := rig.NewContainerd(t)
	task := containerd.Run(t, "default", "web-task")
	pod := containerd.Pod(t, "prod", "web-pod", "nginx")[1]
	h := newHost(t, nil)
	h.write(t, "config.yaml", fmt.Sprintf(everybody, toolsImage(t), fmt.Sprintf("docker: {socket: %q, root: %q}, containerd: {root: %q}, cri: {containerd: %q}",
		docker.Socket, docker.Root, containerd.State, containerd.State), publicKey(t, "alice"), publicKey(t, "bob")))
	h.edit(t, `{name: "*"}, {runtime: pid}], allow: [shell]}`+"\n  - {name: same", `{labels: {env: prod}}, {runtime: cri}, {runtime: containerd}], allow: [shell]}`+"\n  - {name: same")
	h.start(t)
	for _, state := range []string{"stopped", "killed"} {
		for _, pid := range []int{docker.PID(), containerd.PID()} {
			signalTo(t, pid, state)
		}
		for login, c := range map[string]rig.Container{
			"web-1": web, web.ID[:12]: web, fmt.Sprint("pid:", web.PID): web,
			"web-task": task, fmt.Sprint("pid:", task.PID): task,
			"prod/web-pod/nginx": pod, "prod/web-pod": pod, pod.ID: pod,
		} {
			h.run(t, "alice", login, "echo in").is(t, result{stdout: "in\n"})
			r := h.last(t, audit.SessionOpen)
			if r.Target.PID != c.PID || !strings.HasPrefix(r.Target.Source, "/") || strings.HasSuffix(r.Target.Source, ".sock") {
				t.Errorf("%s, while its engine is %s: %+v, want process %d and a file for a source", login, state, r.Target, c.PID)
			}
		}
	}
}

func signalTo(t *testing.T, pid int, state string) {
	t.Helper()
	sig := map[string]syscall.Signal{"stopped": syscall.SIGSTOP, "killed": syscall.SIGKILL}[state]
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}
