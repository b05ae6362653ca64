package image

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// filesystem is a way to make one file of a tree, the same bits every time.
type filesystem struct {
	name, tool, pkg string
	args            func(root, out string, epoch int64) []string
}

var filesystems = []filesystem{
	{"squashfs", "mksquashfs", "squashfs-tools", squashfsArgs},
	{"erofs", "mkfs.erofs", "erofs-utils", erofsArgs},
	{"ext4", "mke2fs", "e2fsprogs", ext4Args},
}

func filesystemOf(name string) (filesystem, error) {
	if name == "" {
		name = filesystems[0].name
	}
	for _, f := range filesystems {
		if f.name == name {
			return f, nil
		}
	}
	return filesystem{}, fmt.Errorf("image: file system %q: not one of squashfs, erofs, ext4", name)
}

// squashfsArgs choose zstd: with lz4 a first bash is there in 12 ms rather than
// 20, with a cold cache, and the image half as large again. A level of 19 makes
// it 1 % smaller, in three times the time.
func squashfsArgs(root, out string, epoch int64) []string {
	t := strconv.FormatInt(epoch, 10)
	return []string{root, out, "-noappend", "-quiet", "-no-progress",
		"-all-root", "-no-xattrs", "-no-exports", "-mkfs-time", t, "-all-time", t,
		"-comp", "zstd", "-Xcompression-level", "15", "-b", "256K"}
}

func erofsArgs(root, out string, epoch int64) []string {
	return []string{"--quiet", "-T" + strconv.FormatInt(epoch, 10), "--all-root", "-x-1",
		"-U00000000-0000-0000-0000-000000000000", "-zlz4hc", "-C65536", out, root}
}

// ext4Args are for kernels that have neither of the others. The size is made
// for what is in it.
func ext4Args(root, out string, epoch int64) []string {
	blocks, files := sizeOf(root)
	return []string{"-q", "-F", "-t", "ext4", "-d", root, "-b", "4096", "-I", "256", "-m", "0", "-N", strconv.FormatInt(files+64, 10),
		"-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg", "-U", "00000000-0000-0000-0000-000000000000",
		"-E", "hash_seed=00000000-0000-0000-0000-000000000001,root_owner=0:0,lazy_itable_init=0,nodiscard",
		out, strconv.FormatInt((blocks+blocks/50+files/8+512)*4, 10) + "k"}
}

// sizeOf is how many blocks of 4 KiB a tree takes, and how many inodes.
func sizeOf(root string) (blocks, files int64) {
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files++
		blocks++
		if st, err := d.Info(); err == nil && d.Type().IsRegular() {
			blocks += st.Size() / 4096
		}
		return nil
	})
	return blocks, files
}

// settle makes an ext4 root's, and the same every time: mke2fs takes owners and
// times of change from the folder.
func settle(ctx context.Context, root, out string, epoch int64) error {
	var script strings.Builder
	err := filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(file, root), "/")
		if strings.ContainsAny(name, "\"\n") {
			return fmt.Errorf("%s: no name for a file in an ext4 image", name)
		}
		for _, field := range []string{"uid", "gid"} {
			fmt.Fprintf(&script, "sif \"%s\" %s 0\n", name, field)
		}
		for _, field := range []string{"ctime", "atime", "mtime", "crtime"} {
			fmt.Fprintf(&script, "sif \"%s\" %s @%d\nsif \"%s\" %s_extra 0\n", name, field, epoch, name, field)
		}
		return err
	})
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "debugfs", "-w", "-f", "-", out)
	c.Env = append(withoutEnv("E2FSPROGS_FAKE_TIME"), "E2FSPROGS_FAKE_TIME="+strconv.FormatInt(max(epoch, 1), 10))
	c.Stdin = strings.NewReader(script.String())
	var complaints bytes.Buffer
	c.Stderr = &complaints
	if err := c.Run(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, lastLine(complaints.Bytes()))
	}
	return nil
}

func (b *build) pack(ctx context.Context, root, out string) error {
	tool, err := exec.LookPath(b.fs.tool)
	if err != nil {
		return fmt.Errorf("image: %s: not found (try: apt-get install %s)", b.fs.tool, b.fs.pkg)
	}
	epoch, err := sourceDate()
	if err != nil {
		return err
	}
	if err := flatten(root, epoch); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	c := exec.CommandContext(ctx, tool, b.fs.args(root, out, epoch)...)
	// mksquashfs refuses to be told the time twice, and mke2fs knows no other way.
	c.Env = append(withoutEnv("SOURCE_DATE_EPOCH"), "LC_ALL=C", "E2FSPROGS_FAKE_TIME="+strconv.FormatInt(max(epoch, 1), 10))
	b.Progress("packing", 0, 0)
	if msg, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("image: %s: %w: %s", b.fs.tool, cmp.Or(context.Cause(ctx), err), lastLine(msg))
	}
	if b.fs.name == "ext4" {
		return settle(ctx, root, out, epoch)
	}
	return nil
}

// sourceDate is the one time that every file has: SOURCE_DATE_EPOCH
// (reproducible-builds.org), or 1970.
func sourceDate() (int64, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return 0, nil
	}
	t, err := strconv.ParseInt(s, 10, 64)
	if err != nil || t < 0 {
		return 0, fmt.Errorf("image: SOURCE_DATE_EPOCH=%q: not a number of seconds", s)
	}
	return t, nil
}

// flatten takes away what would differ from one machine to the next.
func flatten(root string, epoch int64) error {
	when := time.Unix(epoch, 0)
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		if d.IsDir() {
			if err := os.Chmod(file, 0o755); err != nil {
				return err
			}
		}
		return os.Chtimes(file, when, when)
	})
}

func withoutEnv(name string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, name+"=") {
			env = append(env, v)
		}
	}
	return env
}

func lastLine(msg []byte) string {
	msg = bytes.TrimSpace(msg)
	return string(msg[bytes.LastIndexByte(msg, '\n')+1:])
}
