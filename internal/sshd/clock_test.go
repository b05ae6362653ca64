package sshd

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cartsshd/cartsshd/internal/authz"
)

// told is what a clock has said and done.
type told struct {
	*clock
	began time.Time
	said  []string
	ended []string
}

func newTold() *told {
	h := &told{began: time.Now()}
	h.clock = newClock(
		func(words string) { h.said = append(h.said, time.Since(h.began).String()+" "+words) },
		func(e ending) { h.ended = append(h.ended, time.Since(h.began).String()+" "+e.words) },
	)
	return h
}

func (h *told) by(t authz.Terms) {
	h.set(limitsOf(authz.Subject{}, authz.Decision{Rule: "web", Terms: t}, h.began))
}

// sleep is a step of the bubble's time.
func (h *told) sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (h *told) expect(t *testing.T, said, ended []string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.said, said) || !slices.Equal(h.ended, ended) {
		t.Errorf("said  %q\nended %q", h.said, h.ended)
	}
	h.said, h.ended = nil, nil
}

func TestASessionsHourIsOverAfterAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{Max: time.Hour})
		h.sleep(2 * time.Hour)
		h.expect(t, []string{"59m0s this session ends in 1m (max 1h by rule web)"}, []string{"1h0m0s the session's hour is over (max 1h by rule web)"})
	})
}

func TestOfAShortTimeATenthIsTheWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{Max: 50 * time.Second})
		h.sleep(2 * time.Hour)
		h.expect(t, []string{"45s this session ends in 5 s (max 50s by rule web)"}, []string{"50s the session's hour is over (max 50s by rule web)"})
	})
}

func TestWhatIsTypedAfterAWarningKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{Idle: 10 * time.Minute})
		h.sleep(5 * time.Minute)
		h.hear()
		h.sleep(9*time.Minute + 30*time.Second)
		h.expect(t, []string{"14m0s this session ends in 1m if nothing is typed (idle 10m by rule web)"}, nil)
		h.hear()
		h.sleep(8 * time.Minute)
		h.expect(t, nil, nil)
		h.sleep(time.Hour)
		h.expect(t, []string{"23m30s this session ends in 1m if nothing is typed (idle 10m by rule web)"},
			[]string{"24m30s nothing was typed for too long (idle 10m by rule web)"})
	})
}

func TestAGrantEndsAtItsInstantAndAKeyAtIts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		until := h.began.Add(30 * time.Minute)
		h.set(limitsOf(authz.Subject{}, authz.Decision{Rule: "grant g1", Terms: authz.Terms{Until: until}}, h.began))
		h.sleep(time.Hour)
		why := "(until " + oClock(until) + " by grant g1)"
		h.expect(t, []string{"29m0s this session ends in 1m " + why}, []string{"30m0s the session's hour is over " + why})

		h = newTold()
		defer h.Close()
		until = h.began.Add(30 * time.Minute)
		h.set(limitsOf(authz.Subject{Until: until}, authz.Decision{}, h.began))
		h.sleep(time.Hour)
		why = "your key is valid until " + oClock(until)
		h.expect(t, []string{"29m0s this session ends in 1m (" + why + ")"}, []string{"30m0s this session is over: " + why})
	})
}

func TestTheEarliestLimitEndsASessionOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{Max: time.Hour, Idle: 10 * time.Minute, Until: h.began.Add(2 * time.Hour)})
		h.sleep(3 * time.Hour)
		if len(h.ended) != 1 || len(h.said) != 1 {
			t.Errorf("%q, %q", h.said, h.ended)
		}
	})
}

func TestNewTermsHoldForASessionThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{Max: time.Hour})
		h.sleep(59*time.Minute + 30*time.Second)
		h.by(authz.Terms{Max: time.Hour}) // the same: nothing is said again
		h.expect(t, []string{"59m0s this session ends in 1m (max 1h by rule web)"}, nil)
		h.by(authz.Terms{Max: 2 * time.Hour})
		h.sleep(50 * time.Minute)
		h.expect(t, nil, nil)
		h.by(authz.Terms{})
		h.sleep(50 * time.Hour)
		h.expect(t, nil, nil)
		h.by(authz.Terms{Max: time.Hour})
		h.expect(t, nil, []string{"51h49m30s the session's hour is over (max 1h by rule web)"})
	})
}

func TestAPolicyThatChangesItsMindKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(Server)
		h := newTold()
		defer h.Close()
		h.by(authz.Terms{})
		h.add(s.changed("no rule matches"))
		h.sleep(9 * time.Second)
		h.add(s.changed("no rule matches")) // a second change does not put it off
		if !h.set(nil) {
			t.Error("it was not about to end")
		}
		h.sleep(time.Hour)
		h.expect(t, []string{"0s the policy has changed: this session ends in 10 s"}, nil)

		h.add(s.changed("no rule matches"))
		h.sleep(9 * time.Second)
		h.add(s.changed("no rule matches"))
		h.sleep(time.Hour)
		h.expect(t, []string{"1h0m9s the policy has changed: this session ends in 10 s"}, []string{"1h0m19s the policy has changed: this session was ended"})
	})
}

func TestTheGreetingsLimits(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		who   authz.Subject
		terms authz.Terms
		want  []string
	}{
		{authz.Subject{}, authz.Terms{}, nil},
		{authz.Subject{}, authz.Terms{Max: time.Hour, Idle: 90 * time.Second}, []string{"until " + oClock(now.Add(time.Hour)) + " (max 1h)", "ends after 1m30s idle"}},
		{authz.Subject{}, authz.Terms{Max: time.Hour, Until: now.Add(time.Minute)}, []string{"until " + oClock(now.Add(time.Minute))}},
		{authz.Subject{Until: now}, authz.Terms{Max: time.Hour}, []string{"until " + oClock(now) + " (your key)"}},
	} {
		if got := ends(c.who, c.terms, now); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.terms, got)
		}
	}
}
