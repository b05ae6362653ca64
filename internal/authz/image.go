package authz

import (
	"cmp"
	"errors"
	"slices"
	"strings"
)

// ImagePattern matches images by what comes before the tag, by the tag, and by
// the digest; each is a [Glob], and goes beyond none of the others. What it does
// not mention may be anything: nginx is nginx of whatever version.
//
// What registries take for one is one here: nginx is also library/nginx and
// docker.io/library/nginx (docs.docker.com/reference/cli/docker/image/tag).
type ImagePattern struct {
	text                    string // as the file has it
	repository, tag, digest Glob
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (p *ImagePattern) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New(`is empty: "*" matches anything`)
	}
	repository, tag, digest := cutImage(string(text))
	if repository == "" || strings.HasSuffix(string(text), ":") || strings.HasSuffix(string(text), "@") {
		return errors.New(`is no image: that is such as nginx, "nginx:1.*" or "registry.corp:5000/team/*"`)
	}
	p.text = string(text)
	return cmp.Or(p.repository.compile(plainRegistry(repository)), p.tag.compile(tag), p.digest.compile(digest))
}

func (p *ImagePattern) said() bool { return p.repository.pattern != nil }

func (p *ImagePattern) allows(i image) bool {
	return !p.said() || p.tag.allows(i.tag) && p.digest.allows(i.digest) && slices.ContainsFunc(i.repositories, p.repository.Match)
}

func (p ImagePattern) String() string { return p.text }

// An image is what a container was made from, cut into its parts.
type image struct {
	repositories []string // all ways to write the same
	tag, digest  string
}

// imageOf cuts what somebody typed. Without tag and digest, the registry's word
// for it is latest.
func imageOf(text string) (i image) {
	id := strings.TrimPrefix(text, "sha256:")
	switch {
	case text == "":
		return image{}
	case isSHA256(id): // not from a registry, as far as anybody knows
		return image{repositories: []string{"sha256", id}, tag: id}
	}
	var repository string
	repository, i.tag, i.digest = cutImage(text)
	if i.tag == "" && i.digest == "" {
		i.tag = "latest"
	}
	i.repositories = spellings(repository)
	return i
}

// cutImage looks for the tag behind the last slash: before it, a colon is that of
// a registry's port.
func cutImage(text string) (repository, tag, digest string) {
	repository, digest, _ = strings.Cut(text, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	}
	return repository, tag, digest
}

// spellings of a repository: docker.io and library/ may be left out.
func spellings(repository string) []string {
	host, path, ok := strings.Cut(plainRegistry(repository), "/")
	if !ok || !isRegistry(host) {
		host, path = "docker.io", repository
	}
	if host != "docker.io" {
		return []string{host + "/" + path}
	}
	short := strings.TrimPrefix(path, "library/")
	if strings.Contains(short, "/") {
		return []string{path, "docker.io/" + path}
	}
	return []string{short, "library/" + short, "docker.io/library/" + short, "docker.io/" + short}
}

// isRegistry tells a registry from the first part of a name on docker.io, as
// github.com/distribution/reference does.
func isRegistry(host string) bool {
	return strings.ContainsAny(host, ".:") || host == "localhost" || host != strings.ToLower(host)
}

// plainRegistry writes the registry of a repository, or of a pattern for some, in
// one way of those that lead to the same.
func plainRegistry(repository string) string {
	host, path, ok := strings.Cut(repository, "/")
	if !ok || !strings.ContainsAny(host, ".:") {
		return repository
	}
	host = strings.ToLower(host)
	if !strings.ContainsAny(host, "*?") {
		host = strings.TrimSuffix(host, ":443")
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	return host + "/" + path
}
