package main

import (
	"context"
	"os"

	"github.com/cartsshd/cartsshd/image"
)

type imageCmd struct {
	Build imageBuildCmd `cmd:"" help:"Build it, from Debian's packages or from this machine's programs."`
}

type imageBuildCmd struct {
	Output   string `short:"o" placeholder:"FILE" default:"tools.img" help:"The image (${default})."`
	FS       string `name:"fs" default:"squashfs" help:"squashfs or erofs (${default})."`
	FromHost bool   `help:"Take this machine's programs: seconds, and no network."`
}

func (c imageBuildCmd) Run(ctx context.Context) error {
	return image.Build(ctx, image.Options{Output: c.Output, FS: c.FS, FromHost: c.FromHost, Log: os.Stderr})
}
