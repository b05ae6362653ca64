package main

import (
	"sync"

	"github.com/cartsshd/cartsshd/internal/sshd"
)

// A toolbox has the tools in force. Sessions take them from it while a reload
// puts others in.
type toolbox struct {
	mu  sync.Mutex
	set toolset
}

// choose is for one session, which closes them at its end.
func (b *toolbox) choose(demand string) (sshd.Tools, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.set.find(demand)
	if err != nil {
		return nil, err
	}
	// Under the lock the toolbox holds them as well, so they are open.
	return t.hold(), nil
}

// now is what is in force, for the one who exchanges it.
func (b *toolbox) now() toolset {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set
}

// swap puts others in force. The old are closed when the last session that has
// them ends.
func (b *toolbox) swap(set toolset) error {
	b.mu.Lock()
	old := b.set
	b.set = set
	b.mu.Unlock()
	return old.close()
}
