package nsexec

// Where the tools are, as seen from inside.
const tools = "/dev/crashcart"

// Environ is the environment in which the tools find their own files and leave
// none of theirs behind. Nothing in it is the host's or the container's.
func Environ() []string {
	return []string{
		"PATH=" + tools + "/bin:" + tools + "/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + tools, // has no files of the container: .curlrc, .lesskey, .vimrc
		"USER=root",
		"LOGNAME=root",
		"SHELL=" + tools + "/bin/bash",
		"TERMINFO_DIRS=" + tools + "/share/terminfo",
		"SSL_CERT_FILE=" + tools + "/share/ca-certificates.crt",
		"INPUTRC=" + tools + "/inputrc",
		"HISTFILE=",      // nothing is left in the container,
		"LESSHISTFILE=-", // not even a history
	}
}
