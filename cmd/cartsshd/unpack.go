package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unpacker is a program that makes a folder of a file system, for whoever may
// not attach it. In its arguments IMAGE and FOLDER are put in.
type unpacker struct {
	tool, pkg string
	args      []string
	noise     string // what it complains of to everybody but root
}

var unpackers = map[string]unpacker{
	"squashfs": {"unsquashfs", "squashfs-tools", []string{"-q", "-n", "-no-xattrs", "-d", "FOLDER", "IMAGE"}, ""},
	"erofs":    {"fsck.erofs", "erofs-utils", []string{"--extract=FOLDER", "--preserve-perms", "--no-preserve-owner", "IMAGE"}, ""},
	// It exits 0 whatever happens.
	"ext4": {"debugfs", "e2fsprogs", []string{"-R", "rdump / FOLDER", "IMAGE"}, "while changing ownership of"},
}

// What no tools image needs.
const (
	unpackTime = 2 * time.Minute
	unpackFile = 4 << 30 // bytes
)

// unpack makes the folder "tools" in dir of an image file.
func unpack(ctx context.Context, file *os.File, fstype, dir string) error {
	u := unpackers[fstype]
	tool, err := lookUp(u.tool)
	if err != nil {
		return fmt.Errorf("%s: is needed to read a %s without root (try: apt-get install %s)", u.tool, fstype, u.pkg)
	}
	if fstype != "squashfs" { // which makes its own, and refuses another
		if err := os.Mkdir(filepath.Join(dir, "tools"), 0o755); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, unpackTime, fmt.Errorf("not done after %v", unpackTime))
	defer cancel()
	c := exec.CommandContext(ctx, tool, u.arguments()...)
	c.Dir = dir
	c.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	c.ExtraFiles = []*os.File{file} // this very file, whatever its name is now
	said := lastWord{noise: u.noise}
	c.Stdout, c.Stderr = &said, &said
	if err := startConfined(c, dir); err != nil {
		return fmt.Errorf("%s: %w", u.tool, err)
	}
	err = c.Wait()
	if gaveUp := context.Cause(ctx); gaveUp != nil {
		return fmt.Errorf("%s: %w", u.tool, gaveUp)
	}
	complaint := said.end()
	if err == nil && (complaint == "" || fstype != "ext4") {
		return nil
	}
	return fmt.Errorf("%s: %s: %s", u.tool, cmp.Or(complaint, fmt.Sprint(err)), buildAnew)
}

// lookUp is LookPath for everybody: Debian's users do not have sbin in PATH.
func lookUp(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, tool))
		}
	}
	return path, err
}

func (u unpacker) arguments() []string {
	var args []string
	for _, arg := range u.args {
		args = append(args, strings.NewReplacer("FOLDER", "tools", "IMAGE", "/proc/self/fd/3").Replace(arg))
	}
	return args
}

// lastWord keeps the last line that is written to it, but for noise and for
// what a terminal would obey. A tool can have something to say about each of a
// million files.
type lastWord struct {
	noise string
	line  []byte
	last  string
}

func (w *lastWord) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' {
			w.end()
			continue
		}
		if len(w.line) < 1024 {
			w.line = append(w.line, c)
		}
	}
	return len(p), nil
}

// end ends a line, and returns the last one that matters.
func (w *lastWord) end() string {
	line := strings.Map(printable, strings.TrimSpace(string(w.line)))
	w.line = w.line[:0]
	noise := w.noise != "" && strings.Contains(line, w.noise) || strings.HasPrefix(line, "debugfs 1.")
	if line != "" && !noise {
		w.last = line
	}
	return w.last
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// startConfined starts a command that can write below dir and nowhere else, and
// no file without end. A hostile image has names like "../../.bashrc", or one
// name for a link and a file, and not every tool is a match for that.
func startConfined(c *exec.Cmd, dir string) error {
	started := make(chan error)
	go func() {
		// Never unlocked: the thread goes with the goroutine, and so do its
		// confines.
		runtime.LockOSThread()
		err := confine(dir)
		if err == nil {
			err = c.Start()
		}
		started <- err
	}()
	if err := <-started; err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: unpackFile, Max: unpackFile}
	_ = unix.Prlimit(c.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil) // it may be done already
	return nil
}

// confine keeps the calling thread, and what it starts, from writing anywhere
// but below dir, by Landlock (Linux 5.13). The modes of what is written are
// those of the image, whatever our umask.
func confine(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	unix.Umask(0)
	rights := writing()
	if rights == 0 {
		return errors.New("this kernel has no Landlock, to keep it from writing elsewhere (try: sudo, which attaches the image instead)")
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rights)), unsafe.Sizeof(rights), 0)
	if errno != 0 {
		return fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	defer unix.Close(int(ruleset))
	below, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(below)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(below)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_add_rule: %w", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return nil
}

// writing are all rights to change files that this kernel's Landlock knows; none
// if it has no Landlock.
func writing() uint64 {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	rights := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM)
	if version >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return rights
}

// removeAll removes a folder that somebody else has made, also what is in
// folders that nobody may write to.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(name, 0o700) // before it is read
		}
		return err
	})
	return os.RemoveAll(dir)
}
