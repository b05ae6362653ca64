package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// extracted is one tree of many packages, and which of them each file is of.
type extracted struct {
	root   string
	owners map[string]string
}

// kept is how many trees the cache keeps.
const kept = 4

// unpack makes one tree of all packages. It is kept under the sum of the lock:
// the same packages are the same tree.
func (b *build) unpack(ctx context.Context, dir string, debs []deb) (*extracted, error) {
	name := filepath.Join(dir, "tree-"+fmt.Sprintf("%x", sha256.Sum256(text(lines(debs))))[:16])
	t := &extracted{root: name, owners: map[string]string{}}
	if index, err := os.ReadFile(name + ".json"); err == nil && json.Unmarshal(index, &t.owners) == nil {
		now := time.Now()
		return t, os.Chtimes(name+".json", now, now) // the last used goes last
	}
	b.logf("unpacking %d packages", len(debs))
	prune(dir, kept-1)
	part, err := os.MkdirTemp(dir, "tree-part-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(part)
	for i, d := range debs {
		b.Progress("unpacking", i, len(debs))
		if err := t.add(ctx, d, part); err != nil {
			return nil, err
		}
	}
	index, err := json.Marshal(t.owners)
	if err != nil {
		return nil, err
	}
	// The index comes last: a tree is whole if it has one.
	return t, errors.Join(os.RemoveAll(name), os.Rename(part, name), os.WriteFile(name+".json", index, 0o600))
}

func (t *extracted) add(ctx context.Context, d deb, dir string) error {
	c := exec.CommandContext(ctx, "dpkg-deb", "--vextract", d.file, dir)
	var complaints strings.Builder
	c.Stderr = &complaints
	names, err := c.Output()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %s (try: rm %s)", filepath.Base(d.file), lastLine([]byte(complaints.String())), d.file)
	}
	for _, name := range strings.Split(string(names), "\n") {
		if name, ok := strings.CutPrefix(name, "."); ok && !strings.HasSuffix(name, "/") {
			t.owners[name] = d.Name
		}
	}
	return nil
}

// prune removes all but the newest trees, and what broke off.
func prune(dir string, keep int) {
	all, _ := filepath.Glob(filepath.Join(dir, "tree-*"))
	for _, t := range all {
		if filepath.Ext(t) == "" && written(t+".json").IsZero() {
			os.RemoveAll(t)
		}
	}
	trees, _ := filepath.Glob(filepath.Join(dir, "tree-*.json"))
	slices.SortFunc(trees, func(x, y string) int { return written(y).Compare(written(x)) })
	for len(trees) > keep {
		old := trees[len(trees)-1]
		trees = trees[:len(trees)-1]
		os.Remove(old)
		os.RemoveAll(strings.TrimSuffix(old, ".json"))
	}
}

func written(file string) time.Time {
	st, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}
