package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// object is an ELF file in memory, edited in place: no edit changes its size,
// so nothing in it has to move.
type object struct {
	data []byte
	elf  *elf.File
}

var errNotELF = errors.New("not an ELF file")

func parseObject(data []byte, a arch) (*object, error) {
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return nil, errNotELF
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if f.Machine != a.machine || f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("built for %v, not for %v", f.Machine, a.machine)
	}
	return &object{data, f}, nil
}

// needed lists the libraries that the loader must find.
func (o *object) needed() []string {
	names, _ := o.elf.DynString(elf.DT_NEEDED)
	return names
}

// interp is the loader that the kernel starts, "" for a library or a static
// program.
func (o *object) interp() string {
	p := o.interpProg()
	if p == nil {
		return ""
	}
	return strings.TrimRight(string(o.data[p.Off:p.Off+p.Filesz]), "\x00")
}

// static says that a program has all of its libraries in it.
func (o *object) static() bool { return o.interp() == "" && len(o.needed()) == 0 }

func (o *object) interpProg() *elf.Prog {
	for _, p := range o.elf.Progs {
		if p.Type == elf.PT_INTERP && p.Off+p.Filesz <= uint64(len(o.data)) {
			return p
		}
	}
	return nil
}

// setInterp names another loader. The rest of the old name becomes NULs: the
// kernel takes the path as a C string, and only demands that it ends in one.
func (o *object) setInterp(path string) error {
	p := o.interpProg()
	if p == nil {
		return nil
	}
	if uint64(len(path)) >= p.Filesz {
		return fmt.Errorf("its loader's path %q leaves no room for %q", o.interp(), path)
	}
	field := o.data[p.Off : p.Off+p.Filesz]
	clear(field)
	copy(field, path)
	return nil
}

// runpath lists DT_RPATH and DT_RUNPATH, $ORIGIN resolved.
func (o *object) runpath(origin string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		values, _ := o.elf.DynString(tag)
		for _, v := range values {
			v = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(v)
			dirs = append(dirs, filepath.SplitList(v)...)
		}
	}
	return dirs
}

// dropRunpath points DT_RPATH and DT_RUNPATH at the empty string (offset 0 of
// every string table), which the loader ignores. Overwriting the tag instead
// would need one that means nothing anywhere.
func (o *object) dropRunpath() {
	for _, p := range o.elf.Progs {
		if p.Type != elf.PT_DYNAMIC || p.Off+p.Filesz > uint64(len(o.data)) {
			continue
		}
		for dyn := o.data[p.Off : p.Off+p.Filesz]; len(dyn) >= 16; dyn = dyn[16:] {
			switch elf.DynTag(binary.LittleEndian.Uint64(dyn)) {
			case elf.DT_RPATH, elf.DT_RUNPATH:
				binary.LittleEndian.PutUint64(dyn[8:], 0)
			}
		}
	}
}

// section is a part of the file, and where it is in memory.
type section struct {
	data []byte
	addr uint64
}

// loaded returns the parts of the file that are loaded as they are: not the
// linker's symbols and strings.
func (o *object) loaded(executable bool) []section {
	var parts []section
	for _, s := range o.elf.Sections {
		if s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_ALLOC == 0 || s.Name == ".interp" {
			continue
		}
		if s.Flags&elf.SHF_EXECINSTR != 0 != executable || s.Offset+s.FileSize > uint64(len(o.data)) {
			continue
		}
		parts = append(parts, section{o.data[s.Offset : s.Offset+s.FileSize], s.Addr})
	}
	return parts
}

func (o *object) code() []section { return o.loaded(true) }

// constants are where string constants are.
func (o *object) constants() [][]byte {
	var parts [][]byte
	for _, s := range o.loaded(false) {
		parts = append(parts, s.data)
	}
	return parts
}

// addresses are where in memory a string constant is.
func (o *object) addresses(text string) []uint64 {
	var found []uint64
	for _, s := range o.loaded(false) {
		if i := bytes.Index(s.data, []byte(text)); i >= 0 {
			found = append(found, s.addr+uint64(i))
		}
	}
	return found
}

// edit replaces string constants by others that are no longer, and returns how
// many it found.
func (o *object) edit(e edit) int {
	n := 0
	for _, part := range o.constants() {
		n += e.apply(part)
	}
	return n
}

// edit is one change to the string constants of a file.
type edit struct{ old, new string } // of the same length

// prefix replaces the beginning of paths: same length, the rest stays.
func prefix(old, new string) edit {
	if len(new) > len(old) {
		panic("image: " + new + " is longer than " + old)
	}
	return edit{old: old, new: new + strings.Repeat("/", len(old)-len(new))}
}

// whole replaces a C string from end to end.
func whole(old, new string) edit {
	if len(new) > len(old) {
		panic("image: " + new + " is longer than " + old)
	}
	return edit{old: "\x00" + old + "\x00", new: "\x00" + new + strings.Repeat("\x00", len(old)-len(new)+1)}
}

// blank makes a C string empty: open("") is ENOENT in any container. Only the
// first byte goes. Linkers keep a string that another one ends in as the tail
// of that: bash's "logout" is the end of "~/.bash_logout".
func blank(old string) edit {
	return edit{old: "\x00" + old + "\x00", new: "\x00\x00" + old[1:] + "\x00"}
}

func (e edit) apply(b []byte) int {
	n := 0
	for {
		i := bytes.Index(b, []byte(e.old))
		if i < 0 {
			return n
		}
		copy(b[i:], e.new)
		n++
		// A whole string's last NUL may be the next one's first.
		b = b[i+len(e.old)-1:]
	}
}
