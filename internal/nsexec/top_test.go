package nsexec

import (
	"errors"
	"os"
	"testing"
)

// A root that hangs has as many looks waiting as it may have. That threads do
// hang in one that is a FUSE was seen by hand.
func TestARootThatDoesNotAnswerHoldsFewThreads(t *testing.T) {
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const hung, other = 1, 2
	for range lookSlots {
		if !enterLook(hung) {
			t.Fatal("no look is allowed at all")
		}
	}
	if _, err := topInTime(hung, root); !errors.Is(err, hangs) {
		t.Errorf("one look too many: %v", err)
	}
	if _, err := topInTime(other, root); err != nil {
		t.Errorf("another container's: %v", err)
	}
	for range lookSlots {
		leaveLook(hung)
	}
	if _, err := topInTime(hung, root); err != nil {
		t.Errorf("once it answers: %v", err)
	}
}
