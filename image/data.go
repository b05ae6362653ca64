package image

import (
	"bytes"
	_ "embed"
	"errors"
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

// terminals that people have, or are given by screen and tmux. All of
// ncurses-term would be 2,700 files.
var terminals = []string{
	"xterm*", "screen*", "tmux*", "linux*", "vt1*", "vt2*", "ansi", "dumb", "rxvt*", "putty*", "cygwin",
	"alacritty*", "foot*", "kitty*", "ghostty*", "wezterm*", "konsole*", "gnome*", "vte*", "st", "st-*", "iterm*", "nsterm*", "mlterm*", "Eterm*", "sun", "unknown",
}

// addData brings in what programs read, and returns what the source lacks.
func (t *tree) addData(s *source) (missing []string, err error) {
	for _, d := range []struct {
		what string
		add  func(*source) (bool, error)
	}{
		{"terminfo", t.addTerminfo},
		{"CA certificates", t.addCertificates},
		{"magic.mgc of file(1)", t.addMagic},
		{"locale C.UTF-8", t.addLocale},
	} {
		found, e := d.add(s)
		err = errors.Join(err, e)
		if !found {
			missing = append(missing, d.what)
		}
	}
	return missing, err
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
				err = errors.Join(err, e, t.write(name, data, 0o644))
				found = true
			}
		}
	}
	return found, err
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
	magic := s.readFirst("/usr/lib/file/magic.mgc", "/usr/share/misc/magic.mgc", "/usr/share/file/magic.mgc")
	if magic == nil {
		return false, nil
	}
	return true, t.write("share/magic.mgc", magic, 0o644)
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
			err = errors.Join(err, t.write("C.utf8/"+strings.TrimPrefix(f, dir+"/"), data, 0o644))
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
	err := errors.Join(
		t.write(".crashcartrc", crashcartrc, 0o644),
		t.write("inputrc", inputrc, 0o644),
		t.write("vimrc", vimrc, 0o644),
		t.write("openssl.cnf", []byte("# OpenSSL's own defaults.\n"), 0o644),
		t.write("packages.lock", lines(s.lock), 0o644),
		t.link("sbin", "bin"),
		t.link("profile/bin", "../bin"), // as crashcart had it
		t.link("r", ".crashcartrc"),
		t.link("o", "openssl.cnf"),
		t.link("v", "vimrc"),
		t.link("term", "share/terminfo"),
	)
	if err != nil {
		return err
	}
	list, err := t.manifest()
	if err != nil {
		return err
	}
	return t.write("MANIFEST", list, 0o644)
}

func lines(list []string) []byte {
	var out bytes.Buffer
	for _, l := range list {
		out.WriteString(l + "\n")
	}
	return out.Bytes()
}
