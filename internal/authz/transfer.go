package authz

import (
	"path"
	"regexp"
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

// isPlainTransfer tells whether a command is one side of a transfer and can be
// nothing else. TransferOf takes what may be one, which is right for what is to be
// refused. For who has no shell it must be one: scp -S and rsync -e run what they name,
// and rsync --log-file writes there. It is what OpenSSH's scp sends, and rrsync(1)
// takes of rsync's options; -s is none, for with it they would come by another way.
func isPlainTransfer(argv []string) bool {
	switch argv[0] {
	case "scp":
		return isPlainSCP(argv[1:])
	case "rsync":
		return isPlainRsync(argv[1:])
	case "sftp-server", "internal-sftp":
		return len(argv) == 1
	}
	return false // /tmp/scp, too: they may have sent another program of that name
}

var (
	scpFlags    = regexp.MustCompile(`^-[vrpdq]*[tf]?[vrpdq]*$`)
	rsyncFlags  = regexp.MustCompile(`^-[ACDEHIJKLNORSUWXbcdgklmnopqrtuvxyz]*(e[0-9]*\.[0-9A-Za-z]*)?$`)
	rsyncOption = regexp.MustCompile(`^--((append|checksum|delete(-after|-before|-delay|-during|-excluded|-missing-args)?|existing|force|from0|fsync|fuzzy|group|hard-links|ignore-(errors|existing|missing-args|times)|inplace|links|list-only|mkpath|new-compress|old-compress|no-implied-dirs|no-r|no-relative|no-specials|numeric-ids|omit-dir-times|omit-link-times|one-file-system|open-noatime|owner|partial|perms|preallocate|recursive|relative|size-only|sparse|specials|stats|times|whole-file)|(block-size|bwlimit|checksum-seed|compress-level|max-delete|max-size|min-size|modify-window|timeout)=[0-9.]+[KMGkmg]?|(checksum-choice|compress-choice)=[0-9a-z,]+|log-format=[%A-Za-z]*)$`)
)

func isPlainSCP(args []string) bool {
	modes := 0
	for len(args) > 1 && args[0] != "--" && scpFlags.MatchString(args[0]) {
		modes += strings.Count(args[0], "t") + strings.Count(args[0], "f")
		args = args[1:]
	}
	if len(args) == 2 && args[0] == "--" {
		return modes == 1
	}
	return modes == 1 && len(args) == 1 && !strings.HasPrefix(args[0], "-")
}

func isPlainRsync(args []string) bool {
	if len(args) == 0 || args[0] != "--server" {
		return false
	}
	args = args[1:]
	if len(args) > 0 && args[0] == "--sender" {
		args = args[1:]
	}
	for len(args) > 0 && (rsyncFlags.MatchString(args[0]) || rsyncOption.MatchString(args[0])) {
		args = args[1:]
	}
	isOption := func(arg string) bool { return strings.HasPrefix(arg, "-") }
	return len(args) >= 2 && args[0] == "." && !slices.ContainsFunc(args[1:], isOption)
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
	if !isPlainTransfer(argv) {
		return r.no("not as the stock clients ask for a transfer, and with other arguments these programs run others")
	}
	d.Argv = argv
	return r.yes(why, d)
}
