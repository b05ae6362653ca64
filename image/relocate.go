package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// relocate makes an object find everything in the image that it would find in
// a Debian root, and nothing in the container that could steer it: libraries,
// plugins, translations (format strings), start-up files.
//
// Names that are meant to be the container's stay: /etc/passwd, /etc/hosts,
// /etc/resolv.conf, /proc, /bin/sh.
func (o *object) relocate(a arch) error {
	if err := o.setInterp(Root + "/ld.so"); err != nil {
		return err
	}
	o.dropRunpath()
	for _, e := range paths(a) {
		o.edit(e)
	}
	o.stayRoot(a)
	return o.relocateOpenSSL()
}

// stayRoot keeps tcpdump from becoming the user that Debian and Fedora build
// into it, whom few containers have. Our own name service says that it is root
// (see nss.c); but where the container does have one, or root may not change
// users, that does not help. So the pointer to the name becomes nil, in the
// makes that are known, as if none had been built in. -Z still works.
//
// Debian's gives a file that it writes to that user, too, and Debian 12's does
// not ask whether there is one: that one gives none away any more.
func (o *object) stayRoot(a arch) {
	const user = "\x00tcpdump\x00"
	if !o.says("Couldn't find user '%.32s'\x00") || a.nilPointer == nil || !o.keepsFiles(a) {
		return
	}
	for _, addr := range o.addresses(user) {
		for _, s := range o.code() {
			a.nilPointer(s.data, s.addr, addr+1)
		}
	}
}

// keepsFiles says whether a tcpdump may know no user when it writes a file.
func (o *object) keepsFiles(a arch) bool {
	if !o.says("Couldn't change ownership of savefile\x00") {
		return true
	}
	return slices.ContainsFunc(a.chowns, func(p patch) bool { return o.editCode(p) == 1 })
}

// relocateOpenSSL moves openssl.cnf, which can name a library to load. Its
// path is put together of directory, "/" and file; only the two halves have
// room enough, as "/dev" and "crashcart/o".
func (o *object) relocateOpenSSL() error {
	dirs := o.edit(whole("/usr/lib/ssl", "/dev"))
	if dirs == 0 {
		return nil
	}
	if files := o.edit(whole("openssl.cnf", "crashcart/o")); files == 0 {
		return errors.New("it names OpenSSL's directory, and no openssl.cnf in it")
	}
	return nil
}

// nscd is the daemon of glibc's that is asked before /etc/passwd is read, in
// memory that it shares: the container's could rewrite what is being looked at.
// The path is put together of these sixteen bytes and of "/socket", one over
// the other, which leaves no room for one in the image.
var nscd = prefix("/var/run/nscd/so", "/proc/version/so")

// paths are the edits of every file but the loader, whole strings before
// prefixes. Most targets are a lucky length: no target may be longer than what
// it replaces, hence the one-letter names in the image's root (see addOwn).
// What only ever names code or start-up files of the container's is blanked.
func paths(a arch) []edit {
	usrlib, lib := "/usr/lib/"+a.multiarch, "/lib/"+a.multiarch
	return []edit{
		// libtinfo.
		whole("/etc/terminfo:/lib/terminfo:/usr/share/terminfo", Root+"/share/terminfo"),
		whole("/etc/terminfo:/usr/share/terminfo", Root+"/share/terminfo"),
		whole("/usr/share/terminfo", Root+"/term"),
		blank("/etc/terminfo"), blank("%s/.terminfo"),

		// The shell of system(3) and popen(3): the session's /dev has a link to
		// the image's.
		whole("/bin/sh", "/dev/sh"),

		// Start-up files of shells, pagers and editors.
		whole("/etc/bash.bashrc", Root+"/r"),
		blank("/etc/profile"), blank("~/.profile"), blank("~/.bash_profile"), blank("~/.bash_login"),
		blank("~/.bashrc"), blank("~/.bash_logout"), whole("~/.bash_history", "/dev/null"), whole("~/.sh_history", "/dev/null"), blank("/etc/bash.bash_logout"),
		blank("/etc/inputrc"), blank("~/.inputrc"),
		blank("/etc/toprc"), blank("/etc/topdefaultrc"), blank("%s/.%src"), blank("%s/procps/%src"),
		blank(".curlrc"), {old: "Disable .curlrc\x00", new: "Disable \x00curlrc\x00"}, // one is the other's tail
		blank("/etc/sysless"), blank("/etc/syslesskey"), blank("/usr/bin/.sysless"),
		whole("/etc/vim/vimrc.tiny", Root+"/v"), whole("/etc/vim/vimrc", "$VIM/vimrc"), whole("/etc/vimrc", "$VIM/vimrc"), whole("$HOME/.vimrc", "/dev/null"), whole("~/.vim/vimrc", "/dev/null"),
		prefix("/usr/share/vim", Root),
		whole("~/.vim,"+vimAddons+",~/.vim/after", "$VIMRUNTIME"), whole(vimAddons, "$VIMRUNTIME"),
		blank("~/.lesskey"), blank(".lesskey"), blank("/etc/nanorc"), blank("/etc/htoprc"), blank("/etc/wgetrc"),
		blank("%s/.digrc"), blank("~/.jq"), whole("/.jq", "/"), blank("~/.ltrace.conf"), whole("/etc/ltrace.conf", Root+"/l"),
		blank("/etc/gdb/gdbinit"), blank("/etc/gdb/gdbinit.d"), prefix("/usr/share/gdb", Root),

		// Programs of the container's that ours would run: to mount, to page, to
		// edit, to reach another machine for tar.
		edit{old: "/sbin:/sbin/fs.dn/fs.d:/sbin/fs\x00", new: "/dev/crashcart/\x00hcart/" + strings.Repeat("\x00", 10)}, // the halves of one, as they are loaded
		whole("/sbin:/sbin/fs.d:/sbin/fs", Root),
		whole("/bin/bash", "/dev/sh"), blank("/bin/ex"), blank("/usr/bin/vi"), blank("/usr/bin/editor"),
		blank("/usr/bin/pr"), blank("/usr/bin/rsh"), blank("/usr/sbin/rmt"), blank("/etc/hosts.allow"), blank("/etc/hosts.deny"),

		// Settings, colours (escape sequences) and trust of the container's.
		blank("/etc/terminal-colors.d"), blank("%s/terminal-colors.d"), blank("%s/.config/terminal-colors.d"),
		blank("/etc/malloc.conf"), blank("/etc/bind/bind.keys"), blank("%s/.magic.mgc"), blank("%s/.magic"), blank("/etc/selinux/config"),
		blank("/etc/postgresql-common"), prefix("/usr/share/wireshark", Root+"/ws"), blank("/etc/blkid.conf"),
		whole("/tmp/.nstat.u%d", "/dev/.nstat.u%d"), // a session's /dev goes with it

		// Lists of plugins: GSSAPI, Kerberos, PKCS#11, LDAP, SASL.
		blank("/etc/gss/mech"), blank("/etc/gss/mech.d/*.conf"), blank("/etc/krb5.conf"),
		blank("/etc/pkcs11/pkcs11.conf"), blank("/etc/pkcs11/modules"), blank("/usr/share/p11-kit/modules"),
		blank("~/.config/pkcs11/pkcs11.conf"), blank("~/.config/pkcs11/modules"),
		blank("/etc/gnutls/config"), blank("/etc/gnutls/pkcs11.conf"), blank("/etc/ldap/ldap.conf"),
		whole("/etc/sasl2:/etc/sasl:"+usrlib+"/sasl2:/usr/lib/sasl2", Root+"/lib"),

		// Certificates.
		whole("/usr/lib/ssl/certs", Root),
		whole("/usr/lib/ssl/private", Root),
		whole("/usr/lib/ssl/cert.pem", Root+"/ca.crt"),
		whole("/usr/lib/ssl/ct_log_list.cnf", Root+"/ct"),
		prefix("/etc/ssl/certs", Root),

		// libmagic appends ".mgc".
		whole("/etc/magic:/usr/share/misc/magic", Root+"/share/magic"),

		// The plugins themselves: gconv, OpenSSL's engines, tc's disciplines.
		blank(gconvPath),
		whole(usrlib, Root+"/lib"), whole(lib, Root+"/lib"),
		prefix(usrlib+"/", Root+"/lib/"), prefix(lib+"/", Root+"/lib/"),

		// Who people are, and what time it is elsewhere.
		whole("/etc/nsswitch.conf", Root+"/nss"),
		whole("/usr/share/zoneinfo", Root+"/tz"),

		// Locales, and translations, which are format strings.
		prefix("/usr/share/locale", Root+"/lc"),
		prefix("/usr/lib/locale", Root),

		nscd,
	}
}

// vimAddons is where Debian's vim looks for plugins.
const vimAddons = "/var/lib/vim/addons,/etc/vim,$VIM/vimfiles,$VIMRUNTIME,$VIM/vimfiles/after,/etc/vim/after,/var/lib/vim/addons/after"

// relocateLoader turns the C library's loader into the image's own: it looks
// into the image only, has neither a cache nor a preload file of the
// container's, and knows none of the LD_ variables.
//
// Every pattern must be there. A loader of another make would otherwise be
// half private, and nobody would know.
func (o *object) relocateLoader(a arch) error {
	return madePrivate("loader", []edited{
		{"the table of system directories", o.edit(systemDirs(a)), 1, 2},
		{"the cache file", o.edit(whole(ldCache, Root+"/c")), 1, 1},
		{"the preload file", o.edit(whole("/etc/ld.so.preload", Root+"/pre")), 1, 1},
		{"the search for LD_ variables", o.forgetLD(a), 1, 1},
	})
}

const (
	ldCache       = "/etc/ld.so.cache"
	ldLibraryPath = "LD_LIBRARY_PATH"
	gconvPath     = "GCONV_PATH"
)

// loads says that a static program of glibc has a loader in it, as most have:
// for modules of nsswitch.conf and of iconv.
func (o *object) loads() bool {
	return o.says("\x00" + ldLibraryPath + "\x00")
}

func (o *object) says(text string) bool { return len(o.addresses(text)) > 0 }

// relocateStatic does to the loader within a static program what relocateLoader
// does to the other, and leaves it nothing to load: files and dns of
// nsswitch.conf are built in, any further module is "/", a directory in every
// container. Locales and translations are no code, but nobody has checked them
// either.
//
// It comes before relocate, which would change some of the table. Directories
// are edited as prefixes: what follows the NUL of a shorter one would be a
// second one in a list, the container's root.
func (o *object) relocateStatic(a arch) error {
	usrlib := "/usr/lib/" + a.multiarch
	return madePrivate("static program", []edited{
		{"the table of system directories", o.edit(systemDirs(a)), 1, 1},
		{"the cache file", o.edit(whole(ldCache, Root+"/c")), 1, 1},
		{ldLibraryPath, o.edit(blank(ldLibraryPath)), 1, 2}, // the second is of a list for setuid programs
		{gconvPath, o.edit(blank(gconvPath)), 1, 2},
		{"the modules of nsswitch.conf", o.edit(whole("libnss_%s.so%s", "/")), 1, 1},
		{"the directory of gconv", o.edit(prefix(usrlib+"/gconv", Root+"/lib/gconv")), 2, 2},
		{"the directory of locales", o.edit(prefix("/usr/lib/locale", Root)), 2, 2},
		{"the directory of translations", o.edit(prefix("/usr/share/locale", Root+"/lc")), 1, 2},
		{"nscd's socket", o.edit(nscd), 1, 1},
	})
}

// edited is an edit that must not be missing, and has a number of places.
type edited struct {
	what               string
	found, least, most int
}

func madePrivate(kind string, edits []edited) error {
	for _, e := range edits {
		if e.found < e.least || e.found > e.most {
			return fmt.Errorf("%s: found %d times: not a %s that can be made private (known: glibc 2.36)", e.what, e.found, kind)
		}
	}
	return nil
}

// forgetLD makes the loader's loop over the environment skip every variable
// rather than those that do not begin with LD_: one conditional branch becomes
// an unconditional one. The names themselves are no strings that could be
// edited; compilers turn them into immediates.
func (o *object) forgetLD(a arch) int { return o.editCode(a.ldTest) }

// editCode patches code, and returns how often it found it.
func (o *object) editCode(p patch) int {
	n := 0
	for _, s := range o.code() {
		code := s.data
		for ; len(code) >= len(p.code); code = code[1:] {
			if !matches(code, p.code) {
				continue
			}
			if p.edit != nil {
				p.edit(code)
			}
			n++
		}
	}
	return n
}

func matches(code []byte, pattern []int) bool {
	for i, want := range pattern {
		if want >= 0 && int(code[i]) != want {
			return false
		}
	}
	return true
}

// systemDirs edits the loader's table of trusted directories: four strings in
// a row, their lengths kept elsewhere. The first becomes the image's. The
// others have no room for it and become "/" and NULs: the name of a library in
// them is then the name of a directory, which is no library in any container.
// (They must begin with a slash, which the loader asserts.)
func systemDirs(a arch) edit {
	dirs := []string{"/lib/" + a.multiarch + "/", "/usr/lib/" + a.multiarch + "/", "/lib/", "/usr/lib/"}
	e := edit{new: prefix(dirs[0], Root+"/lib/").new + "\x00"}
	for i, dir := range dirs {
		e.old += dir + "\x00"
		if i > 0 {
			e.new += "/" + strings.Repeat("\x00", len(dir))
		}
	}
	return e
}
