package image

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// hostSource is this machine itself.
func hostSource(a arch) (*source, error) {
	s := &source{root: "/", libs: hostLibraries(a)}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/bin", "/sbin", "/bin") {
		if filepath.IsAbs(dir) {
			s.bins = append(s.bins, dir)
		}
	}
	s.name = "the machine that built it: " + osName("/etc/os-release")
	s.lock = []string{"# from " + s.name}
	return s, nil
}

// hostLibraries are the directories in which ld.so looks: those of
// /etc/ld.so.conf, then those it was built with.
func hostLibraries(a arch) []string {
	return append(ldConf("/etc/ld.so.conf", 0),
		"/lib/"+a.multiarch, "/usr/lib/"+a.multiarch, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
}

// ldConf reads a file of ldconfig(8) and what it includes.
func ldConf(path string, depth int) []string {
	f, err := os.Open(path)
	if err != nil || depth > 8 {
		return nil
	}
	defer f.Close()
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if glob, ok := strings.CutPrefix(line, "include"); ok {
			dirs = append(dirs, ldInclude(filepath.Dir(path), strings.TrimSpace(glob), depth)...)
			continue
		}
		if filepath.IsAbs(line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}

func ldInclude(dir, glob string, depth int) []string {
	if !filepath.IsAbs(glob) {
		glob = filepath.Join(dir, glob)
	}
	files, _ := filepath.Glob(glob)
	var dirs []string
	for _, f := range files {
		dirs = append(dirs, ldConf(f, depth+1)...)
	}
	return dirs
}

// osName reads a file of os-release(5).
func osName(file string) string {
	b, _ := os.ReadFile(file)
	for _, line := range strings.Split(string(b), "\n") {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "unknown"
}
