package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osuser "os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/config"
	"github.com/cartsshd/cartsshd/internal/router"
	"github.com/cartsshd/cartsshd/internal/sshd"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// defaultConfig is the file that need not be there for what is done at the host.
const defaultConfig = "/etc/cartsshd/config.yaml"

// atHost is what the commands have in common by which root enters containers, or
// puts tools into them, at the host itself. No policy is asked: root needs none.
type atHost struct {
	Config string `short:"c" placeholder:"FILE" default:"/etc/cartsshd/config.yaml" help:"Configuration (${default}, if it is there; none: go by the defaults)."`
}

// withImage is atHost, for those that open a tools image.
type withImage struct {
	atHost
	Image string `short:"i" placeholder:"FILE" help:"Tools image, instead of the configuration's."`
}

// config is the file's, or the defaults where there is none and none was named.
func (c atHost) config() (*config.Config, error) {
	if c.Config == "none" {
		return config.Default(), nil
	}
	cfg, err := config.Load(c.Config)
	if _, wrong := errors.AsType[strictyaml.Problems](err); wrong {
		return nil, fmt.Errorf("%w\n(to go by the defaults instead: --config none)", err)
	}
	if errors.Is(err, fs.ErrNotExist) && c.Config == defaultConfig {
		cfg, err = config.Default(), nil
	}
	return cfg, err
}

func (c withImage) config() (*config.Config, error) {
	cfg, err := c.atHost.config()
	if err == nil && c.Image != "" {
		cfg.Image = config.Images{{Path: c.Image}}
	}
	return cfg, err
}

// onRecord opens the record of what is done at the host, and does it.
func onRecord(configure func() (*config.Config, error), v *verbosity, do func(*config.Config, *audit.Log, *verbosity) error) error {
	cfg, err := configure()
	if err != nil {
		return err
	}
	record, err := audit.OpenHost(cfg.Record.Dir)
	if err != nil {
		return err
	}
	defer record.Close()
	return do(cfg, record, v)
}

// verbosity says on stderr what is done, if that is wanted.
type verbosity bool

func (v *verbosity) say(format string, args ...any) {
	if *v {
		fmt.Fprintln(os.Stderr, "cartsshd: "+audit.Printable(fmt.Sprintf(format, args...)))
	}
}

// tell says on stderr how something went. It never gets in between a command
// and who reads its output.
func tell(format string, args ...any) {
	fmt.Fprintln(os.Stderr, "cartsshd: "+audit.Printable(fmt.Sprintf(format, args...)))
}

// find looks a container up. That it was not found is on the record.
func find(cfg *config.Config, record *audit.Log, name string, v *verbosity) (*router.Target, error) {
	target, err := lookFor(cfg, name)
	if err != nil {
		return nil, errors.Join(err, record.Event(denied(meta("", name, nil, nil), err)))
	}
	v.say("%s is container %s of %s, process %d, as %s says", name, target.ID, target.Runtime, target.PID, cmp.Or(target.Source, "the kernel"))
	return target, nil
}

// denied is the event of what was not begun.
func denied(m audit.Meta, why error) audit.Event {
	e := audit.Event{Event: audit.SessionDenied, Person: &m.Person, Client: &m.Client, Login: m.Login, Command: m.Command, Detail: why.Error()}
	if m.Target != (audit.Target{}) {
		e.Target = &m.Target
	}
	return e
}

func lookFor(cfg *config.Config, name string) (*router.Target, error) {
	ref, err := router.ParseRef(name)
	if err != nil {
		return nil, err
	}
	table := router.Table{Runtimes: runtimes(cfg.Runtimes)}
	return table.Resolve(context.Background(), ref)
}

// meta is what the record has of something that is done at the host.
func meta(kind, login string, target *router.Target, argv []string) audit.Meta {
	m := audit.Meta{Person: localPerson(), Client: localClient(), Login: login, Kind: kind, Command: strings.Join(argv, " "), Argv: argv}
	if target != nil {
		m.Target = *sshd.Recorded(target)
	}
	return m
}

// recorded does something that is on the record before it is done, and when it
// is.
func recorded(record *audit.Log, m audit.Meta, do func() error) error {
	session, err := beginDurably(record, m)
	if err != nil {
		return err
	}
	err = do()
	code, why := 0, audit.Reason("done")
	if err != nil {
		code, why = 1, audit.Reason(err.Error())
	}
	return errors.Join(err, session.End(code, "", why))
}

func beginDurably(record *audit.Log, m audit.Meta) (*audit.Session, error) {
	session, err := record.Begin(m)
	if err != nil {
		return nil, err
	}
	return session, session.Durable()
}

// unrecordedExit is the status of what could not be recorded, and so was not
// done.
const unrecordedExit = 254

// status makes an error the exit status that it has at the host.
func status(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, audit.ErrUnrecorded):
		return failed(unrecordedExit, err)
	}
	return err
}

// localPerson is who we are, and who they were before they became root.
func localPerson() audit.Person {
	uid := os.Getuid()
	p := audit.Person{Name: strconv.Itoa(uid), UID: &uid, LoginUID: loginUID(), SudoUser: os.Getenv("SUDO_USER")}
	if u, err := osuser.LookupId(strconv.Itoa(uid)); err == nil {
		p.Name = u.Username
	}
	return p
}

// loginUID is the user who signed in at the host, by the kernel's word; nil if
// nobody has told it (pam_loginuid(8)).
func loginUID() *int {
	text, err := os.ReadFile("/proc/self/loginuid")
	if err != nil {
		return nil
	}
	uid, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 32)
	if err != nil || uid == 1<<32-1 {
		return nil
	}
	n := int(uid)
	return &n
}

func localClient() audit.Client {
	address := "local"
	if tty := terminalName(); tty != "" {
		address += " " + tty
	}
	return audit.Client{Address: address}
}

// terminalName is that of our controlling terminal, field 7 of
// proc_pid_stat(5), whatever our streams are.
func terminalName() string {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 5 {
		return ""
	}
	device, err := strconv.ParseUint(fields[4], 10, 64)
	if err != nil || device == 0 {
		return ""
	}
	major, minor := unix.Major(device), unix.Minor(device)
	if major >= 136 && major <= 143 { // the majors of devpts
		return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/char/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	return link[strings.LastIndexByte(link, '/')+1:]
}
