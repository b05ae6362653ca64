package sshd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cartsshd/cartsshd/internal/router"
)

// asked keeps what the containers were asked for.
type asked struct {
	*hall
	mu  sync.Mutex
	ids []string
}

func (a *asked) Resolve(ctx context.Context, ref router.Ref) (*router.Target, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = append(a.ids, strings.TrimRight(ref.ID, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
	return a.hall.Resolve(ctx, ref)
}

func (a *asked) since() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.ids = nil }()
	return a.ids
}

// A question to runtimes that hang takes seconds, and a look at a file none. Who
// is denied must not tell by that which of them it was.
func TestWhatIsForbiddenIsLookedForAsLongAsWhatIsNotThere(t *testing.T) {
	a := new(asked)
	h := newHall(t, func(s *Server) { a.hall = s.Targets.(*hall); s.Targets = a })
	for _, test := range []struct {
		login string
		want  []string
	}{
		{"web-1", []string{"web-1"}},
		{"db-1", []string{"db-1", "nothing-"}},
		{"twice", []string{"twice", "nothing-"}},
		{"db-9", []string{"db-9"}},
	} {
		runOn(t, h.dial(test.login, h.alice), "true")
		if got := a.since(); !slices.Equal(got, test.want) {
			t.Errorf("%s: looked for %q, want %q", test.login, got, test.want)
		}
	}
}
