package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// tree is the image's file system while it is being filled. Names in it are
// relative: "bin/bash".
type tree struct {
	root  string
	arch  arch
	files map[string]bool
	from  map[string]string // the source's program → the name it has in bin
	owner map[string]string // name → the package it came in
	want  []library
	own   *source // of its builder's files, or nil

	loader  string // as the source's programs name it
	loading string // bin/NAME of the first that does
	static  bool   // bash is
}

// library is a DT_NEEDED still to be brought in, where whoever needs it has it
// looked for, and who that is.
type library struct {
	name    string
	runpath []string
	by      string
}

func newTree(root string, a arch) *tree {
	return &tree{root: root, arch: a, files: map[string]bool{}, from: map[string]string{}, owner: map[string]string{}}
}

// fill brings everything in: programs, what they need, what that needs.
func (b *build) fill(t *tree, s *source) error {
	if err := b.addCommands(t, s); err != nil {
		return err
	}
	if !t.files["bin/bash"] {
		return errors.New("image: bash: not found, and nobody could have a shell")
	}
	missing, err := t.addData(s)
	for _, m := range missing {
		b.logf("left out: %s: not found", m)
	}
	if err == nil {
		err = errors.Join(t.addOwn(s), b.addFiles(t), t.addLibraries(s), t.addLoader(s), t.addManuals(s), t.addLicences(s))
	}
	if err == nil {
		err = b.addManifest(t, s)
	}
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	b.logf("%d commands, %d libraries", t.count("bin/"), t.count("lib/"))
	return nil
}

// addCommands adds the commands of the list. What the source lacks is said, in
// one line: of a machine it may be much.
func (b *build) addCommands(t *tree, s *source) error {
	var missing []string
	for i, p := range b.list {
		b.Progress("relocating", i, len(b.list))
		if p.all {
			p.commands = append(p.commands, s.commands(p.name)...)
			if p.commands == nil {
				b.logf("nothing taken of %s: it has no command, or none is known of it", p.name)
			}
		}
		for _, c := range p.commands {
			err := t.addCommand(s, c)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				missing = append(missing, c.name)
			case errors.Is(err, errForeignScript):
				b.logf("left out: %s: %v", c.name, err)
			case err != nil:
				return fmt.Errorf("image: %s: %w", c.name, err)
			}
		}
	}
	if missing == nil {
		return nil
	}
	if b.Lock != "" {
		return fmt.Errorf("image: %s: has no package with %s: is it the lock of another profile? (an image's is said by: image show)", b.Lock, strings.Join(missing, " "))
	}
	for _, name := range missing {
		if b.asked[name] {
			return fmt.Errorf("image: --add: %s: not found in that package", name)
		}
	}
	b.logf("left out, not found: %s", strings.Join(missing, " "))
	return nil
}

func (t *tree) count(dir string) int {
	n := 0
	for name := range t.files {
		if strings.HasPrefix(name, dir) {
			n++
		}
	}
	return n
}

// addCommand adds bin/NAME, as the program itself or as a link to it. What an
// alias stands for is the program if it is not taken under its own name.
func (t *tree) addCommand(s *source, c command) error {
	if t.files["bin/"+c.name] {
		return nil
	}
	wrapper, _ := wrappers.ReadFile("files/wrap/" + c.name)
	switch {
	case c.of != "" && t.files["bin/"+c.of] && wrapper != nil:
		return t.write("bin/"+c.name, wrapper, 0o755)
	case c.of != "" && t.files["bin/"+c.of]:
		return t.link("bin/"+c.name, c.of)
	case c.name == "man": // any other needs groff
		return fs.ErrNotExist
	}
	real, err := s.program(cmp.Or(c.of, c.name))
	if errors.Is(err, fs.ErrNotExist) && c.of != "" {
		real, err = s.program(c.name)
	}
	if err != nil {
		return err
	}
	// One program under several names, which looks at argv[0].
	if name := t.from[real]; name != "" {
		return t.link("bin/"+c.name, name)
	}
	t.from[real], t.owner["bin/"+c.name] = c.name, s.owners[real]
	if wrapper != nil {
		t.owner["libexec/"+c.name] = s.owners[real]
		return errors.Join(t.write("bin/"+c.name, wrapper, 0o755), t.addProgram(s, "libexec/"+c.name, real))
	}
	return t.addProgram(s, "bin/"+c.name, real)
}

func (t *tree) addProgram(s *source, name, real string) error {
	data, err := os.ReadFile(s.host(real))
	if err != nil {
		return err
	}
	if bytes.HasPrefix(data, []byte("#!")) {
		script, err := ownScript(data)
		if err != nil {
			return err
		}
		return t.write(name, script, 0o755)
	}
	o, err := parseObject(data, t.arch)
	if err != nil {
		return err
	}
	if in := o.interp(); in != "" && t.loader == "" {
		t.loader, t.loading = in, name
	}
	t.need(o, path.Dir(real), name)
	bash := name == "bin/bash"
	t.static = t.static || bash && o.static()
	if o.static() && (bash || o.loads()) {
		if err := o.relocateStatic(t.arch); err != nil {
			return err
		}
	}
	if err := o.relocate(t.arch); err != nil {
		return err
	}
	return t.write(name, data, 0o755)
}

var errForeignScript = errors.New("a script of an interpreter that is not in the image")

// ownScript makes a script of sh or bash one of the image's bash. It runs
// whatever the container has, or has not.
func ownScript(data []byte) ([]byte, error) {
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(line), "#!"))
	if len(words) > 1 && path.Base(words[0]) == "env" {
		words = words[1:]
	}
	if len(words) == 0 || path.Base(words[0]) != "sh" && path.Base(words[0]) != "bash" {
		return nil, fmt.Errorf("%w: %s", errForeignScript, line)
	}
	// -p: neither BASH_ENV nor functions come from the environment. The kernel
	// hands over one argument: "-e" becomes "-pe".
	flags := "-p"
	if len(words) > 1 {
		flags += strings.TrimPrefix(words[1], "-")
	}
	return append([]byte("#!"+Root+"/bin/bash "+flags+"\n"), rest...), nil
}

func (t *tree) need(o *object, dir, by string) {
	for _, name := range o.needed() {
		t.want = append(t.want, library{name, o.runpath(dir), by})
	}
}

// unasked are libraries that glibc opens by name when it feels like it: to end
// a thread, to look a name up.
var unasked = []string{"libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"}

// addLibraries brings in what programs need, under the very name they ask for.
func (t *tree) addLibraries(s *source) error {
	if t.loader == "" {
		return nil // all of them are static
	}
	for _, name := range unasked {
		if _, err := s.library(name, nil); err == nil {
			t.want = append(t.want, library{name: name, by: "the C library"})
		}
	}
	for len(t.want) > 0 {
		l := t.want[0]
		t.want = t.want[1:]
		if t.files["lib/"+l.name] || l.name == path.Base(t.loader) {
			continue
		}
		if err := t.addLibrary(s, l); err != nil {
			return fmt.Errorf("%s: needed by %s: %w", l.name, l.by, err)
		}
	}
	return nil
}

func (t *tree) addLibrary(s *source, l library) error {
	if t.own != nil {
		if _, err := t.own.library(l.name, l.runpath); err == nil {
			s = t.own
		}
	}
	real, err := s.library(l.name, l.runpath)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(s.host(real))
	if err != nil {
		return err
	}
	o, err := parseObject(data, t.arch)
	if err != nil {
		return err
	}
	t.need(o, path.Dir(real), l.name)
	if err := o.relocate(t.arch); err != nil {
		return err
	}
	t.owner["lib/"+l.name] = s.owners[real]
	return t.write("lib/"+l.name, data, 0o644)
}

func (t *tree) addLoader(s *source) error {
	if t.loader == "" {
		return nil
	}
	real, err := s.resolve(t.loader)
	if err != nil {
		real, err = s.library(path.Base(t.loader), []string{"/usr/lib64"})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.loader, err)
	}
	data, err := os.ReadFile(s.host(real))
	if err != nil {
		return err
	}
	o, err := parseObject(data, t.arch)
	if err != nil {
		return fmt.Errorf("%s: %w", real, err)
	}
	if err := o.relocateLoader(t.arch); err != nil {
		return fmt.Errorf("%s: %w", real, err)
	}
	t.owner["ld.so"] = s.owners[real]
	return t.write("ld.so", data, 0o755)
}

// prove runs a static bash, which no loader could, and asks the loader itself
// whether it is private.
func (t *tree) prove(ctx context.Context) error {
	if !t.arch.native() {
		return nil
	}
	if t.static {
		c := exec.CommandContext(ctx, filepath.Join(t.root, "bin/bash"), "-c", ":")
		c.Env = []string{}
		if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
			return fmt.Errorf("image: bash does not run: %v: %s", err, bytes.TrimSpace(out))
		}
	}
	if !t.files["ld.so"] {
		return nil
	}
	return t.proveLoader(ctx)
}

// proveLoader lists a program's libraries: the loader must not hear of
// LD_PRELOAD and LD_AUDIT, and not find a library where LD_LIBRARY_PATH or the
// machine's own directories have one.
func (t *tree) proveLoader(ctx context.Context) error {
	ld, lib, prog := filepath.Join(t.root, "ld.so"), filepath.Join(t.root, "lib"), filepath.Join(t.root, t.loading)

	c := exec.CommandContext(ctx, ld, "--library-path", lib, "--list", prog)
	c.Env = []string{"LD_PRELOAD=/nonexistent/preload.so", "LD_AUDIT=/nonexistent/audit.so"}
	var complaints bytes.Buffer
	c.Stderr = &complaints
	if err := c.Run(); err != nil || complaints.Len() > 0 {
		return fmt.Errorf("image: the private loader is not private, or does not run: %v: %s", err, bytes.TrimSpace(complaints.Bytes()))
	}
	if _, err := os.Stat(Root + "/lib"); err == nil {
		return nil // this machine has libraries where the loader looks
	}
	c = exec.CommandContext(ctx, ld, "--list", prog)
	c.Env = []string{"LD_LIBRARY_PATH=" + lib}
	if out, err := c.CombinedOutput(); err == nil {
		return fmt.Errorf("image: the private loader is not private: it found libraries outside of the image: %s", bytes.TrimSpace(out))
	}
	return nil
}

func (t *tree) write(name string, data []byte, mode fs.FileMode) error {
	file := filepath.Join(t.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // a link that was there must not be written through
	}
	if err := os.WriteFile(file, data, mode); err != nil {
		return err
	}
	t.files[name] = true
	return os.Chmod(file, mode) // whatever the umask
}

func (t *tree) link(name, to string) error {
	file := filepath.Join(t.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	t.files[name] = true
	return os.Symlink(to, file)
}

// list describes every file there is, and of which package it is.
func (t *tree) list() ([]File, error) {
	var files []File
	for name := range t.files {
		f := File{Name: name, Package: t.owner[name]}
		file := filepath.Join(t.root, name)
		st, err := os.Lstat(file)
		if err != nil {
			return nil, err
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			f.Link, err = os.Readlink(file)
		} else {
			f.Size, f.Exec = st.Size(), st.Mode()&0o111 != 0
			f.SHA256, err = sumOf(file)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
