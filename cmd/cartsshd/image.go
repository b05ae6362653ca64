package main

import (
	"context"
	"os"

	"github.com/cartsshd/cartsshd/image"
)

type imageCmd struct {
	Build  imageBuildCmd  `cmd:"" help:"Build it, from Debian's packages or from this machine's programs."`
	Show   imageShowCmd   `cmd:"" help:"Say what an image is."`
	Ls     imageLsCmd     `cmd:"" help:"List the commands in an image, or the packages."`
	Verify imageVerifyCmd `cmd:"" help:"Say whether everything in an image is as it was built."`
	Status imageStatusCmd `cmd:"" help:"Say which images are attached, and who sees and uses them."`
	Bind   imageBindCmd   `cmd:"" help:"Put the image at a directory of this host, for docker run -v."`
	Unbind imageUnbindCmd `cmd:"" help:"Take it away from there."`
	Diff   imageDiffCmd   `cmd:"" help:"Say how two images differ: 0 if they do not, 1 if they do, 2 for trouble."`
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
