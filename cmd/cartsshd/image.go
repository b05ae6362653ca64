package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/image"
	"github.com/cartsshd/cartsshd/internal/loop"
)

// openTools opens the tools image and reads its shell: a file system may be
// whole enough to be mounted, and have nothing in it that could be run.
func openTools(path string) (*loop.Image, error) {
	if err := trusted(path); err != nil {
		return nil, err
	}
	image, err := loop.Open(path)
	if err != nil {
		return nil, err
	}
	if err := readShell(image); err != nil {
		_ = image.Close()
		return nil, fmt.Errorf("%s: %w: build one with \"make image\"", path, err)
	}
	return image, nil
}

func readShell(image *loop.Image) error {
	mount, err := image.Mount(nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	fd, err := unix.Openat(int(mount.Fd()), "bin/bash", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "bin/bash", Err: err}
	}
	shell := os.NewFile(uintptr(fd), "bin/bash")
	_, err = io.Copy(io.Discard, shell)
	return errors.Join(err, shell.Close())
}

type imageCmd struct {
	Build imageBuildCmd `cmd:"" help:"Build it, from Debian's packages or from this machine's programs."`
}

type imageBuildCmd struct {
	Output   string   `short:"o" placeholder:"FILE" default:"tools.img" help:"The image (${default})."`
	Profile  string   `short:"p" placeholder:"PROFILE" help:"min, std or full (std; from the host, min)."`
	Arch     string   `placeholder:"ARCH" help:"amd64 or arm64 (this machine's)."`
	FS       string   `name:"fs" default:"squashfs" help:"squashfs, erofs or ext4 (${default})."`
	Add      []string `sep:"none" placeholder:"PACKAGE" help:"Take all commands of this package besides, or some: 'PACKAGE: COMMAND COMMAND'."`
	Remove   []string `sep:"none" placeholder:"NAME" help:"Leave this package or command out."`
	Files    string   `placeholder:"DIR" help:"Lay this folder over the image: DIR/bin becomes commands."`
	Lock     string   `placeholder:"FILE" help:"Take the very packages of this packages.lock, of an earlier image."`
	Sources  string   `placeholder:"FILE" help:"An apt sources.list, instead of this machine's sources."`
	Cache    string   `placeholder:"DIR" help:"Where downloads are kept (~/.cache/cartsshd)."`
	FromHost bool     `help:"Take this machine's programs: seconds, and no network."`
}

func (c imageBuildCmd) Run(ctx context.Context) error {
	bar := newBar(os.Stderr)
	defer bar.clear()
	return image.Build(ctx, image.Options{
		Output: c.Output, Profile: c.Profile, Arch: c.Arch, FS: c.FS, Add: c.Add, Remove: c.Remove, Files: c.Files,
		Lock: c.Lock, Sources: c.Sources, CacheDir: c.Cache, FromHost: c.FromHost, Log: bar, Progress: bar.show,
	})
}
