package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
)

// A step is one thing that a person would do, and what is to come of it.
type step struct {
	title      string
	key, login string
	args       []string // further ones of ssh
	typed      string
	code       int
	want       []string // in what the terminal shows
}

var steps = []step{
	{title: "a shell in a container that has none", key: "alice", login: "web-1", args: []string{"-tt"},
		typed: "curl -s localhost:8080\nps\nls /\ntcpdump --version\nexit\n",
		want:  []string{"alice in web-1 · recorded as ", " · rule demo", "hello from web-1", "web", "tcpdump version"}},
	{title: "a command", key: "alice", login: "web-1", args: []string{"ps aux | grep '[d]emo-web'"}, want: []string{"web demo-web"}},
	{title: "its exit status", key: "alice", login: "web-1", args: []string{"exit 7"}, code: 7},
	{title: "somebody without a key of the policy", key: "mallory", login: "web-1", args: []string{"true"}, code: 255,
		want: []string{"Permission denied"}},
	{title: "a container that is not there, or not hers", key: "alice", login: "db-1", args: []string{"true"}, code: 255,
		want: []string{"no container of that name is yours to enter"}},
}

// drive takes every step with the stock ssh client, and shows it. It fails at
// the first that goes otherwise than it should.
func (d *demo) drive(ctx context.Context, out io.Writer) error {
	for _, s := range steps {
		if err := d.take(ctx, s, out); err != nil {
			return fmt.Errorf("demo: %s: %w", s.title, err)
		}
	}
	if err := d.readBack(out); err != nil {
		return fmt.Errorf("demo: the record: %w", err)
	}
	if err := d.nothingLeft(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Fprintln(out, "\nnothing is left in the container. All of it went as it should.")
	return nil
}

func (d *demo) take(ctx context.Context, s step, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	argv := d.ssh(s.key, s.login, s.args...)
	fmt.Fprintf(out, "\n# %s\n$ ssh -p %d -i %s %s@localhost %s\n", s.title, d.port, s.key, s.login, quoted(s.args))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(s.typed)
	cmd.Env = append(os.Environ(), "TERM=dumb") // what is shown may go to a file
	var shown bytes.Buffer
	cmd.Stdout, cmd.Stderr = &shown, &shown
	err := cmd.Run()
	fmt.Fprintln(out, strings.TrimRight(forFiles.Replace(shown.String()), "\n"))
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return fmt.Errorf("%w (the OpenSSH client is needed: apt-get install openssh-client)", err)
	}
	code := cmd.ProcessState.ExitCode()
	fmt.Fprintf(out, "$ echo $?\n%d\n", code)
	if code != s.code {
		return fmt.Errorf("exit status %d, not %d", code, s.code)
	}
	for _, want := range s.want {
		if !strings.Contains(shown.String(), want) {
			return fmt.Errorf("%q was not shown", want)
		}
	}
	return nil
}

// forFiles takes out what only a terminal wants: carriage returns, and bash's
// word that it takes bracketed paste.
var forFiles = strings.NewReplacer("\x1b[?2004h", "", "\x1b[?2004l\r", "", "\r\n", "\n")

// quoted is arguments as they would be typed.
func quoted(args []string) string {
	var words []string
	for _, arg := range args {
		if strings.ContainsAny(arg, " |'\"") {
			arg = `"` + arg + `"` // none of ours has a " or $ in it
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// readBack shows the journal, and finds in a recording what was on the screen.
func (d *demo) readBack(out io.Writer) error {
	dir := d.daemon.cfg.Record.Dir
	fmt.Fprintln(out, "\n# the record of it")
	count := map[string]int{}
	var recorded string
	for r, err := range audit.ReadJournal(dir) {
		if err != nil {
			return err
		}
		count[r.Event]++
		fmt.Fprintln(out, line(r))
		if r.Event == audit.SessionClose && r.Recording != nil {
			recorded = r.Session
		}
	}
	for event, want := range map[string]int{audit.SessionOpen: 3, audit.SessionClose: 3, audit.SessionDenied: 1, audit.SigninFailed: 1} {
		if count[event] != want {
			return fmt.Errorf("%d times %s, not %d", count[event], event, want)
		}
	}
	text, err := audit.Transcript(dir, recorded)
	if err != nil {
		return err
	}
	if !strings.Contains(text, "hello from web-1") {
		return errors.New("the recording does not hold what was shown")
	}
	fmt.Fprintf(out, "and the recording of the shell holds its %d characters\n", len(text))
	return nil
}

// line is a record for people.
func line(r audit.Record) string {
	words := []string{r.Time.Format(time.TimeOnly), r.Event}
	if r.Person != nil && r.Person.Name != "" {
		words = append(words, r.Person.Name)
	}
	if r.Login != "" {
		words = append(words, "→ "+audit.Printable(r.Login))
	}
	if r.Command != "" {
		words = append(words, fmt.Sprintf("%q", r.Command))
	}
	if r.Exit != nil {
		words = append(words, fmt.Sprintf("%s, status %d, %d bytes out", r.Exit.Reason, r.Exit.Code, r.Exit.BytesOut))
	}
	if r.Detail != "" {
		words = append(words, "("+audit.Printable(r.Detail)+")")
	}
	return strings.Join(words, " ")
}

// nothingLeft looks at the container from outside.
func (d *demo) nothingLeft() error {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.web.container.Process.Pid))
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte("crashcart")) {
		return errors.New("the tools are still mounted")
	}
	devices, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/dev", d.web.container.Process.Pid))
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		return fmt.Errorf("something is left in /dev: %s", devices[0].Name())
	}
	return nil
}
