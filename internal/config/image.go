package config

import (
	"errors"
	"strings"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Images are the tools images, at least one. The file has one, or a list.
type Images []Image

// Image is a tools image.
type Image struct {
	Name   authz.Name `yaml:"name"` // by which a rule demands it; empty: none does
	Path   string     `yaml:"path"`
	SHA256 Digest     `yaml:"sha256"` // of the file; empty: any
}

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (im *Images) UnmarshalStrict(n *strictyaml.Node) {
	if !n.IsList() {
		one := Image{Path: toolsImage}
		n.Decode(&one)
		*im = Images{one}
		return
	}
	var list []listed
	n.Decode(&list)
	*im = nil
	for _, l := range list {
		*im = append(*im, Image(l))
	}
	if len(list) == 0 {
		n.Problemf("names no image: take it out for %s", toolsImage)
	}
}

// listed is an Image of a list: only one that is alone has a path by default.
type listed Image

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (l *listed) UnmarshalStrict(n *strictyaml.Node) {
	n.Decode((*Image)(l))
	if n.Lacks("path") {
		n.Problemf("image has no path: write path: FILE")
	}
}

// Digest is a SHA-256 in hex.
type Digest string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 64 || strings.Trim(string(text), "0123456789abcdef") != "" {
		return errors.New("wants 64 hex digits in lower case, as sha256sum prints them")
	}
	*d = Digest(text)
	return nil
}
