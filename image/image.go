// Package image builds the tools image: a read-only file system of debugging
// tools that work at /dev/crashcart of any container, whatever the container
// itself has, lacks or pretends.
//
// The tools are Debian's, or the building machine's own, byte for byte but for
// the paths compiled into them: each executable names the image's own loader,
// which looks for libraries in the image and nowhere else, and knows neither
// /etc/ld.so.preload nor LD_PRELOAD. The shell, which every session starts, is a
// static one where there is one; it loads nothing at all. Nothing is compiled,
// nothing is patched that does not keep its size, and root is not needed.
//
// # What an environment must hold
//
// Programs of the image run with an empty environment but for PATH and TERM:
// where terminfo, certificates and OpenSSL's configuration are is compiled in.
// What a caller should set all the same:
//
//	PATH=/dev/crashcart/bin:/dev/crashcart/sbin:…   the image first
//	LC_CTYPE=C.UTF-8                                the only locale there is, where it is not C
//	SHELL=/dev/crashcart/bin/bash                   for less and vi
//	LESSHISTFILE=-                                  nothing is left behind
//	TERMINFO_DIRS=/dev/crashcart/share/terminfo     these three for programs
//	SSL_CERT_FILE=/dev/crashcart/share/ca-certificates.crt
//	OPENSSL_CONF=/dev/crashcart/openssl.cnf         that are not of the image's build
//
// An interactive bash reads /dev/crashcart/.crashcartrc by itself, which sets
// all of them; CARTSSHD_PERSON and CARTSSHD_TARGET appear in its prompt.
package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Root is where a container sees the image. It is compiled into every program.
const Root = "/dev/crashcart"

// Options say what to build. Only Output is required.
type Options struct {
	Output string // path of the image file; replaced atomically

	// Profile is one of Profiles; empty is "std", and "min" from the host.
	Profile string

	// Add are packages to take besides, as "PACKAGE", all of its commands, or as
	// a line of the file packages. Remove are packages or commands not to take.
	Add, Remove []string

	// Files is a folder that is laid over the image: its bin/ becomes commands,
	// relocated like the others, its lib/ is looked in first for their
	// libraries, and whatever else it has is copied. Empty is none.
	Files string

	// Lock is the packages.lock of an earlier image: these very packages are
	// taken again, or nothing. Empty is Debian's newest.
	Lock string

	// FS is the file system: "squashfs" (the default), "erofs" or "ext4".
	FS string

	// Packages are lines of the form of the file packages, instead of it.
	Packages []string

	// Sources is an apt sources.list to use instead of this machine's.
	Sources string

	// FromHost takes programs and libraries of this machine: seconds, and no
	// network. Otherwise they are Debian's, from the sources of this machine.
	FromHost bool

	// Arch is Go's name of the architecture: "amd64", "arm64". Empty is this
	// machine's own.
	Arch string

	// Log gets a line for each stage and for everything left out. Nil is
	// silence.
	Log io.Writer `json:"-"`

	// Progress is told how far the present stage is: done of total, in any unit.
	// A total of 0 is not known.
	// Nil is nobody.
	Progress func(stage string, done, total int) `json:"-"`

	// CacheDir keeps downloads. Empty is cartsshd in the user's cache
	// directory ($XDG_CACHE_HOME, ~/.cache).
	CacheDir string
}

// Build makes the image. On an error there is no new file at Output, and no
// part of one.
func Build(ctx context.Context, o Options) error {
	b, err := newBuild(o)
	if err != nil {
		return err
	}
	work, err := b.workplace()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	src, done, err := b.source(ctx)
	if err != nil {
		return err
	}
	defer done()
	t := newTree(filepath.Join(work, "root"), b.arch)
	if err := b.fill(t, src); err != nil {
		return err
	}
	if err := t.prove(ctx); err != nil {
		return err
	}
	packed := filepath.Join(work, "image")
	if err := b.pack(ctx, t.root, packed); err != nil {
		return err
	}
	return b.publish(packed)
}

// build is a checked Options.
type build struct {
	Options
	arch  arch
	list  list
	asked map[string]bool // commands that --add names
	fs    filesystem
}

func newBuild(o Options) (*build, error) {
	if o.Output == "" {
		return nil, errors.New("image: no output file named")
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	o.Arch = cmp.Or(o.Arch, runtime.GOARCH)
	if o.Profile == "" {
		o.Profile = map[bool]string{false: "std", true: "min"}[o.FromHost]
	}
	if !slices.Contains(Profiles, o.Profile) {
		return nil, fmt.Errorf("image: profile %q: not one of %s", o.Profile, strings.Join(Profiles, ", "))
	}
	b := &build{Options: o, asked: map[string]bool{}}
	var err error
	if b.arch, err = archOf(o.Arch); err != nil {
		return nil, err
	}
	if o.FromHost && o.Arch != runtime.GOARCH {
		return nil, fmt.Errorf("image: --from-host: this machine is %s, not %s", runtime.GOARCH, o.Arch)
	}
	if b.fs, err = filesystemOf(o.FS); err != nil {
		return nil, err
	}
	if b.FromHost && b.Lock != "" {
		return nil, errors.New("image: --from-host: this machine's programs are no packages: --lock means nothing")
	}
	if b.list, err = b.wanted(); err != nil {
		return nil, err
	}
	return b, nil
}

// workplace makes a folder beside the output, so that this is on the same disk.
// What cannot be written there is said before all the work.
func (b *build) workplace() (string, error) {
	if st, err := os.Stat(b.Output); err == nil && !st.Mode().IsRegular() {
		return "", fmt.Errorf("image: --output %s: there is something that is not a file", b.Output)
	}
	work, err := os.MkdirTemp(filepath.Dir(b.Output), ".tools-image-")
	if err != nil {
		return "", fmt.Errorf("image: --output %s: cannot write to that folder: %w", b.Output, bare(err))
	}
	return work, nil
}

func (b *build) logf(format string, args ...any) {
	fmt.Fprintf(b.Log, format+"\n", args...)
}

// source is where programs come from, until done is called: what is in the cache
// may go when another build uses that.
func (b *build) source(ctx context.Context) (s *source, done func() error, err error) {
	if b.FromHost {
		s, err = hostSource(b.arch)
		return s, func() error { return nil }, err
	}
	dir, err := b.cache()
	if err != nil {
		return nil, nil, fmt.Errorf("image: %w", err)
	}
	if done, err = b.alone(dir); err != nil {
		return nil, nil, err
	}
	if s, err = b.debianSource(ctx, dir); err != nil {
		done()
		return nil, nil, err
	}
	return s, done, nil
}

// publish puts the finished file where it belongs, on disk before it has its
// name.
func (b *build) publish(packed string) error {
	f, err := os.OpenFile(packed, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := os.Rename(packed, b.Output); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	b.logf("%s: %.1f MB, %s", b.Output, float64(st.Size())/1e6, b.fs.name)
	return nil
}
