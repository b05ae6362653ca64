package sshd

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cartsshd/cartsshd/internal/audit"
	"github.com/cartsshd/cartsshd/internal/authz"
)

// clock ends a session that may run no longer: by its terms, or because the
// policy has changed. The person is told before.
type clock struct {
	say func(words string) // to the person; it must not wait for them
	end func(ending)       // it must not wait either

	began time.Time
	heard atomic.Int64 // how long after that the client sent something last

	mu     sync.Mutex
	limits []limit
	timer  *time.Timer
	over   bool
}

// limit is one reason to end a session.
type limit struct {
	name   string
	at     time.Time     // when; unless
	idle   time.Duration // nothing is heard for so long
	wall   bool          // at is of the wall clock, which may be set
	notice time.Duration // how long before the person is told,
	words  func(left string) string
	ending ending

	warned time.Time // that it ends then
}

// The names of limits.
const (
	limitMax    = "max"
	limitIdle   = "idle"
	limitUntil  = "until"
	limitKey    = "key"
	limitPolicy = "policy"
)

func newClock(say func(string), end func(ending)) *clock {
	return &clock{say: say, end: end, began: time.Now()}
}

// hear says that the client has sent something. Only what is typed or sent
// counts: that a window is resized, or that a client answers whether it is there,
// needs nobody at the keyboard.
func (c *clock) hear() { c.heard.Store(int64(time.Since(c.began))) }

// set gives the clock these limits, and takes all others away. It tells whether
// the session was about to end because of the policy.
func (c *clock) set(limits []limit) (reprieved bool) {
	c.mu.Lock()
	for _, old := range c.limits {
		reprieved = reprieved || old.name == limitPolicy && !c.over
		for i := range limits {
			if limits[i].name == old.name {
				limits[i].warned = old.warned
			}
		}
	}
	c.limits = limits
	c.mu.Unlock()
	c.tick()
	return reprieved
}

// add adds a limit, unless there is one of its name: that one is sooner.
func (c *clock) add(l limit) {
	c.mu.Lock()
	for _, old := range c.limits {
		if old.name == l.name {
			c.mu.Unlock()
			return
		}
	}
	c.limits = append(c.limits, l)
	c.mu.Unlock()
	c.tick()
}

// tick does what is due, and comes again when the next is.
func (c *clock) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	next := now.Add(24 * time.Hour)
	for i := range c.limits {
		if c.over {
			return
		}
		if again := c.look(&c.limits[i], now); again.Before(next) {
			next = again
		}
	}
	c.arm(next.Sub(now))
}

// look does what is due of one limit, and tells when to look again.
func (c *clock) look(l *limit, now time.Time) time.Time {
	due := c.due(l)
	warn := due.Add(-l.notice)
	switch {
	case !now.Before(due):
		c.over = true
		c.end(l.ending)
		return now
	case now.Before(warn):
		due = warn
	case !l.warned.Equal(due):
		l.warned = due
		c.say(l.words(remaining(due.Sub(now))))
	}
	if soon := now.Add(time.Minute); l.wall && soon.Before(due) {
		return soon
	}
	return due
}

func (c *clock) due(l *limit) time.Time {
	if l.idle == 0 {
		return l.at
	}
	return c.began.Add(time.Duration(c.heard.Load()) + l.idle)
}

func (c *clock) arm(wait time.Duration) {
	switch {
	case c.over || len(c.limits) == 0:
	case c.timer == nil:
		c.timer = time.AfterFunc(wait, c.tick)
	default:
		c.timer.Reset(wait)
	}
}

// Close stops the clock.
func (c *clock) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
	return nil
}

// limitsOf are those of a session that began then, by a decision.
func limitsOf(who authz.Subject, d authz.Decision, began time.Time) (limits []limit) {
	t, by := d.Terms, by(d.Rule)
	if t.Max > 0 {
		why := "max " + spell(t.Max) + " by " + by
		limits = append(limits, limit{name: limitMax, at: began.Add(t.Max), notice: notice(t.Max), words: endsIn(why),
			ending: overBecause("the session's hour is over (" + why + ")")})
	}
	if t.Idle > 0 {
		why := "idle " + spell(t.Idle) + " by " + by
		limits = append(limits, limit{name: limitIdle, idle: t.Idle, notice: notice(t.Idle),
			words:  func(left string) string { return "this session ends in " + left + " if nothing is typed (" + why + ")" },
			ending: overBecause("nothing was typed for too long (" + why + ")")})
	}
	if !t.Until.IsZero() {
		why := "until " + oClock(t.Until) + " by " + by
		limits = append(limits, limit{name: limitUntil, at: t.Until, wall: true, notice: notice(t.Until.Sub(began)), words: endsIn(why),
			ending: overBecause("the session's hour is over (" + why + ")")})
	}
	if !who.Until.IsZero() {
		why := "your key is valid until " + oClock(who.Until)
		limits = append(limits, limit{name: limitKey, at: who.Until, wall: true, notice: notice(who.Until.Sub(began)), words: endsIn(why),
			ending: overBecause("this session is over: " + why)})
	}
	return limits
}

func endsIn(why string) func(string) string {
	return func(left string) string { return "this session ends in " + left + " (" + why + ")" }
}

func overBecause(words string) ending { return failed(words, audit.Reason(words)) }

// by is what decided, in words: a rule, or "grant ID".
func by(rule string) string {
	if strings.HasPrefix(rule, "grant ") {
		return audit.Printable(rule)
	}
	return "rule " + audit.Printable(rule)
}

// notice is how long before its end a session is warned.
func notice(whole time.Duration) time.Duration { return min(time.Minute, whole/10) }

// spell is a duration as people write it: 1h and not 1h0m0s.
func spell(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// remaining is what is left of a session, in words.
func remaining(d time.Duration) string {
	if d = d.Round(time.Second); d >= time.Minute {
		return spell(d)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// oClock is a time of the day, and of which day if it is not near.
func oClock(t time.Time) string {
	if time.Until(t).Abs() < 12*time.Hour {
		return t.Local().Format("15:04 MST")
	}
	return t.Local().Format("2006-01-02 15:04 MST")
}

// ends says when and how a session ends, as far as that is known when it
// begins: for the greeting.
func ends(who authz.Subject, t authz.Terms, now time.Time) (words []string) {
	until, why := t.Until, ""
	if t.Max > 0 && (until.IsZero() || now.Add(t.Max).Before(until)) {
		until, why = now.Add(t.Max), " (max "+spell(t.Max)+")"
	}
	if !who.Until.IsZero() && (until.IsZero() || who.Until.Before(until)) {
		until, why = who.Until, " (your key)"
	}
	if !until.IsZero() {
		words = append(words, "until "+oClock(until)+why)
	}
	if t.Idle > 0 {
		words = append(words, "ends after "+spell(t.Idle)+" idle")
	}
	return words
}
