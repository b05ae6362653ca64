package nsexec

import (
	"cmp"
	"slices"
	"strings"
)

// Tools is where the tools are, as seen from inside.
const Tools = "/dev/crashcart"

// Environ is the environment in which the tools find their own files and leave
// none of theirs behind. Nothing in it is the host's or the container's.
func Environ() []string {
	return []string{
		"PATH=" + Tools + "/bin:" + Tools + "/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + Tools, // has no files of the container: .curlrc, .lesskey, .vimrc
		"USER=root",
		"LOGNAME=root",
		"SHELL=" + Tools + "/bin/bash",
		"TERMINFO_DIRS=" + Tools + "/share/terminfo",
		"SSL_CERT_FILE=" + Tools + "/share/ca-certificates.crt",
		"INPUTRC=" + Tools + "/inputrc",
		"EDITOR=vi", // or more(1) and less(1) would run one of the container's
		"PAGER=less",
		"HISTFILE=",      // nothing is left in the container,
		"LESSHISTFILE=-", // not even a history
	}
}

// environ is env without root's name, if the session is somebody else: what
// their name is, only a file of the container's would tell.
func (r room) environ(env []string) []string {
	if r.user.UID == 0 {
		return env
	}
	return slices.DeleteFunc(slices.Clone(env), func(pair string) bool { return pair == "USER=root" || pair == "LOGNAME=root" })
}

// locales are the variables of setlocale(3).
var locales = []string{
	"LANG", "LC_ALL", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MONETARY", "LC_MESSAGES",
	"LC_PAPER", "LC_NAME", "LC_ADDRESS", "LC_TELEPHONE", "LC_MEASUREMENT", "LC_IDENTIFICATION",
}

// Locale makes the locale that somebody has one that the tools have, if it is
// in UTF-8 or not told. They have but C.UTF-8: of de_DE.UTF-8 they would know
// neither the language nor that "ä" is one letter, and with LC_ALL each bash
// would say so. LC_CTYPE is all that C.UTF-8 has of its own, and one file to
// read instead of twelve.
//
// What else is in the environment, and any other locale, stays.
func Locale(env []string) []string {
	value := func(name string) string {
		i := slices.IndexFunc(env, func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
		if i < 0 {
			return ""
		}
		return env[i][len(name)+1:]
	}
	if !inUTF8(cmp.Or(value("LC_ALL"), value("LC_CTYPE"), value("LANG"), "C.UTF-8")) {
		return env
	}
	env = slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains(locales, name)
	})
	return append(env, "LC_CTYPE=C.UTF-8")
}

func inUTF8(locale string) bool {
	_, codeset, ok := strings.Cut(locale, ".")
	if !ok {
		codeset = locale // macOS has LC_CTYPE=UTF-8
	}
	codeset, _, _ = strings.Cut(codeset, "@")
	return strings.EqualFold(strings.ReplaceAll(codeset, "-", ""), "utf8")
}
