package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/router"
)

// lookup is what a command needs that looks containers up.
type lookup struct {
	atHost `embed:""`
	Output string `short:"o" enum:"table,json" default:"table" help:"table, or json."`
}

func (c lookup) table() (*router.Table, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	return &router.Table{Runtimes: runtimes(cfg.Runtimes)}, nil
}

// container is one for people, and for scripts.
type container struct {
	Runtime    string             `json:"runtime"`
	ID         string             `json:"id"`
	Name       string             `json:"name,omitempty"`
	Image      string             `json:"image,omitempty"`
	Digest     string             `json:"digest,omitempty"`
	Namespace  string             `json:"namespace,omitempty"` // of Kubernetes
	Pod        string             `json:"pod,omitempty"`
	Labels     map[string]string  `json:"labels,omitempty"`
	PID        int                `json:"pid"`
	Started    uint64             `json:"started,omitempty"`
	Namespaces *router.Namespaces `json:"namespaces,omitempty"`
	State      string             `json:"state"`
	Facts      *router.Facts      `json:"facts,omitempty"` // nil: they could not be read
	Host       bool               `json:"host,omitempty"`  // it is in no container
	Source     string             `json:"source,omitempty"`
	Logins     []string           `json:"logins,omitempty"`
}

type targetsCmd struct{ lookup }

// Run lists what can be entered, by whoever may.
func (c targetsCmd) Run(ctx context.Context, out io.Writer) error {
	table, err := c.table()
	if err != nil {
		return err
	}
	list, warnings := table.List(ctx)
	warn(warnings)
	containers := make([]container, 0, len(list)) // [], and not null
	for _, m := range list {
		containers = append(containers, listed(m))
	}
	if c.Output == "json" {
		return writeJSON(out, containers)
	}
	w := columns(out)
	fmt.Fprintln(w, "RUNTIME\tNAME\tID\tIMAGE\tPID\tSTATE\tFACTS\tLOGINS")
	for i, m := range list {
		row := []string{m.Runtime, cmp.Or(m.Name, "-"), m.Short(), cmp.Or(m.Image, "-"), strconv.Itoa(m.PID), containers[i].State, cmp.Or(factWords(containers[i].Facts), "-"), strings.Join(m.Logins, " ")}
		for i, cell := range row {
			row[i] = audit.Printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

func listed(m router.Listed) container {
	c := container{
		Runtime: m.Runtime, ID: m.ID, Name: m.Name, Image: m.Image, Digest: m.Digest, Namespace: m.Namespace, Pod: m.Pod, Labels: m.Labels, PID: m.PID,
		State: cmp.Or(strings.TrimPrefix(m.Closed, "is "), "running"), Source: m.Source, Logins: m.Logins,
	}
	if facts, err := m.Facts(); err == nil && len(facts) == 1 {
		c.Facts = &facts[0]
	}
	return c
}

// factWords names those that are so.
func factWords(f *router.Facts) string {
	if f == nil {
		return "unknown"
	}
	var words []string
	for _, fact := range []struct {
		name string
		is   bool
	}{{"privileged", f.Privileged}, {"host_pid", f.HostPID}, {"host_net", f.HostNet}} {
		if fact.is {
			words = append(words, fact.name)
		}
	}
	return strings.Join(words, " ")
}

type resolveCmd struct {
	lookup
	Name string `arg:"" help:"The container, as in ssh NAME@host."`
}

// Run shows the one container that a login means.
func (c resolveCmd) Run(ctx context.Context, out io.Writer) error {
	table, err := c.table()
	if err != nil {
		return err
	}
	ref, err := router.ParseRef(c.Name)
	if err != nil {
		return err
	}
	target, err := table.Resolve(ctx, ref)
	if closed, ok := errors.AsType[*router.ClosedError](err); ok && closed.Match.Runtime != "pid" {
		return errors.Join(c.write(out, listed(router.Listed{Match: closed.Match})), err)
	}
	if err != nil {
		return err
	}
	defer target.Close()
	warn(target.Warnings)
	found := container{
		Runtime: target.Runtime, ID: target.ID, Name: target.Name, Image: target.Image, Digest: target.Digest, Namespace: target.Namespace, Pod: target.Pod, Labels: target.Labels,
		PID: target.PID, Started: target.Started, Namespaces: &target.Namespaces, State: "running", Host: target.Host, Facts: &target.Facts, Source: target.Source,
	}
	return c.write(out, found)
}

func (c resolveCmd) write(out io.Writer, found container) error {
	if c.Output == "json" {
		return writeJSON(out, found)
	}
	return found.show(out)
}

// show writes a line for each thing that is known.
func (c container) show(out io.Writer) error {
	namespaces := ""
	if n := c.Namespaces; n != nil {
		namespaces = fmt.Sprintf("mnt %d, pid %d, net %d, ipc %d, uts %d, user %d, cgroup %d", n.Mnt, n.PID, n.Net, n.IPC, n.UTS, n.User, n.Cgroup)
	}
	lines := [][2]string{
		{"runtime", c.Runtime}, {"id", c.ID}, {"name", c.Name}, {"image", c.Image}, {"digest", c.Digest}, {"namespace", c.Namespace}, {"pod", c.Pod},
		{"pid", strconv.Itoa(c.PID)}, {"started", fmt.Sprintf("%d ticks after boot", c.Started)}, {"state", c.State}, {"source", c.Source},
		{"namespaces", namespaces}, {"facts", factWords(c.Facts)},
	}
	if c.Host {
		lines = append(lines, [2]string{"host", "sees the host's own files, in no container"})
	}
	labels := len(lines)
	for name, value := range c.Labels {
		lines = append(lines, [2]string{"label", name + "=" + value})
	}
	slices.SortStableFunc(lines[labels:], func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
	w := columns(out)
	for _, line := range lines {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0], audit.Printable(line[1]))
		}
	}
	return w.Flush()
}

// warn tells of runtimes that could not be asked, and may know more.
func warn(warnings []error) {
	for _, err := range warnings {
		fmt.Fprintln(os.Stderr, "cartsshd: warning: "+audit.Printable(err.Error()))
	}
}

// writeJSON writes what a script reads, and a terminal may be shown: whatever is
// no plain visible character is escaped.
func writeJSON(out io.Writer, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	var plain strings.Builder
	for _, r := range string(text) {
		if r < 0x7F || unicode.IsPrint(r) {
			plain.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&plain, `\u%04x`, unit)
		}
	}
	_, err = fmt.Fprintln(out, plain.String())
	return err
}
