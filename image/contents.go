package image

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Contents is what an image says is in it. Verify says whether that is true.
type Contents struct {
	Manifest
	Packages []Package // by packages.lock, in its order
}

// ReadContents reads MANIFEST and packages.lock of an image's tree. Nothing in
// the tree is trusted: no symlink is followed, and nothing large is read.
func ReadContents(tree fs.FS) (*Contents, error) {
	text, err := readText(tree, manifestName)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(text)
	if err != nil {
		return nil, err
	}
	if text, err = readText(tree, lockName); err != nil {
		return nil, err
	}
	packages, err := ParseLock(text)
	if err != nil {
		return nil, err
	}
	return &Contents{*m, packages}, nil
}

// maxText is some 100,000 files.
const maxText = 16 << 20

func readText(tree fs.FS, name string) ([]byte, error) {
	f, err := openFile(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no %s in it", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, bare(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, bare(err))
	}
	if len(text) > maxText {
		return nil, fmt.Errorf("%s: more than %d MB", name, maxText>>20)
	}
	return text, nil
}

// openFile opens a regular file. What only looks like one is not opened: a FIFO
// would wait for somebody to write to it.
func openFile(tree fs.FS, name string) (fs.File, error) {
	st, err := fs.Lstat(tree, name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	return tree.Open(name)
}

// bare takes the path out of an error that names it anyway.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Unpacked is the size of all files, in bytes.
func (c *Contents) Unpacked() int64 {
	var n int64
	for _, f := range c.Files {
		n += f.Size
	}
	return n
}

// Version is that of a package, or "" if there is no such package.
func (c *Contents) Version(name string) string {
	for _, p := range c.Packages {
		if p.Name == name {
			return p.Version
		}
	}
	return ""
}

// Commands are the files and links in bin.
func (c *Contents) Commands() []File {
	var commands []File
	for _, f := range c.Files {
		if isCommand(f.Name) {
			commands = append(commands, f)
		}
	}
	return commands
}

func isCommand(name string) bool { return path.Dir(name) == "bin" }

// Share is how much of the image is of one package; the package without a name
// is our own.
type Share struct {
	Package
	Files int
	Bytes int64 // unpacked
}

// Shares are the packages of the image, the largest first.
func (c *Contents) Shares() []Share {
	at := map[string]*Share{}
	for _, p := range c.Packages {
		at[p.Name] = &Share{Package: p}
	}
	for _, f := range c.Files {
		s := at[f.Package]
		if s == nil {
			s = &Share{Package: Package{Name: f.Package}}
			at[f.Package] = s
		}
		s.Files++
		s.Bytes += f.Size
	}
	var shares []Share
	for _, s := range at {
		shares = append(shares, *s)
	}
	slices.SortFunc(shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return shares
}

// Change is something that differs between two images. An empty Old is what was
// added, an empty New what was removed.
type Change struct{ Kind, Name, Old, New string }

// Diff says how b differs from a: what it was made of, its packages, its
// commands, and files that differ though their package does not.
func Diff(a, b *Contents) []Change {
	packages := packageChanges(a, b)
	affected := map[string]bool{}
	for _, p := range packages {
		affected[p.Name] = true
	}
	return slices.Concat(
		differing("", a.head(), b.head()),
		differing("input", a.inputs(), b.inputs()),
		packages,
		commandChanges(a, b),
		fileChanges(a, b, affected),
	)
}

// differing compares what both have under each name.
func differing(kind string, old, new map[string]string) []Change {
	names := slices.AppendSeq(slices.Collect(maps.Keys(old)), maps.Keys(new))
	slices.Sort(names)
	var changes []Change
	for _, name := range slices.Compact(names) {
		if old[name] != new[name] {
			changes = append(changes, Change{kind, name, old[name], new[name]})
		}
	}
	return changes
}

func (c *Contents) head() map[string]string {
	return map[string]string{"profile": c.Profile, "architecture": c.Arch, "from": c.From}
}

func (c *Contents) inputs() map[string]string {
	inputs := map[string]string{}
	for _, input := range c.Inputs {
		inputs[input] = input
	}
	return inputs
}

// packageChanges tell by the version, and by the digest where that is the same:
// it should not be, and is of interest.
func packageChanges(a, b *Contents) []Change {
	changes := differing("package", a.locked(), b.locked())
	for i, c := range changes {
		old, oldSum, _ := strings.Cut(c.Old, " ")
		new, newSum, _ := strings.Cut(c.New, " ")
		if old == new {
			old, new = old+" sha256 "+oldSum[:12], new+" sha256 "+newSum[:12]
		}
		changes[i].Old, changes[i].New = old, new
	}
	return changes
}

func (c *Contents) locked() map[string]string {
	locked := map[string]string{}
	for _, p := range c.Packages {
		locked[p.Name] = p.Version + " " + p.SHA256
	}
	return locked
}

// commandChanges are those that came or went. One that is another now is its
// package's change, or a file's.
func commandChanges(a, b *Contents) []Change {
	changes := differing("command", a.commands(), b.commands())
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Old != "" && c.New != "" })
}

func (c *Contents) commands() map[string]string {
	commands := map[string]string{}
	for _, f := range c.Commands() {
		commands[path.Base(f.Name)] = f.describe()
	}
	return commands
}

// fileChanges leave out what has been said already.
func fileChanges(a, b *Contents, affected map[string]bool) []Change {
	old, new := a.files(), b.files()
	changes := differing("file", described(old), described(new))
	return slices.DeleteFunc(changes, func(c Change) bool {
		return affected[old[c.Name].Package] || affected[new[c.Name].Package] ||
			isCommand(c.Name) && (c.Old == "" || c.New == "") ||
			c.Name == lockName && len(affected) > 0
	})
}

func (c *Contents) files() map[string]File {
	files := map[string]File{}
	for _, f := range c.Files {
		files[f.Name] = f
	}
	return files
}

func described(files map[string]File) map[string]string {
	all := map[string]string{}
	for name, f := range files {
		all[name] = f.describe()
	}
	return all
}

func (f File) describe() string {
	text := "-> " + f.Link
	if f.Link == "" {
		text = fmt.Sprintf("%d bytes, sha256 %s", f.Size, f.SHA256[:12])
	}
	if f.Exec {
		text += ", can be run"
	}
	if f.Package != "" {
		text += ", of " + f.Package
	}
	return text
}
