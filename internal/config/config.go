// Package config reads config.yaml: what the daemon needs to know, and who may
// do what. It does not look at the files that are named there.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cartsshd/cartsshd/internal/authz"
	"github.com/cartsshd/cartsshd/internal/krl"
	"github.com/cartsshd/cartsshd/internal/nsexec"
	"github.com/cartsshd/cartsshd/internal/regular"
	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// Config is all of config.yaml. The sample in the root of the repository is
// the manual of its keys and defaults. All paths in it are absolute.
type Config struct {
	Listen   Address  `yaml:"listen"`
	HostKey  string   `yaml:"host_key"`
	Image    Images   `yaml:"image"`
	Record   Record   `yaml:"record"`
	State    State    `yaml:"state"`
	Runtimes Runtimes `yaml:"runtimes"`
	Limits   Limits   `yaml:"limits"`

	People      authz.People      `yaml:"people"`
	Groups      authz.Groups      `yaml:"groups"`
	Authorities authz.Authorities `yaml:"authorities"`
	Rules       authz.Rules       `yaml:"rules"`
	Tests       authz.Tests       `yaml:"tests"`

	// Policy is what People and Rules say, and what is between them.
	Policy *authz.Policy `yaml:"-"`

	// Files are those that Policy was read of, besides config.yaml itself: keys, and lists of what was
	// revoked. When one changes, it is time to load all anew.
	Files []string `yaml:"-"`
}

// Record is where sessions are recorded.
type Record struct {
	Dir string `yaml:"dir"`
}

// State is what must survive a restart: grants, locks, one-time passwords that were used.
type State struct {
	Dir string `yaml:"dir"`
}

// Limits are what one client may cost.
type Limits struct {
	LoginGrace            time.Duration `yaml:"login_grace"`
	Connections           Count         `yaml:"connections"`
	ConnectionsPerAddress Count         `yaml:"connections_per_address"`
	SessionsPerConnection Count         `yaml:"sessions_per_connection"`
}

func defaults() *Config {
	return &Config{
		Listen:  ":2222",
		HostKey: "/etc/cartsshd/ssh_host_ed25519_key",
		Image:   Images{{Path: toolsImage}},
		Record:  Record{Dir: "/var/lib/cartsshd/record"},
		State:   State{Dir: "/var/lib/cartsshd/state"},
		Limits: Limits{
			LoginGrace:            30 * time.Second,
			Connections:           2000,
			ConnectionsPerAddress: 32,
			SessionsPerConnection: 64,
		},
	}
}

// Default is the configuration of an empty file: nobody may enter by it.
func Default() *Config {
	c := defaults()
	c.Runtimes.turnOn()
	return c
}

const toolsImage = "/var/lib/cartsshd/tools.img"

// known is what rules may name.
func (c *Config) known() authz.Known {
	known := authz.Known{
		Profiles:     nsexec.Profiles,
		Runtimes:     runtimeNames,
		Capabilities: append([]string{"ALL"}, nsexec.Capabilities...),
		Unconfined:   []string{nsexec.Unconfined},
		Namespaces:   nsexec.Namespaces,
		User:         func(s string) error { _, err := nsexec.ParseUser(s); return err },
		Zone:         zone,
		Read:         c.readNamed,
		Revoked:      revoked,
	}
	for _, image := range c.Image {
		if image.Name != "" && !slices.Contains(known.Images, string(image.Name)) {
			known.Images = append(known.Images, string(image.Name))
		}
	}
	return known
}

// zone is that of the host's own data. "Local" would be another on each host.
func zone(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, errors.New("is another on each host")
	}
	return time.LoadLocation(name)
}

// readNamed reads a file that the policy names. Whoever can change that one can
// enter as well.
func (c *Config) readNamed(path string) ([]byte, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	if len(data) > strictyaml.MaxSize {
		return nil, fmt.Errorf("%s: is larger than %d MiB", path, strictyaml.MaxSize>>20)
	}
	if !slices.Contains(c.Files, path) {
		c.Files = append(c.Files, path)
	}
	return data, nil
}

func revoked(name string, data []byte) (func(ssh.PublicKey) string, error) {
	list, err := krl.Parse(name, data)
	if err != nil {
		return nil, err
	}
	return list.Revokes, nil
}

// Load reads the file at path. Who can change that file can enter everything,
// so it must belong to root or to us, and so must all directories that lead to
// it; and others must not write to them.
//
// If the file says something wrong, the error is of type [strictyaml.Problems]
// and has one line for each: "config.yaml:12:3: …".
func Load(path string) (*Config, error) {
	c, errs := Inspect(path)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return c, nil
}

// Inspect is Load for who wants to know all that is wrong. If the file can be
// read at all there is a Config, with what could be understood of it; it is
// for looking at, and nobody may be let in by it if there is an error.
func Inspect(path string) (*Config, []error) {
	var errs []error
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, []error{fmt.Errorf("config: %w (write one after the sample, config.yaml, or name another: --config FILE)", err)}
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("config: %w", err))
	}
	if data == nil {
		return nil, errs
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, append(errs, fmt.Errorf("config: %w", err))
	}
	c, err := parse(path, dir, data)
	if err != nil {
		errs = append(errs, err)
	}
	return c, errs
}

// read also returns what there is in a file that is not to be trusted.
func read(path string) ([]byte, error) {
	data, info, err := regular.Read(path, strictyaml.MaxSize+1)
	if err != nil {
		return nil, err
	}
	return data, errors.Join(trusted(path, info), trustedWay(path))
}

// parse returns what it has understood, with the error as well.
func parse(name, dir string, data []byte) (*Config, error) {
	c := defaults()
	unread := strictyaml.Decode(name, data, c)
	c.anchorPolicy(dir)
	policy, unwise := authz.New(authz.Document{People: c.People, Groups: c.Groups, Authorities: c.Authorities, Rules: c.Rules, Tests: c.Tests}, c.known())
	c.Policy = policy
	c.Runtimes.turnOn()
	c.anchor(dir)
	if err := strictyaml.Join(unread, unwise); err != nil {
		return c, err
	}
	if c.People == nil || c.Rules == nil {
		top := strictyaml.Pos{File: name, Line: 1, Column: 1}
		return c, strictyaml.Problems{top.Problemf("without people and rules nobody may enter: write people: {} and rules: [] if that is meant")}
	}
	return c, nil
}

// anchor makes relative paths relative to the file that says them.
func (c *Config) anchor(dir string) {
	paths := []*string{&c.HostKey, &c.Record.Dir, &c.State.Dir}
	for i := range c.Image {
		paths = append(paths, &c.Image[i].Path)
	}
	paths = append(paths, c.Runtimes.paths()...)
	for _, p := range paths {
		*p = below(dir, *p)
	}
}

// anchorPolicy does so for the policy's files, which are read before anything
// else is sure. One that could not be decoded has no path.
func (c *Config) anchorPolicy(dir string) {
	anchor := func(list []strictyaml.At[string]) {
		for i, path := range list {
			if path.Value != "" {
				list[i].Value = below(dir, path.Value)
			}
		}
	}
	for name, at := range c.People {
		totp := []strictyaml.At[string]{at.Value.TOTP}
		anchor(totp)
		anchor(at.Value.AuthorizedKeys)
		at.Value.TOTP = totp[0]
		c.People[name] = at
	}
	for _, at := range c.Authorities {
		anchor(at.Value.Revoked)
	}
}

func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// Address is a TCP address to listen on, host:port. Without a host it is every
// address of the machine; port 0 is any free one.
type Address string

// UnmarshalText implements [encoding.TextUnmarshaler].
func (a *Address) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if err != nil {
		return errors.New(`wants host:port, such as ":2222" or "127.0.0.1:2222"`)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("wants a port from 1 to 65535, or 0 for a free one")
	}
	*a = Address(text)
	return nil
}

// Count is how many there may be of something, from one to a million.
type Count int

// UnmarshalText implements [encoding.TextUnmarshaler].
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil || n < 1 || n > 1_000_000 {
		return errors.New("wants a number from 1 to 1000000")
	}
	*c = Count(n)
	return nil
}
