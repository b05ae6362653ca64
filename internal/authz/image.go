package authz

import "strings"

// spellings are the ways to write an image: as somebody typed it, and as the
// registry's own rules complete that (docs.docker.com/reference/cli/docker/image/tag).
// nginx is also nginx:latest, library/nginx and docker.io/library/nginx:latest;
// and nginx:1.27 is also nginx, of whatever version.
func spellings(image string) []string {
	if image == "" || isSHA256(strings.TrimPrefix(image, "sha256:")) {
		return []string{image}
	}
	rest, digest, _ := strings.Cut(image, "@")
	repository, tag := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		repository, tag = rest[:i], rest[i+1:]
	}
	if tag == "" && digest == "" {
		tag = "latest"
	}
	all := []string{image}
	for _, name := range repositories(repository) {
		all = append(all, name)
		if tag != "" {
			all = append(all, name+":"+tag)
		}
		if digest != "" {
			all = append(all, name+"@"+digest)
		}
	}
	return all
}

// repositories are the ways to write one: docker.io and library/ may be left out.
func repositories(name string) []string {
	host, path, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "docker.io", name
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host != "docker.io" {
		return []string{host + "/" + path}
	}
	short := strings.TrimPrefix(path, "library/")
	if strings.Contains(short, "/") {
		return []string{short, "docker.io/" + short}
	}
	return []string{short, "library/" + short, "docker.io/library/" + short, "docker.io/" + short}
}
