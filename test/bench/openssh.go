package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// sshdConfig is OpenSSH without what is not the point: PAM, DNS, banners.
const sshdConfig = `
ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
ForceCommand %s
PermitRootLogin yes
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
PidFile none
LogLevel ERROR
MaxStartups 10000
MaxSessions 10000
`

// quietly runs sshd where its home is empty and its traces are not the host's:
// bash reads .bashrc for sshd, and a login is written to wtmp.
const quietly = `set -e
mount --bind "$1" "$2"
mount -t tmpfs none /var/log
touch /var/log/wtmp /var/log/lastlog
mkdir -p /run/sshd
exec "$3" -D -e -f "$4"
`

// startOpenSSH starts an sshd that forces a command for all who sign in; what
// they asked for is in $SSH_ORIGINAL_COMMAND. It is split at blanks by sshd's
// shell, and run by no other.
func (b *bench) startOpenSSH(name, forced string) (*server, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, fmt.Errorf("bench: sshd: %w (try: apt-get install openssh-server)", err)
	}
	s, hostKey, err := b.newServer(name, "root")
	if err != nil {
		return nil, err
	}
	if s.key, err = newKey(b.dir, name+".key"); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, name)
	keys, config, home := dir+".authorized", dir+".conf", dir+".home"
	text := fmt.Sprintf(sshdConfig, s.addr, hostKey, keys, forced)
	if err := firstError(
		os.Mkdir(home, 0o700),
		os.WriteFile(keys, []byte(s.key.line()+"\n"), 0o600),
		os.WriteFile(config, []byte(text), 0o600),
	); err != nil {
		return nil, err
	}
	cmd := exec.Command("sh", "-c", quietly, "sh", home, rootHome(), sshd, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return s, b.launch(s, cmd)
}

// nsenter is how to enter the container by hand.
func nsenter(pid int) []string {
	return []string{"nsenter", "-t", fmt.Sprint(pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"}
}

// dockerExec is how Docker enters it.
func (b *bench) dockerExec() []string {
	return []string{"docker", "-H", "unix://" + b.docker.Socket, "exec", "-i", b.patient.Name}
}

func forced(argv []string) string {
	return "exec " + strings.Join(argv, " ") + " $SSH_ORIGINAL_COMMAND"
}

func rootHome() string {
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) > 5 && f[0] == "root" {
			return f[5]
		}
	}
	return "/root"
}
