package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Fault is something in an image that is not as it has to be.
type Fault struct{ Name, What string }

func (f Fault) String() string {
	if !plain(f.Name) {
		f.Name = strconv.Quote(f.Name)
	}
	return f.Name + ": " + f.What
}

// What no tools image comes near; beyond it, somebody is having us on.
const (
	mostFiles = 1 << 17
	mostDepth = 32
	mostBytes = 4 << 30

	mostHeaders = 128     // of a program, which has a dozen
	mostDynamic = 1 << 20 // bytes of its dynamic section, which has some hundred
)

// Verify reads all of an image's tree and says what is wrong with it: with its
// files, by MANIFEST; with their modes; with programs that would load something
// of the container's. Owners are looked at if the tree has them as the image
// has, and not as whoever unpacked it.
//
// It finds what a build, a disk or a careless hand did. Who makes an image to
// deceive writes a MANIFEST to match: against that there is the digest of the
// image file.
func Verify(ctx context.Context, tree fs.FS, owners bool) (*Contents, []Fault, error) {
	c, err := ReadContents(tree)
	if err != nil {
		return nil, nil, err
	}
	v := &verifier{tree: tree, owners: owners, listed: c.files(), dirs: map[string]bool{".": true}}
	v.arch, err = archOf(c.Arch)
	if err != nil {
		v.fault(manifestName, "architecture: %q: not one that is known here", c.Arch)
	}
	for _, f := range c.Files {
		for dir := path.Dir(f.Name); !v.dirs[dir]; dir = path.Dir(dir) {
			v.dirs[dir] = true
		}
	}
	err = fs.WalkDir(tree, ".", func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(ctx.Err(), v.visit(name, err))
	})
	if err != nil {
		return nil, nil, err
	}
	for name := range v.listed {
		v.fault(name, "is missing")
	}
	slices.SortStableFunc(v.faults, func(a, b Fault) int { return strings.Compare(a.Name, b.Name) })
	return c, v.faults, nil
}

type verifier struct {
	tree   fs.FS
	owners bool
	arch   arch            // the zero one if it is not known
	listed map[string]File // and not seen yet
	dirs   map[string]bool // of listed files

	seen, bytes int64
	faults      []Fault
}

func (v *verifier) fault(name, format string, args ...any) {
	v.faults = append(v.faults, Fault{name, fmt.Sprintf(format, args...)})
}

// visit looks at one entry of the tree. Its error ends the walk.
func (v *verifier) visit(name string, unreadable error) error {
	if v.seen++; v.seen > mostFiles || strings.Count(name, "/") > mostDepth {
		return errors.New("more files, or deeper folders, than a tools image has")
	}
	if unreadable != nil {
		v.fault(name, "cannot be read: %v", bare(unreadable))
		return nil
	}
	st, err := fs.Lstat(v.tree, name)
	if err != nil {
		v.fault(name, "cannot be read: %v", bare(err))
		return nil
	}
	v.checkOwner(name, st)
	switch {
	case st.IsDir():
		return v.visitDir(name, st)
	case st.Mode().Type() == fs.ModeSymlink:
		v.visitLink(name)
	case st.Mode().IsRegular():
		return v.visitFile(name, st)
	default:
		delete(v.listed, name)
		v.fault(name, "is neither file, folder nor link: %v", st.Mode())
	}
	return nil
}

func (v *verifier) checkOwner(name string, st fs.FileInfo) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if v.owners && ok && (sys.Uid != 0 || sys.Gid != 0) {
		v.fault(name, "owned by %d:%d, not by root", sys.Uid, sys.Gid)
	}
}

func (v *verifier) checkMode(name string, st fs.FileInfo, want fs.FileMode) {
	if got := unixMode(st.Mode()); got != uint32(want) {
		v.fault(name, "mode %04o, not %04o", got, want)
	}
}

// unixMode is the mode as chmod(1) has it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, unix := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= unix
		}
	}
	return mode
}

func (v *verifier) visitDir(name string, st fs.FileInfo) error {
	if name == "lost+found" {
		return nil // every ext4 has it; what is in it is looked at
	}
	v.checkMode(name, st, 0o755)
	if !v.dirs[name] {
		v.fault(name, "is not in %s", manifestName)
	}
	return nil
}

// take is what MANIFEST has of this name.
func (v *verifier) take(name string) (File, bool) {
	f, ok := v.listed[name]
	delete(v.listed, name)
	if !ok && name != manifestName {
		v.fault(name, "is not in %s", manifestName)
	}
	return f, ok
}

func (v *verifier) visitLink(name string) {
	f, ok := v.take(name)
	if !ok {
		return
	}
	to, err := fs.ReadLink(v.tree, name)
	if err != nil {
		v.fault(name, "cannot be read: %v", bare(err))
		return
	}
	if f.Link == "" {
		v.fault(name, "is a link, to %q, and not a file", to)
		return
	}
	if to != f.Link {
		v.fault(name, "leads to %q, not to %q", to, f.Link)
	}
}

func (v *verifier) visitFile(name string, st fs.FileInfo) error {
	if v.bytes += st.Size(); st.Size() > mostBytes || v.bytes > mostBytes {
		return fmt.Errorf("more than %d GB of files: not a tools image", mostBytes>>30)
	}
	f, ok := v.take(name)
	mode := fs.FileMode(0o644)
	if f.Exec {
		mode = 0o755
	}
	if ok || name == manifestName {
		v.checkMode(name, st, mode)
	}
	if !ok {
		return nil
	}
	if f.Link != "" {
		v.fault(name, "is a file, and not a link to %q", f.Link)
		return nil
	}
	if st.Size() != f.Size {
		v.fault(name, "%d bytes, not %d", st.Size(), f.Size)
		return nil
	}
	if err := v.readFile(f); err != nil {
		v.fault(name, "cannot be read: %v", bare(err))
	}
	return nil
}

func (v *verifier) readFile(f File) error {
	file, err := openFile(v.tree, f.Name)
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != f.SHA256 {
		v.fault(f.Name, "its sha256 is %s, not %s", got, f.SHA256)
	}
	at, ok := file.(io.ReaderAt)
	if !ok {
		return errors.New("cannot be read but from its beginning")
	}
	for _, what := range strangers(io.NewSectionReader(at, 0, f.Size), v.arch) {
		v.fault(f.Name, "%s", what)
	}
	if f.Exec && isCommand(f.Name) {
		v.checkScript(f.Name, at)
	}
	return nil
}

// checkScript wants a command that is a script to be one of the image's own
// interpreters.
func (v *verifier) checkScript(name string, r io.ReaderAt) {
	line := make([]byte, 256)
	n, _ := r.ReadAt(line, 0)
	text, ok := bytes.CutPrefix(line[:n], []byte("#!"))
	if !ok {
		return
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	words := strings.Fields(string(first))
	if len(words) == 0 || !strings.HasPrefix(words[0], Root+"/") {
		v.fault(name, "its interpreter is %q, not one of the image's", strings.Join(words, " "))
	}
}

// strangers are what of a program or library is not the image's own: its
// loader, where it has libraries looked for, its architecture. Of any other
// file there is nothing to say.
//
// Like the kernel and the loader it goes by the program's headers. Sections can
// be missing, or lie, or be as large as the file.
func strangers(r *io.SectionReader, a arch) (what []string) {
	h, progs, err := programHeaders(r)
	if errors.Is(err, errNotELF) {
		return nil
	}
	if err != nil {
		return []string{"a broken ELF file: " + err.Error()}
	}
	if t := elf.Type(h.Type); t != elf.ET_EXEC && t != elf.ET_DYN {
		return nil // an object file, a core
	}
	if m := elf.Machine(h.Machine); a.name != "" && m != a.machine {
		what = append(what, fmt.Sprintf("built for %v, not for %v", m, a.machine))
	}
	dynamic := 0
	for _, p := range progs {
		switch elf.ProgType(p.Type) {
		case elf.PT_INTERP:
			if in := cString(part(r, p.Off, p.Filesz)); in != Root+"/ld.so" {
				what = append(what, fmt.Sprintf("its loader is %q, not the image's", in))
			}
		case elf.PT_DYNAMIC:
			if dynamic++; hasRunpath(part(r, p.Off, p.Filesz)) {
				what = append(what, "it has a run path of its own")
			}
		}
		if dynamic > 1 {
			return append(what, "a broken ELF file: two dynamic sections")
		}
	}
	return what
}

// part is that of the file, or nothing if it is not all there.
func part(r *io.SectionReader, offset, size uint64) io.Reader {
	if all := uint64(r.Size()); offset > all || size > all-offset {
		return bytes.NewReader(nil)
	}
	return io.NewSectionReader(r, int64(offset), int64(size))
}

func programHeaders(r *io.SectionReader) (h elf.Header64, progs []elf.Prog64, err error) {
	ident := make([]byte, elf.EI_NIDENT)
	if _, err := r.ReadAt(ident, 0); err != nil || !bytes.HasPrefix(ident, []byte(elf.ELFMAG)) {
		return h, nil, errNotELF
	}
	if elf.Class(ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(ident[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return h, nil, errors.New("neither of 64 bits nor little-endian")
	}
	if err := binary.Read(r, binary.LittleEndian, &h); err != nil {
		return h, nil, err
	}
	if h.Phnum > 0 && int(h.Phentsize) != binary.Size(elf.Prog64{}) || h.Phnum > mostHeaders {
		return h, nil, fmt.Errorf("%d program headers of %d bytes", h.Phnum, h.Phentsize)
	}
	progs = make([]elf.Prog64, h.Phnum)
	table := part(r, h.Phoff, uint64(h.Phnum)*uint64(h.Phentsize))
	if err := binary.Read(table, binary.LittleEndian, progs); err != nil {
		return h, nil, fmt.Errorf("program headers: %w", err)
	}
	return h, progs, nil
}

// cString is a path as the kernel takes it: up to the first NUL.
func cString(r io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(r, 4096))
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// hasRunpath looks for DT_RPATH and DT_RUNPATH that are more than the empty
// string, which is at offset 0 of every string table.
func hasRunpath(r io.Reader) bool {
	buffered := bufio.NewReader(io.LimitReader(r, mostDynamic))
	for {
		var d elf.Dyn64
		if binary.Read(buffered, binary.LittleEndian, &d) != nil || elf.DynTag(d.Tag) == elf.DT_NULL {
			return false
		}
		if tag := elf.DynTag(d.Tag); d.Val != 0 && (tag == elf.DT_RPATH || tag == elf.DT_RUNPATH) {
			return true
		}
	}
}
