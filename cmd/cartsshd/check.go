package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/standing"
	"github.com/cartsshd/cartsshd/internal/totp"
)

type checkCmd struct {
	Config string `short:"c" placeholder:"FILE" default:"/etc/cartsshd/config.yaml" help:"Configuration (${default})."`
}

// Run asks everything that serve asks before it listens, and says all of it. If
// some of the configuration is wrong, it goes on with the rest.
func (c checkCmd) Run(out io.Writer) error {
	r := report{out: out}
	r.say("kernel", nsexec.Check(), nsexec.Kernel())
	cfg, errs := config.Inspect(c.Config)
	r.configuration(errs, c.Config)
	if cfg == nil {
		return r.verdict()
	}
	key, err := hostKey(cfg.HostKey)
	r.say("host key", err, cfg.HostKey)
	if err == nil {
		r.say("host key", nil, gossh.FingerprintSHA256(key.PublicKey()))
		r.state(standing.In(cfg.State.Dir, key).Read(), cfg.State.Dir)
	}
	r.secrets(cfg.Policy)
	r.images(cfg)
	r.say("record", recordable(cfg.Record.Dir), cfg.Record.Dir)
	if err := listenable(cfg.Listen); errors.Is(err, unix.EADDRINUSE) {
		r.hint("listen", err, string(cfg.Listen)) // by a daemon that runs already, maybe
	} else {
		r.say("listen", err, string(cfg.Listen))
	}
	for _, runtime := range runtimes(cfg.Runtimes) {
		// A runtime that is down now may come up: serve goes on without it.
		r.hint("runtime", answers(runtime), runtime.Name())
		if docker, ok := runtime.(*router.Docker); ok {
			r.hint("runtime", offline(docker), "docker, while its engine is dead")
		}
	}
	return r.verdict()
}

// A report is a line for each answer.
type report struct {
	out    io.Writer
	failed bool
}

func (r *report) say(what string, err error, good string) {
	if err != nil {
		r.failed = true
		fmt.Fprintf(r.out, "BAD   %-14s %s\n", what, err)
		return
	}
	fmt.Fprintf(r.out, "ok    %-14s %s\n", what, good)
}

// configuration says each thing that is wrong with it.
func (r *report) configuration(errs []error, path string) {
	for _, err := range errs {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			r.say("configuration", errors.New(line), "")
		}
	}
	if len(errs) == 0 {
		r.say("configuration", nil, path)
	}
}

// state says what stands beside the rules. A grant that cannot be believed keeps
// nobody out; a lock does, everybody.
func (r *report) state(state standing.State, dir string) {
	for _, f := range state.Faults {
		if f.Lock {
			r.say("state", f, "")
			continue
		}
		r.hint("state", f.Err, f.Path)
	}
	holds, _ := hold(state, time.Now())
	if len(state.Faults) == 0 {
		r.say("state", nil, fmt.Sprintf("%s: grants: %d, locks: %d", dir, len(holds.grants), len(holds.locks)))
	}
}

// secrets says whose one-time passwords cannot be checked: nobody else is kept out
// by that.
func (r *report) secrets(policy *authz.Policy) {
	for _, who := range policy.People() {
		if who.TOTP == "" {
			continue
		}
		_, err := totp.ReadSecret(who.TOTP)
		r.hint("totp", err, "of "+who.Person)
	}
}

// hint is say for what does not keep serve from starting.
func (r *report) hint(what string, err error, good string) {
	if err != nil {
		fmt.Fprintf(r.out, "warn  %-14s %s: %s\n", what, good, err)
		return
	}
	r.say(what, nil, good)
}

func (r *report) verdict() error {
	if r.failed {
		return exitCode(1)
	}
	return nil
}

// images says of each image what serve would do with it, and then of all.
func (r *report) images(cfg *config.Config) {
	var set toolset
	for _, c := range cfg.Image {
		next, err := toolset(nil).open(c)
		if err != nil {
			r.say("tools image", err, "")
			continue
		}
		set = append(set, next)
		r.image(next)
	}
	if len(set) == len(cfg.Image) {
		r.together(set, cfg.Policy)
	}
	if err := set.close(); err != nil {
		r.say("tools images", err, "")
	}
}

// together says what only all of the images can tell.
func (r *report) together(set toolset, policy *authz.Policy) {
	if err := set.check(); err != nil {
		r.say("tools images", err, "")
		return
	}
	for _, err := range set.unmet(policy) {
		r.hint("rules", err, "some will be denied")
	}
}

func (r *report) image(c choice) {
	if c.tools == nil {
		r.say("tools image", nil, c.path+" is for "+c.arch+", and skipped on this machine, which is "+runtime.GOARCH)
		return
	}
	r.say("tools image", readOnly(c.tools), c.path+" is for "+c.arch+", attaches, and cannot be written to")
	r.say("tools image", nil, c.tools.ID())
}

// readOnly tries to write to the image.
func readOnly(image *tools) error {
	mount, err := image.Mount(nil)
	if err != nil {
		return err
	}
	defer mount.Close()
	fd, err := unix.Openat(int(mount.Fd()), "written-by-check", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
		return errors.New("the image can be written to")
	}
	if !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("trying to write to the image: %w", err)
	}
	return nil
}

// recordable writes to the directory of the record, or where it is to be made.
func recordable(dir string) error {
	for _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist); _, err = os.Stat(dir) {
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".check-")
	if err != nil {
		return fmt.Errorf("%s: cannot be written to: %w", dir, errors.Unwrap(err))
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func listenable(address config.Address) error {
	ln, err := listen(address)
	if err != nil {
		return err
	}
	return ln.Close()
}

// answers asks the runtime for a container that it will not have.
func answers(r router.Runtime) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := r.Find(ctx, "cartsshd-check")
	return err
}

// offline asks the same without the engine.
func offline(d *router.Docker) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return d.Offline(ctx)
}
