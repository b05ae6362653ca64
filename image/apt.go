package image

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// apt is a private apt: sources, keys and proxies of this machine, state and
// downloads of its own, nothing installed. It does not need root. A download
// that broke off goes on where it was.
type apt struct {
	dir      string // of the cache
	arch     arch
	sources  string // a sources.list, or "" for this machine's
	log      func(format string, args ...any)
	progress func(stage string, done, total int)
}

// supposed are packages that apt is told are there already. They set a system
// up, and an image is none; without this they would be half of the download.
var supposed = []string{
	"adduser", "base-passwd", "cron", "dbus", "debconf", "dpkg", "init-system-helpers",
	"install-info", "libaudit-common", "libsemanage-common", "login", "lsb-base", "media-types", "mime-support", "passwd", "perl", "perl-base",
	"readline-common", "sensible-utils", "systemd", "ucf", "usr-is-merged", "usrmerge",
}

// fetch returns the packages of the list and all that they depend on, sorted.
func (a *apt) fetch(ctx context.Context, l list) ([]deb, error) {
	if err := a.ready(ctx); err != nil {
		return nil, err
	}
	a.progress("packages", 0, 0)
	args := []string{"install", "--download-only", "--yes", "--no-install-recommends"}
	for _, p := range l {
		args = append(args, p.name)
	}
	if err := a.download(ctx, args...); err != nil {
		return nil, err
	}
	// What was downloaded earlier lies there too, in other versions perhaps:
	// only what apt would install now is meant.
	out, err := a.run(ctx, append([]string{"--print-uris", "-o", "Dir::Cache::archives=" + a.path("none")}, args...)...)
	if err != nil {
		return nil, err
	}
	return a.named(ctx, out)
}

// named finds the files of apt-get --print-uris: 'URI' FILE SIZE HASH. What lies
// in the cache has to have that hash: apt goes by the size.
func (a *apt) named(ctx context.Context, uris []byte) ([]deb, error) {
	var debs []deb
	for _, line := range strings.Split(string(uris), "\n") {
		words := strings.Fields(line)
		if len(words) < 3 || !strings.HasPrefix(line, "'") {
			continue
		}
		d, err := describe(ctx, a.path("archives", filepath.Base(words[1])))
		if err != nil {
			return nil, err
		}
		if sum, ok := strings.CutPrefix(words[len(words)-1], "SHA256:"); !ok || sum != d.SHA256 {
			return nil, fmt.Errorf("%s: is not the package that the archive has under this name (try: rm %s)", filepath.Base(d.file), d.file)
		}
		debs = append(debs, d)
	}
	if len(debs) == 0 {
		return nil, errors.New("apt-get names none")
	}
	slices.SortFunc(debs, func(x, y deb) int { return strings.Compare(x.String(), y.String()) })
	return debs, nil
}

func (a *apt) path(names ...string) string {
	return filepath.Join(append([]string{a.dir}, names...)...)
}

// ready has the private apt know what there is.
func (a *apt) ready(ctx context.Context) error {
	if err := a.prepare(ctx); err != nil {
		return err
	}
	return a.update(ctx)
}

// prepare writes the private apt's configuration.
func (a *apt) prepare(ctx context.Context) error {
	for _, dir := range []string{"state/lists/partial", "archives/partial", "none/partial"} {
		if err := os.MkdirAll(a.path(dir), 0o700); err != nil {
			return err
		}
	}
	// How this machine reaches the archive (proxies, mirrors), but none of its
	// hooks: docker-clean would have apt delete what it has downloaded.
	acquire, err := exec.CommandContext(ctx, "apt-config", "dump", "Acquire").Output()
	if err != nil {
		return fmt.Errorf("apt-config: %w", err)
	}
	conf := fmt.Sprintf(`%s
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Cache::archives %q;
APT::Architecture %q;
APT::Architectures { %q; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Retries "3";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Debug::NoLocking "true";
`, acquire, a.path("state"), a.path("status"), a.path("cache"), a.path("archives"), a.arch.debian, a.arch.debian)
	if a.sources != "" {
		file, err := filepath.Abs(a.sources)
		if err != nil {
			return err
		}
		conf += fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\n", file)
	}
	return errors.Join(
		os.WriteFile(a.path("apt.conf"), []byte(conf), 0o600),
		os.WriteFile(a.path("status"), a.status(), 0o600),
	)
}

func (a *apt) status() []byte {
	var out bytes.Buffer
	for _, name := range supposed {
		fmt.Fprintf(&out, "Package: %s\nStatus: install ok installed\nMaintainer: none\nArchitecture: %s\nMulti-Arch: allowed\nVersion: 999:0\nDescription: supposed\n\n", name, a.arch.debian)
	}
	return out.Bytes()
}

// update fetches the package lists, once a day. Without a network those of an
// earlier build will do, and the log says so.
func (a *apt) update(ctx context.Context) error {
	stamp := a.path("updated")
	st, err := os.Stat(stamp)
	if err == nil && time.Since(st.ModTime()) < 24*time.Hour {
		return nil
	}
	a.log("fetching package lists")
	failed := a.download(ctx, "update", "--quiet", "--error-on=any")
	if failed == nil {
		return os.WriteFile(stamp, nil, 0o600)
	}
	if err != nil || ctx.Err() != nil {
		return failed
	}
	a.log("package lists of %s are used: %v", st.ModTime().Format(time.DateOnly), failed)
	return nil
}

// download is run for what goes over the network: progress is told of it.
func (a *apt) download(ctx context.Context, args ...string) error {
	status, w, err := os.Pipe()
	if err != nil {
		return err
	}
	told := make(chan struct{})
	go func() { // ends with the last that has w open, which is apt-get
		defer close(told)
		a.tell(args[0], status)
		status.Close()
	}()
	_, err = a.apt(ctx, w, args...)
	w.Close()
	<-told
	return err
}

// tell reads APT::Status-Fd: "dlstatus:NUMBER:PERCENT:TEXT".
func (a *apt) tell(stage string, status io.Reader) {
	if stage == "update" {
		stage = "package lists"
	} else {
		stage = "packages"
	}
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if words := strings.SplitN(lines.Text(), ":", 4); len(words) == 4 && words[0] == "dlstatus" {
			percent, _ := strconv.ParseFloat(words[2], 64)
			a.progress(stage, int(percent), 100)
		}
	}
}

// run returns what apt-get printed; the error is its first complaint.
func (a *apt) run(ctx context.Context, args ...string) ([]byte, error) {
	return a.apt(ctx, nil, args...)
}

func (a *apt) apt(ctx context.Context, status *os.File, args ...string) ([]byte, error) {
	if status != nil {
		args = append([]string{"-o", "APT::Status-Fd=3"}, args...)
	}
	c := exec.CommandContext(ctx, "apt-get", args...)
	c.Env = append(withoutEnv("APT_CONFIG"), "APT_CONFIG="+a.path("apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	c.Dir = a.path("archives") // where "download" puts it
	if status != nil {
		c.ExtraFiles = []*os.File{status}
	}
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("apt-get: %w", context.Cause(ctx))
	}
	said := complaint(stderr.Bytes())
	return nil, fmt.Errorf("apt-get: %s%s", cmp.Or(said, err.Error()), wayOut(said))
}

// complaint picks apt's first error out of its messages.
func complaint(stderr []byte) string {
	for _, line := range strings.Split(string(stderr), "\n") {
		if e, ok := strings.CutPrefix(line, "E: "); ok {
			return e
		}
	}
	return lastLine(stderr)
}

// wayOut is what may help against a complaint of apt's.
func wayOut(said string) string {
	switch {
	case strings.Contains(said, "Unable to locate package"), strings.Contains(said, "no installation candidate"):
		return " (the sources of this machine lack it, or have it for another architecture: --remove it, or name others: --sources)"
	case strings.Contains(said, "Version "), strings.Contains(said, "unmet dependencies"), strings.Contains(said, "broken packages"):
		return ""
	case strings.Contains(said, "free space"), strings.Contains(said, "No space left"):
		return " (free some space, or name another cache: --cache)"
	}
	return " (try again with a network: what has arrived is kept; or: --from-host)"
}
