package image

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed files/crashcartrc
var crashcartrc []byte

//go:embed files/inputrc
var inputrc []byte

//go:embed files/vimrc
var vimrc []byte

//go:embed files/nsswitch.conf files/wgetrc files/nanorc files/htoprc files/tmux.conf
var settings embed.FS

// wrappers are scripts of the names of programs that have to be told something,
// as an edit could not: the program itself is in libexec.
//
//go:embed files/wrap
var wrappers embed.FS

// terminals that people have, or are given by screen and tmux. All of
// ncurses-term would be 2,700 files.
var terminals = []string{
	"xterm*", "screen*", "tmux*", "linux*", "vt1*", "vt2*", "ansi", "dumb", "rxvt*", "putty*", "cygwin",
	"alacritty*", "foot*", "kitty*", "ghostty*", "wezterm*", "konsole*", "gnome*", "vte*", "st", "st-*", "iterm*", "nsterm*", "mlterm*", "Eterm*", "sun", "unknown",
}

// data is what programs read, and what of the image has use for it: the name of
// a file in it, or "" for all.
var data = []struct {
	what, of string
	add      func(*tree, *source) (found bool, err error)
}{
	{"terminfo", "", (*tree).addTerminfo},
	{"CA certificates", "", (*tree).addCertificates},
	{"locale C.UTF-8", "", (*tree).addLocale},
	{"names of locales", "", (*tree).addLocaleNames},
	{"time zones", "", (*tree).addTimeZones},
	{"character sets", "", (*tree).addCharsets},
	{"magic.mgc of file(1)", "bin/file", (*tree).addMagic},
	{"vim's runtime files", "bin/vim", (*tree).addVim},
	{"nano's syntax files", "bin/nano", (*tree).addNano},
	{"gdb's data directory", "libexec/gdb", (*tree).addGDB},
	{"ltrace's prototypes", "bin/ltrace", (*tree).addLtrace},
	{"nmap's data files", "libexec/nmap", (*tree).addNmap},
	{"wireshark's data files", "bin/tshark", (*tree).addWireshark},
	{"Python's library", "libexec/python3", (*tree).addPython},
}

// addData brings in what programs read, and returns what the source lacks.
func (t *tree) addData(s *source) (missing []string, err error) {
	for _, d := range data {
		if d.of != "" && !t.files[d.of] {
			continue
		}
		found, e := d.add(t, s)
		err = errors.Join(err, e)
		if !found {
			missing = append(missing, d.what)
		}
	}
	return missing, err
}

// copy brings in a file or a folder of the source under another name: files
// that can be run with the libraries they need, and nothing whose last part
// matches one of skip.
func (t *tree) copy(s *source, from, to string, skip ...string) (found bool, err error) {
	from, err = s.resolve(from)
	if err != nil {
		return false, nil
	}
	root := s.host(from)
	return true, filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below := strings.TrimPrefix(strings.TrimPrefix(file, root), "/")
		skipped := func(pattern string) bool { ok, _ := path.Match(pattern, path.Base(below)); return ok }
		if slices.ContainsFunc(skip, skipped) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		return t.copyFile(s, path.Join(from, below), path.Join(to, below))
	})
}

// copyFile follows a symlink: where it leads may be nowhere in the image.
func (t *tree) copyFile(s *source, from, to string) error {
	real, err := s.resolve(from)
	if err != nil {
		return nil // it leads out of the package
	}
	st, err := os.Stat(s.host(real))
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	content, err := os.ReadFile(s.host(real))
	if err != nil {
		return err
	}
	if o, err := parseObject(content, t.arch); err == nil {
		t.need(o, path.Dir(real), to)
		if err := o.relocate(t.arch); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	t.owner[to] = s.owners[real]
	return t.write(to, content, 0o644)
}

// addTimeZones are for TZ=Europe/Paris. The container's own, /etc/localtime,
// stays its own.
func (t *tree) addTimeZones(s *source) (bool, error) {
	found, err := t.copy(s, "/usr/share/zoneinfo", "share/zoneinfo",
		"posix", "right", "localtime", "posixrules", "leapseconds", "leap-seconds.list", "+VERSION")
	return found, errors.Join(err, t.link("tz", "share/zoneinfo"))
}

// charsets are those of files that people still meet. All of them would be
// 250 modules.
var charsets = []string{"UTF-16", "UTF-32", "UTF-7", "ISO8859-1", "ISO8859-2", "ISO8859-15", "CP1250", "CP1251", "CP1252", "IBM850", "KOI8-R", "SJIS", "libJIS", "EUC-JP", "GBK", "libGB", "libKSC", "libCNS", "BIG5"}

// addCharsets are for iconv(1), and for gdb and vim, which convert too.
func (t *tree) addCharsets(s *source) (found bool, err error) {
	dir := ""
	for _, lib := range s.libs {
		if _, err := s.resolve(lib + "/gconv/gconv-modules"); err == nil {
			dir = lib + "/gconv"
			break
		}
	}
	for _, name := range charsets {
		if _, err := s.resolve(path.Join(dir, name+".so")); err != nil {
			continue
		}
		_, e := t.copy(s, path.Join(dir, name+".so"), "lib/gconv/"+name+".so")
		found, err = true, errors.Join(err, e)
	}
	for _, list := range []string{"gconv-modules", "gconv-modules.d"} {
		_, e := t.copy(s, path.Join(dir, list), "lib/gconv/"+list, "gconv-modules.cache")
		err = errors.Join(err, e)
	}
	return found, err
}

// addLocaleNames has every UTF-8 locale mean C.UTF-8, for whoever sets LANG by
// hand. The C library looks its name up here before it gives up.
func (t *tree) addLocaleNames(s *source) (bool, error) {
	supported := s.readFirst("/usr/share/i18n/SUPPORTED")
	if supported == nil {
		return false, nil
	}
	var out bytes.Buffer
	for _, line := range strings.Split(string(supported), "\n") {
		name, charset, _ := strings.Cut(line, " ")
		language, _, _ := strings.Cut(name, ".")
		if charset != "UTF-8" || language == "C" || strings.Contains(name, "@") {
			continue
		}
		fmt.Fprintf(&out, "%s.UTF-8 C.UTF-8\n%s.utf8 C.UTF-8\n", language, language)
	}
	return true, t.write("lc/locale.alias", out.Bytes(), 0o644)
}

// addVim brings in $VIMRUNTIME, whose name has the version in it: vim90.
func (t *tree) addVim(s *source) (bool, error) {
	dirs, _ := filepath.Glob(s.host("/usr/share/vim/vim[0-9]*"))
	for _, dir := range dirs {
		name := path.Base(dir)
		if found, err := t.copy(s, "/usr/share/vim/"+name, name, "lang", "tutor", "print", "gvimrc_example.vim"); found {
			return true, err
		}
	}
	return false, nil
}

func (t *tree) addNano(s *source) (bool, error) {
	return t.copy(s, "/usr/share/nano", "share/nano", "extra")
}

// addGDB brings in gdb's data directory, which is the image's root: its path is
// just as long as the one that is compiled in.
func (t *tree) addGDB(s *source) (found bool, err error) {
	for _, dir := range []string{"syscalls", "python"} { // a minimal gdb has neither
		_, e := t.copy(s, "/usr/share/gdb/"+dir, dir)
		err = errors.Join(err, e)
	}
	// To see threads, where the container's C library is as old as ours.
	t.want = append(t.want, library{name: "libthread_db.so.1", by: "gdb"})
	return true, errors.Join(err, t.addPythonOf(s))
}

func (t *tree) addLtrace(s *source) (bool, error) {
	found, err := t.copy(s, "/etc/ltrace.conf", "share/ltrace.conf")
	return found, errors.Join(err, t.link("l", "share/ltrace.conf"))
}

func (t *tree) addNmap(s *source) (bool, error) {
	return t.copy(s, "/usr/share/nmap", "share/nmap", "*.xsl", "*.dtd")
}

func (t *tree) addWireshark(s *source) (bool, error) {
	found, err := t.copy(s, "/usr/share/wireshark", "share/wireshark", "*.html", "AUTHORS*", "dtds")
	return found, errors.Join(err, t.link("ws", "share/wireshark"))
}

// addPython brings in Python's own library, where it looks for it: in ../lib of
// the program.
func (t *tree) addPython(s *source) (found bool, err error) {
	dirs, _ := filepath.Glob(s.host("/usr/lib/python3.[0-9]*"))
	for _, dir := range dirs {
		name := path.Base(dir)
		if _, err := os.Stat(filepath.Join(dir, "os.py")); err != nil {
			continue
		}
		_, e := t.copy(s, "/usr/lib/"+name, "lib/"+name, "test", "tests", "idlelib", "lib2to3", "distutils", "ensurepip", "pydoc_data", "turtledemo", "tkinter", "__pycache__", "dist-packages", "site-packages", "EXTERNALLY-MANAGED")
		found, err = true, errors.Join(err, e)
	}
	return found, err
}

// addPythonOf is for programs with Python in them.
func (t *tree) addPythonOf(s *source) error {
	if !slices.ContainsFunc(t.want, func(l library) bool { return strings.HasPrefix(l.name, "libpython3") }) {
		return nil
	}
	_, err := t.addPython(s)
	return err
}

// addManuals brings in the pages of all commands, and those on formats and
// conventions of the packages that anything is taken of.
func (t *tree) addManuals(s *source) (err error) {
	if !t.files["bin/man"] {
		return nil
	}
	for name := range t.files {
		command, ok := strings.CutPrefix(name, "bin/")
		if !ok {
			continue
		}
		for _, section := range []string{"1", "8"} {
			pages, _ := filepath.Glob(s.host("/usr/share/man/man" + section + "/" + globbed(command) + "." + section + "*"))
			for _, page := range pages {
				err = errors.Join(err, t.addManual(s, "/usr/share/man/man"+section+"/"+path.Base(page)))
			}
		}
	}
	taken := t.taken()
	for file, pkg := range s.owners {
		if (strings.HasPrefix(file, "/usr/share/man/man5/") || strings.HasPrefix(file, "/usr/share/man/man7/")) && taken[pkg] {
			err = errors.Join(err, t.addManual(s, file))
		}
	}
	return err
}

// addManual follows what many pages are: a symlink to another.
func (t *tree) addManual(s *source, file string) error {
	return t.copyFile(s, file, "share/man/"+strings.TrimPrefix(file, "/usr/share/man/"))
}

// globbed is a name that matches itself only: a command is called "[".
func globbed(name string) string {
	return strings.NewReplacer("[", `\[`, "*", `\*`, "?", `\?`, `\`, `\\`).Replace(name)
}

// taken are the packages that anything in the image is of.
func (t *tree) taken() map[string]bool {
	taken := map[string]bool{}
	for _, pkg := range t.owner {
		taken[pkg] = pkg != ""
	}
	delete(taken, "")
	return taken
}

// addLicences brings in the copyright file of every package that anything is
// taken of, and the licences that these refer to.
func (t *tree) addLicences(s *source) error {
	taken := t.taken()
	for pkg := range taken {
		if err := t.copyFile(s, "/usr/share/doc/"+pkg+"/copyright", "share/doc/"+pkg+"/copyright"); err != nil {
			return err
		}
	}
	if len(taken) == 0 {
		return nil // of a machine's programs nobody knows
	}
	_, err := t.copy(s, "/usr/share/common-licenses", "share/common-licenses")
	return err
}

func (t *tree) addTerminfo(s *source) (found bool, err error) {
	for _, dir := range []string{"/usr/share/terminfo", "/lib/terminfo", "/usr/lib/terminfo"} {
		for _, pattern := range terminals {
			files, _ := filepath.Glob(filepath.Join(s.host(dir), "?*", pattern))
			for _, f := range files {
				name := "share/terminfo/" + path.Base(path.Dir(f)) + "/" + path.Base(f)
				if t.files[name] {
					continue
				}
				data, e := os.ReadFile(f)
				t.owner[name] = s.owners[s.below(f)]
				err = errors.Join(err, e, t.write(name, data, 0o644))
				found = true
			}
		}
	}
	return found, errors.Join(err, t.addTerminals())
}

// alike are terminals that came after this Debian, and what they are nearest
// to.
var alike = []string{"ghostty", "xterm-ghostty", "wezterm", "xterm-kitty", "kitty", "foot", "foot-extra", "alacritty", "contour", "contour-latest", "rio", "xterm-rio", "warp", "st-256color", "tmux-256color", "screen-256color"}

// addTerminals gives those an entry that have none.
func (t *tree) addTerminals() error {
	for _, name := range alike {
		file := "share/terminfo/" + name[:1] + "/" + name
		if t.files[file] || !t.files["share/terminfo/x/xterm-256color"] {
			continue
		}
		if err := t.link(file, "../x/xterm-256color"); err != nil {
			return err
		}
	}
	return nil
}

// addCertificates makes one bundle, as update-ca-certificates(8) does, or
// takes that of the machine.
func (t *tree) addCertificates(s *source) (bool, error) {
	bundle := s.readFirst("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
	if bundle == nil {
		files, _ := filepath.Glob(s.host("/usr/share/ca-certificates/mozilla/*.crt"))
		slices.Sort(files)
		for _, f := range files {
			cert, err := os.ReadFile(f)
			if err != nil {
				return false, err
			}
			t.owner["share/ca-certificates.crt"] = s.owners[s.below(f)]
			bundle = append(append(bundle, bytes.TrimSpace(cert)...), '\n')
		}
	}
	if bundle == nil {
		return false, nil
	}
	return true, errors.Join(
		t.write("share/ca-certificates.crt", bundle, 0o644),
		t.link("ca-certificates.crt", "share/ca-certificates.crt"), // curl's compiled-in path
		t.link("ca.crt", "share/ca-certificates.crt"),              // OpenSSL's
	)
}

func (t *tree) addMagic(s *source) (bool, error) {
	for _, dir := range []string{"/usr/lib/file", "/usr/share/misc", "/usr/share/file"} {
		if found, err := t.copy(s, dir+"/magic.mgc", "share/magic.mgc"); found {
			return true, err
		}
	}
	return false, nil
}

// addLocale brings in the one locale. It lies in the image's root because
// "/usr/lib/locale" is just as long as "/dev/crashcart/".
func (t *tree) addLocale(s *source) (found bool, err error) {
	dir := s.host("/usr/lib/locale/C.utf8")
	for _, pattern := range []string{"LC_*", "LC_MESSAGES/*"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, f := range files {
			data, e := os.ReadFile(f)
			if e != nil {
				continue // a directory
			}
			name := "C.utf8/" + strings.TrimPrefix(f, dir+"/")
			t.owner[name] = s.owners[s.below(f)]
			err = errors.Join(err, t.write(name, data, 0o644))
			found = true
		}
	}
	return found, err
}

// readFirst reads the first of these files that there is.
func (s *source) readFirst(names ...string) []byte {
	for _, name := range names {
		real, err := s.resolve(name)
		if err != nil {
			continue
		}
		if data, err := os.ReadFile(s.host(real)); err == nil {
			return data
		}
	}
	return nil
}

// addOwn adds what no package has. The one-letter names are what fits into
// the place of a compiled-in path; see paths.
func (t *tree) addOwn(s *source) error {
	return errors.Join(
		t.write(".crashcartrc", crashcartrc, 0o644),
		t.write("inputrc", inputrc, 0o644),
		t.write("vimrc", vimrc, 0o644),
		t.addSettings(),
		t.addStubs(),
		t.addNameService(),
		t.write("openssl.cnf", []byte("# OpenSSL's own defaults.\n"), 0o644),
		t.write(lockName, text(s.lock), 0o644),
		t.link("sbin", "bin"),
		t.link("profile/bin", "../bin"), // as crashcart had it
		t.link("r", ".crashcartrc"),
		t.link("o", "openssl.cnf"),
		t.link("v", "vimrc"),
		t.link("term", "share/terminfo"),
		t.link("nss", "nsswitch.conf"),
	)
}

// addManifest comes last: it lists everything else.
func (b *build) addManifest(t *tree, s *source) error {
	files, err := t.list()
	if err != nil {
		return err
	}
	m := Manifest{Profile: b.Profile, Arch: b.arch.name, From: s.name, Inputs: b.inputs(), Files: files}
	if b.Packages != nil {
		m.Profile = "custom"
	}
	text, err := m.Text()
	if err != nil {
		return err
	}
	return t.write(manifestName, text, 0o644)
}

// inputs is what the build was told besides the profile.
func (b *build) inputs() []string {
	var told []string
	for _, name := range b.Remove {
		told = append(told, "--remove "+name)
	}
	for _, line := range b.Add {
		told = append(told, "--add "+line)
	}
	if b.Files != "" {
		told = append(told, "--files, a folder of files of its builder's")
	}
	// Not --lock: what is made of a lock is what was made without one.
	return told
}

// unpackers are the programs that tar and file(1) run if an archive asks for
// one, by its content or its name: whoever made the archive must not choose one
// of the container's.
var unpackers = []string{"gzip", "bzip2", "xz", "zstd", "lzip", "lzop", "lzma", "unlzma", "compress", "uncompress", "lrzip", "brotli", "lz4", "unzip"}

// addStubs puts something in the place of those that the image lacks.
func (t *tree) addStubs() (err error) {
	if !t.files["bin/tar"] && !t.files["bin/file"] {
		return nil
	}
	for _, name := range unpackers {
		if !t.files["bin/"+name] {
			script := "#!" + Root + "/bin/bash -p\necho \"" + name + ": is not in the tools image\" >&2\nexit 127\n"
			err = errors.Join(err, t.write("bin/"+name, []byte(script), 0o755))
		}
	}
	return err
}

func (t *tree) addSettings() error {
	files, err := settings.ReadDir("files")
	for _, f := range files {
		content, e := settings.ReadFile("files/" + f.Name())
		err = errors.Join(err, e, t.write(f.Name(), content, 0o644))
	}
	return err
}

// lines are what each says of itself.
func lines[T fmt.Stringer](list []T) []string {
	all := make([]string, len(list))
	for i, l := range list {
		all[i] = l.String()
	}
	return all
}

// text is a file of these lines.
func text(lines []string) []byte {
	var out bytes.Buffer
	for _, l := range lines {
		out.WriteString(l + "\n")
	}
	return out.Bytes()
}
