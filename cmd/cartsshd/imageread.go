package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/cartsshd/cartsshd/image"
)

// columns are for people: two blanks between them.
func columns(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

type imageShowCmd struct {
	Image string `arg:"" help:"The image file."`
}

// Run prints what an image is, and the line by which a configuration pins it.
func (c imageShowCmd) Run(ctx context.Context, out io.Writer) error {
	im, in, err := contents(ctx, c.Image)
	if err != nil {
		return err
	}
	w := columns(out)
	for _, line := range [][2]string{
		{"file", im.Path()},
		{"size", fmt.Sprintf("%d bytes (%s)", im.size(), megabytes(im.size()))},
		{"sha256", im.sha256},
		{"file system", im.Type()},
		{"profile", in.Profile},
		{"architecture", in.Arch},
		{"from", in.From},
		{"inputs", cmp.Or(strings.Join(in.Inputs, "\n\t"), "none")},
		{"commands", strconv.Itoa(len(in.Commands()))},
		{"packages", strconv.Itoa(len(in.Packages))},
		{"files", strconv.Itoa(len(in.Files))},
		{"unpacked", megabytes(in.Unpacked())},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	absolute, err := filepath.Abs(im.Path())
	fmt.Fprintf(w, "\nimage: {path: %s, sha256: %s}\n", yamlWord(absolute), im.sha256)
	return errors.Join(err, w.Flush())
}

var yamlPlain = regexp.MustCompile(`^/[A-Za-z0-9/._+-]*$`)

// yamlWord quotes what YAML could take for something else.
func yamlWord(s string) string {
	if yamlPlain.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

type imageLsCmd struct {
	Image    string `arg:"" help:"The image file."`
	Packages bool   `help:"List packages, and how much of the image is theirs."`
}

func (c imageLsCmd) Run(ctx context.Context, out io.Writer) error {
	_, in, err := contents(ctx, c.Image)
	if err != nil {
		return err
	}
	w := columns(out)
	if c.Packages {
		listPackages(w, in)
	} else {
		listCommands(w, in)
	}
	return w.Flush()
}

func listCommands(w io.Writer, in *image.Contents) {
	for _, f := range in.Commands() {
		size := strconv.FormatInt(f.Size, 10)
		if f.Link != "" {
			size = "-> " + f.Link
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", path.Base(f.Name), size, cmp.Or(f.Package, "-"), cmp.Or(in.Version(f.Package), "-"))
	}
}

func listPackages(w io.Writer, in *image.Contents) {
	all := max(in.Unpacked(), 1)
	for _, s := range in.Shares() {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f %%\n", cmp.Or(s.Name, "-"), cmp.Or(s.Version, "-"), s.Bytes, 100*float64(s.Bytes)/float64(all))
	}
}

type imageVerifyCmd struct {
	Image  string `arg:"" help:"The image file."`
	SHA256 string `name:"sha256" placeholder:"HEX" help:"The digest that the file must have."`
}

var hexDigest = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// Validate is called by kong.
func (c imageVerifyCmd) Validate() error {
	if c.SHA256 != "" && !hexDigest.MatchString(c.SHA256) {
		return fmt.Errorf("--sha256: %q: not 64 hexadecimal digits", c.SHA256)
	}
	return nil
}

// Run prints a line for each thing that is wrong. With another digest than the
// one that was given it is another image: that is not handed to the kernel to
// see what else there is.
func (c imageVerifyCmd) Run(ctx context.Context, out io.Writer) error {
	im, err := openImageFile(c.Image)
	if err != nil {
		return err
	}
	defer im.Close()
	if c.SHA256 != "" && !strings.EqualFold(c.SHA256, im.sha256) {
		fmt.Fprintf(out, "%s: its sha256 is %s, not %s\n", im.Path(), im.sha256, strings.ToLower(c.SHA256))
		return exitCode(1)
	}
	var in *image.Contents
	var faults []image.Fault
	unseen := ""
	err = im.read(ctx, func(tree fs.FS, whole bool) (err error) {
		if !whole {
			unseen = "; owners and setuid bits are not seen without root"
		}
		in, faults, err = image.Verify(ctx, tree, whole)
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range faults {
		fmt.Fprintf(out, "%s: %s\n", im.Path(), f)
	}
	if len(faults) > 0 {
		return exitCode(1)
	}
	_, err = fmt.Fprintf(out, "ok  sha256 %s: %d commands, %d packages, %d files%s\n", im.sha256, len(in.Commands()), len(in.Packages), len(in.Files), unseen)
	return err
}

type imageDiffCmd struct {
	A string `arg:"" help:"An image file."`
	B string `arg:"" help:"Another one."`
}

// Run is diff(1) for images: 1 if they differ, 2 if that could not be told.
func (c imageDiffCmd) Run(ctx context.Context, out io.Writer) error {
	a, inA, err := contents(ctx, c.A)
	if err != nil {
		return failed(2, err)
	}
	b, inB, err := contents(ctx, c.B)
	if err != nil {
		return failed(2, err)
	}
	changes := image.Diff(inA, inB)
	w := columns(out)
	for _, change := range changes {
		fmt.Fprintln(w, changeLine(change))
	}
	if a.sha256 != b.sha256 {
		fmt.Fprintf(w, "\timage\tfile\t%s, %s -> %s, %s\n", megabytes(a.size()), a.Type(), megabytes(b.size()), b.Type())
		fmt.Fprintf(w, "\timage\tunpacked\t%s -> %s\n", megabytes(inA.Unpacked()), megabytes(inB.Unpacked()))
	}
	if err := w.Flush(); err != nil {
		return failed(2, err)
	}
	if len(changes) > 0 {
		return exitCode(1)
	}
	return nil
}

// changeLine begins with "+", "-" or, for what is in both, "!".
func changeLine(c image.Change) string {
	sign, text := "!", c.Old+" -> "+c.New
	if c.Old == "" {
		sign, text = "+", c.New
	}
	if c.New == "" {
		sign, text = "-", c.Old
	}
	if c.Kind == "input" || c.Kind == "command" {
		text = "" // the name says it
	}
	return strings.TrimRight(strings.Join([]string{sign, cmp.Or(c.Kind, "image"), c.Name, text}, "\t"), "\t")
}
