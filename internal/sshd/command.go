package sshd

import (
	"slices"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
)

// enter starts a command in its container, with a mount of the tools of its own.
func (s *Server) enter(cmd *nsexec.Cmd, tools Tools) (process, error) {
	if s.start != nil {
		return s.start(cmd)
	}
	userns, err := nsexec.Userns(cmd.Target)
	if err != nil {
		return nil, err
	}
	if userns != nil {
		defer userns.Close()
	}
	cmd.Tools, err = tools.Mount(userns)
	if err != nil {
		return nil, err
	}
	defer cmd.Tools.Close()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd, nil
}

// privileges is what a command is given.
func (s *Server) privileges(cmd *nsexec.Cmd) (nsexec.Privileges, error) {
	if s.start != nil {
		return nsexec.Privileges{}, nil
	}
	return cmd.Privileges()
}

// profile is what a rule's terms mean.
func profile(t authz.Terms) nsexec.Profile {
	p := nsexec.Profile{
		Name:         t.Profile,
		CapAdd:       t.CapAdd,
		CapDrop:      t.CapDrop,
		Namespaces:   t.Namespaces,
		Host:         t.Host,
		TargetCgroup: t.Cgroup == authz.CgroupTarget,
		Memory:       t.Memory,
		Processes:    t.Pids,
		SeccompMust:  t.SeccompMust,
	}
	if t.User != "" {
		p.User, _ = nsexec.ParseUser(t.User) // which has read it before: authz.Known
	}
	return p
}

// fill makes of a command what was asked.
func (s *session) fill(cmd *nsexec.Cmd, ask ask, who authz.Subject, target *router.Target, d authz.Decision) {
	cmd.Env, cmd.TTY = s.environment(ask, who, target, d), s.streams.tty
	cmd.ID = s.record.ID()
	cmd.Path, cmd.Args = program(ask, s.pty != nil, d)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.streams.theirs[0], s.streams.theirs[1], s.streams.theirs[2]
}

// program is the image's bash, which does what ssh users expect of a login
// shell; or, for whom the policy allows only certain commands, such a command
// itself, with no shell in between.
func program(ask ask, pty bool, d authz.Decision) (path string, argv []string) {
	const bash = nsexec.Tools + "/bin/bash"
	switch {
	case d.Argv != nil:
		return d.Argv[0], d.Argv
	case ask.kind == authz.Exec || d.Command != "":
		return bash, []string{"bash", "-c", d.Command}
	case pty:
		return bash, []string{"bash", "--rcfile", nsexec.Tools + "/.crashcartrc", "-i"}
	}
	return bash, []string{"bash"} // commands come on stdin: ssh -T web-1 <script
}

// environment is the whole environment of a command, as the image's package
// documentation asks for it. Nothing of it is the daemon's own, and no path in
// it leads to a file of the container, which could be anybody's.
func (s *session) environment(ask ask, who authz.Subject, target *router.Target, d authz.Decision) []string {
	env := append(nsexec.Environ(),
		"CARTSSHD_PERSON="+audit.Printable(who.Person),
		"CARTSSHD_TARGET="+label(target),
		"CARTSSHD_SESSION="+s.record.ID(),
	)
	if s.pty != nil {
		env = append(env, "TERM="+s.pty.term)
	}
	if who.Bounds.Command != "" && ask.command != "" {
		env = append(env, "SSH_ORIGINAL_COMMAND="+ask.command) // as sshd(8) tells it
	}
	for _, pair := range append(nsexec.Locale(s.env), s.allowed(d.Terms)...) {
		name, _, _ := strings.Cut(pair, "=")
		has := func(other string) bool { return strings.HasPrefix(other, name+"=") }
		if !slices.ContainsFunc(env, has) {
			env = append(env, pair)
		}
	}
	return env
}

// askedFor is what a client asked for, in words.
func askedFor(ask ask) string {
	if ask.kind == authz.Shell {
		return "a shell"
	}
	return ask.command
}

// allowed are the variables that the client has sent and the rule lets in. Some
// none may.
func (s *session) allowed(t authz.Terms) (pairs []string) {
	for _, v := range s.wanted {
		if !authz.Dangerous(v.name) && slices.ContainsFunc(t.Env, func(g authz.Glob) bool { return g.Match(v.name) }) {
			pairs = append(pairs, v.name+"="+v.value)
		}
	}
	return pairs
}

func (s *session) greeting(who authz.Subject, target *router.Target, d authz.Decision) string {
	recorded := "recorded as"
	if d.Terms.Output == authz.OutputNone {
		recorded = "screen not recorded, in the journal as"
	}
	words := []string{
		audit.Printable(who.Person) + " in " + label(target),
		recorded + " " + s.record.ID(),
		"rule " + audit.Printable(d.Rule),
	}
	words = append(words, ends(who, d.Terms, time.Now())...)
	return strings.Join(words, " · ") + "\r\n"
}
