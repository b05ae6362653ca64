package authz

import (
	"path"
	"slices"
	"strings"
)

// TransferOf tells what file transfer a command is the container's side of, as
// scp -O, rsync and sftp -s ask for it. It looks for what the stock clients send:
// whoever has a shell can move files in as many ways as they can spell.
//
// No way is both ways: all that sftp-server can be asked for, or what contradicts
// itself.
func TransferOf(command string) (kind Kind, way Direction, ok bool) {
	argv, err := Split(command)
	if err != nil || len(argv) == 0 {
		return "", "", false
	}
	args := argv[1:]
	switch path.Base(argv[0]) {
	case "scp":
		return scpOf(args)
	case "rsync":
		return rsyncOf(args)
	case "sftp-server", "internal-sftp":
		return SFTP, "", true
	}
	return "", "", false
}

// scpOf looks at all that may be flags, wherever they stand.
func scpOf(args []string) (Kind, Direction, bool) {
	up, down := hasFlag(args, 't'), hasFlag(args, 'f')
	switch {
	case up && down:
		return SCP, "", true
	case up:
		return SCP, Up, true
	case down:
		return SCP, Down, true
	}
	return "", "", false
}

// hasFlag finds a letter by itself or among others, as in -t and -rt, but not in
// the value of another, as in -oPort=22.
func hasFlag(args []string, letter byte) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		flags, ok := strings.CutPrefix(arg, "-")
		if i := strings.IndexAny(flags, scpValued); i >= 0 {
			flags = flags[:i]
		}
		return ok && strings.IndexByte(flags, letter) >= 0
	})
}

// scpValued are the flags of scp(1) that a value follows; "-" is for --.
const scpValued = "-cDFiJlMoPSX"

// rsyncDaemon is no way of a transfer, so that nothing can allow it: a daemon
// runs what the file says that its client names.
const rsyncDaemon Direction = "daemon"

func rsyncOf(args []string) (Kind, Direction, bool) {
	switch {
	case !slices.Contains(args, "--server"):
		return "", "", false
	case slices.Contains(args, "--daemon"):
		return Rsync, rsyncDaemon, true
	case slices.Contains(args, "--sender"):
		return Rsync, Down, true
	}
	return Rsync, Up, true
}

// transferring is what is asked by a command that is one side of a transfer:
// that of files, and not that of a command.
func transferring(what Request) Request {
	if what.Kind != Exec {
		return what
	}
	if kind, way, ok := TransferOf(what.Command); ok {
		what.Kind, what.Object = kind, string(way)
	}
	return what
}

func isTransfer(kind Kind) bool { return kind == SFTP || kind == SCP || kind == Rsync }

// transfers tells whether files may go a way, or both ways.
func (a permissions) transfers(kind Kind, way Direction) bool {
	if way == "" {
		return a.has(kind+":"+Kind(Up)) && a.has(kind+":"+Kind(Down))
	}
	return a.has(kind + ":" + Kind(way))
}

// decideTransfer is for what the rule allows. Who has no shell gets none with
// it, and no program but the one of that name: they may have sent another.
func (r *rule) decideTransfer(what Request) Decision {
	why, d := string(what.Kind)+" allowed", Decision{Command: what.Command}
	if what.Command == "" || r.allowed.has(Shell) {
		return r.yes(why, d)
	}
	argv, err := Split(what.Command)
	if err != nil {
		return r.no(err.Error())
	}
	if strings.Contains(argv[0], "/") {
		return r.no(argv[0] + ": files are sent by the bare name of a program only, for who has no shell")
	}
	d.Argv = argv
	return r.yes(why, d)
}
