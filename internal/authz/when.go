package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cartsshd/cartsshd/internal/strictyaml"
)

// When says at what times, and from where, a rule is one at all.
type When struct {
	Days  Days                    `yaml:"days"`
	Hours Hours                   `yaml:"hours"`
	TZ    strictyaml.At[string]   `yaml:"tz"`
	From  strictyaml.At[[]Source] `yaml:"from"`
}

// Days are some of the week: "mon-fri", or a list of such. The bit of a day is
// 1<<time.Weekday. Zero is every day.
type Days uint8

// UnmarshalStrict implements [strictyaml.Unmarshaler].
func (d *Days) UnmarshalStrict(n *strictyaml.Node) {
	var list []span
	if n.IsList() {
		n.Decode(&list)
	} else {
		list = make([]span, 1)
		n.Decode(&list[0])
	}
	for _, s := range list {
		*d |= s.days()
	}
	if n.IsList() && len(list) == 0 {
		n.Problemf("days names none: leave it out for every day")
	}
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// A span of days, each by its number in the week plus one; zero is none.
type span struct{ first, last int }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *span) UnmarshalText(text []byte) error {
	first, last, isSpan := strings.Cut(strings.ToLower(string(text)), "-")
	if !isSpan {
		last = first
	}
	i, j := slices.Index(dayNames, first), slices.Index(dayNames, last)
	if i < 0 || j < 0 {
		return errors.New("wants a day or days, such as mon or mon-fri")
	}
	s.first, s.last = i+1, j+1
	return nil
}

// days of fri-mon are four.
func (s span) days() (d Days) {
	if s.first == 0 {
		return 0 // told while decoding
	}
	for day := s.first - 1; ; day = (day + 1) % 7 {
		d |= 1 << day
		if day == s.last-1 {
			return d
		}
	}
}

func (d Days) has(day time.Weekday) bool { return d == 0 || d&(1<<day) != 0 }

// String is "mon-wed, fri", in the order of a week.
func (d Days) String() string {
	var spans []string
	for i := 1; i <= 7; i++ {
		first := i
		for i <= 7 && d&(1<<(i%7)) != 0 {
			i++
		}
		if i > first {
			spans = append(spans, spanWords(first, i-1))
		}
	}
	return strings.Join(spans, ", ")
}

// spanWords are of two days of the week, Sunday being the seventh.
func spanWords(first, last int) string {
	if first == last {
		return dayNames[first%7]
	}
	return dayNames[first%7] + "-" + dayNames[last%7]
}

// Hours are a part of the day, from and to, in minutes from midnight: the second
// is the first minute outside. 22:00-06:00 goes on into the next day, and is of
// the day that it begins on. The zero Hours are all.
type Hours struct{ from, to int }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hours) UnmarshalText(text []byte) error {
	from, to, ok := strings.Cut(string(text), "-")
	i, j := minutes(from), minutes(to)
	if !ok || i < 0 || j < 0 || i == 24*60 {
		return errors.New(`wants hours of a day, such as "08:00-18:00" or "22:00-06:00"`)
	}
	if i == j {
		return errors.New(`is no time at all, or all day: leave it out for that`)
	}
	h.from, h.to = i, j
	return nil
}

// minutes is -1 for what is no time of the day; 24:00 is one.
func minutes(s string) int {
	hour, minute, ok := strings.Cut(s, ":")
	h, herr := strconv.ParseUint(hour, 10, 8)
	m, merr := strconv.ParseUint(minute, 10, 8)
	if !ok || herr != nil || merr != nil || len(hour) != 2 || len(minute) != 2 || h > 24 || m > 59 || h == 24 && m > 0 {
		return -1
	}
	return int(h*60 + m)
}

func (h Hours) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d", h.from/60, h.from%60, h.to/60, h.to%60)
}

// Source is where somebody may come from: an address or a network.
type Source struct{ netip.Prefix }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Source) UnmarshalText(text []byte) error {
	if a, err := netip.ParseAddr(string(text)); err == nil && a.Zone() == "" {
		s.Prefix = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		return errors.New("wants an address or a network, such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p != p.Masked() {
		return fmt.Errorf("has bits beyond its mask: %s is meant, or %s", p.Masked(), p.Addr())
	}
	s.Prefix = p
	return nil
}

// window is a When that can be asked.
type window struct {
	days  Days
	hours Hours
	zone  *time.Location
	from  []Source
}

func (c *compiler) when(w When) window {
	if w.From.Line > 0 && w.From.Value != nil && len(w.From.Value) == 0 {
		c.problemf(w.From.Pos, "from names nothing: leave it out for everywhere")
	}
	return window{days: w.Days, hours: w.Hours, zone: c.zone(w.TZ), from: w.From.Value}
}

func (c *compiler) zone(tz strictyaml.At[string]) *time.Location {
	if tz.Value == "" {
		return time.UTC
	}
	if c.known.Zone == nil {
		c.problemf(tz.Pos, "no time zones are known here: leave it out for UTC")
		return time.UTC
	}
	zone, err := c.known.Zone(tz.Value)
	if err != nil {
		c.problemf(tz.Pos, "unknown time zone %q: write one as in Europe/Madrid (the names come with the package tzdata)", tz.Value)
		return time.UTC
	}
	return zone
}

// timed tells whether the answer depends on the time.
func (w window) timed() bool { return w.days != 0 || w.hours != (Hours{}) }

func (w window) open(what Request) bool { return w.openAt(what.Time) && w.openTo(what.From) }

func (w window) openAt(t time.Time) bool {
	if !w.timed() {
		return true
	}
	if t.IsZero() {
		return false
	}
	t = t.In(w.zone)
	minute, day := t.Hour()*60+t.Minute(), t.Weekday()
	before := (day + 6) % 7
	switch {
	case w.hours == Hours{}:
		return w.days.has(day)
	case w.hours.from < w.hours.to:
		return w.days.has(day) && minute >= w.hours.from && minute < w.hours.to
	}
	return w.days.has(day) && minute >= w.hours.from || w.days.has(before) && minute < w.hours.to
}

func (w window) openTo(a netip.Addr) bool {
	return w.from == nil || slices.ContainsFunc(w.from, func(s Source) bool { return s.Contains(a.Unmap()) })
}

// misses says what of the window does not hold.
func (w window) misses(what Request) (words []string) {
	if !w.openAt(what.Time) {
		words = append(words, fmt.Sprintf("when: %s, it is %s", w.times(), w.told(what.Time)))
	}
	if !w.openTo(what.From) {
		words = append(words, fmt.Sprintf("when: from %s, comes from %s", w.sources(), addressWords(what.From)))
	}
	return words
}

func (w window) sources() string {
	var nets []string
	for _, s := range w.from {
		nets = append(nets, s.String())
	}
	return strings.Join(nets, ", ")
}

func (w window) times() string {
	var words []string
	if w.days != 0 {
		words = append(words, w.days.String())
	}
	if w.hours != (Hours{}) {
		words = append(words, w.hours.String())
	}
	return strings.Join(append(words, w.zone.String()), " ")
}

func (w window) told(t time.Time) string {
	if t.IsZero() {
		return "no known time"
	}
	t = t.In(w.zone)
	return fmt.Sprintf("%s %s", dayNames[t.Weekday()], t.Format("15:04"))
}

func addressWords(a netip.Addr) string {
	if !a.IsValid() {
		return "nowhere known"
	}
	return a.String()
}
