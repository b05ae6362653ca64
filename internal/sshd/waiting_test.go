package sshd

import (
	"testing"
	"time"
)

// x/crypto holds what a client sends on a channel that nobody reads.
func TestFewChannelsMayWaitForACommand(t *testing.T) {
	h := newHall(t)
	client := h.dial("web-1", h.alice)
	for range maxWaiting {
		if _, _, err := client.OpenChannel("session", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := client.OpenChannel("session", nil); err == nil {
		t.Error("a further channel was accepted")
	}
	if got := h.run("exit 3"); got.code != 3 {
		t.Errorf("another connection: %+v", got)
	}
}

func TestAChannelThatAsksForNothingIsClosed(t *testing.T) {
	h := newHall(t, func(s *Server) { s.Limits.LoginGrace = 300 * time.Millisecond })
	_, requests, err := h.dial("web-1", h.alice).OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range requests { // ends when the server closes the channel
	}
}
