package nsexec

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
		"HISTFILE=",      // nothing is left in the container,
		"LESSHISTFILE=-", // not even a history
	}
}
