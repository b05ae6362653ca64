package nsexec

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// A filter of libseccomp's asks for one system call after the other. The kernel,
// when it installs one, goes through all of it for every system call that there
// is, which takes longer than to enter a container. So it is turned into one that
// searches: the numbers in ranges with one answer each. Where the answer depends
// on arguments, it goes on in the instructions that ask for these, which are kept
// as they are.
//
// What compact does not understand, it leaves alone; and what it has made, it
// compares with what it was made of.

// compact returns a filter that answers as f does.
func (f filter) compact() filter {
	c := compactor{from: f}
	made := c.program()
	if c.lost || len(made) >= len(f) || !c.agrees(made) {
		return f
	}
	return made
}

type compactor struct {
	from filter
	lost bool   // there is something that it does not understand
	all  []span // for the comparison
}

// span is a range of numbers, of one architecture, with one answer: an action,
// or what the instructions from pc on say.
type span struct {
	arch   *uint32 // nil is any that is not ours
	lo, hi uint32
	fixed  bool
	action uint32
	pc     int
}

// sides are where no comparison of bits can tell numbers on one side apart.
var sides = [][2]uint32{{0, x32 - 1}, {x32, 2*x32 - 1}, {2 * x32, 3*x32 - 1}, {3 * x32, ^uint32(0)}}

func (c *compactor) program() (code filter) {
	var blocks []filter
	tests := filter{{Code: loadData, K: offArch}}
	arches := c.arches()
	for _, arch := range arches {
		tests = append(tests, unix.SockFilter{Code: jumpEqual, K: arch, Jf: 1}, unix.SockFilter{Code: jumpTo})
		blocks = append(blocks, c.block(&arch))
	}
	blocks = append(blocks, c.block(nil)) // comes first, without a jump
	if c.lost {
		return nil
	}
	at := len(tests) + len(blocks[len(arches)])
	code = append(tests, blocks[len(arches)]...)
	for i := range arches {
		code[2+2*i].K = uint32(at - (2 + 2*i) - 1)
		code = append(code, blocks[i]...)
		at += len(blocks[i])
	}
	return c.link(code)
}

func (c *compactor) arches() (list []uint32) {
	for _, a := range abis[runtime.GOARCH] {
		list = append(list, a.arch)
	}
	return list
}

// block is what is done for one architecture.
func (c *compactor) block(arch *uint32) filter {
	var spans []span
	for _, side := range sides {
		for _, s := range c.walk(arch, side[0], side[1]) {
			last := len(spans) - 1
			if last >= 0 && spans[last].fixed == s.fixed && spans[last].action == s.action && spans[last].pc == s.pc {
				spans[last].hi = s.hi
				continue
			}
			spans = append(spans, s)
		}
	}
	if c.lost {
		return nil
	}
	c.all = append(c.all, spans...)
	return append(filter{{Code: loadData, K: offNumber}}, search(spans)...)
}

// What the accumulator holds, as far as it is known.
type holds int

const (
	aNumber holds = iota
	aArch
	aConst
)

// walk goes through the filter with all numbers from lo to hi at once, and parts
// them where it must.
func (c *compactor) walk(arch *uint32, lo, hi uint32) (spans []span) {
	type state struct {
		lo, hi uint32
		pc     int
		a      holds
		value  uint32
	}
	todo := []state{{lo: lo, hi: hi, a: aConst}}
	for len(todo) > 0 && !c.lost {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.pc >= len(c.from) {
			c.lost = true
			return nil
		}
		i := c.from[s.pc]
		s.pc++
		known := s.a == aConst || s.a == aArch && arch != nil
		switch {
		case i.Code == answer:
			spans = append(spans, span{arch: arch, lo: s.lo, hi: s.hi, fixed: true, action: i.K})
			continue
		case i.Code == loadData && i.K == offNumber:
			s.a = aNumber
		case i.Code == loadData && i.K == offArch:
			s.a = aArch
			if arch != nil {
				s.value = *arch
			}
		case i.Code == loadData: // of an argument: from here on it is left as it is
			spans = append(spans, span{arch: arch, lo: s.lo, hi: s.hi, pc: s.pc - 1})
			continue
		case i.Code == loadConst:
			s.a, s.value = aConst, i.K
		case i.Code == jumpTo:
			s.pc += int(i.K)
		case i.Code&7 == unix.BPF_JMP && known && isJump(i.Code):
			s.pc += offset(i, compare(i.Code, s.value, i.K))
		case i.Code == jumpEqual && s.a == aArch && slices.Contains(c.arches(), i.K):
			s.pc += int(i.Jf) // it is not one of ours
		case s.a == aNumber && isJump(i.Code) && (i.Code != jumpBits || i.K == x32):
			first, yes := part(i.Code, s.lo, s.hi, i.K)
			if first < s.hi { // the later part waits; it is on top, and comes last
				rest := s
				rest.lo = first + 1
				rest.pc--
				todo = append(todo, rest)
				s.hi = first
				s.pc--
				todo = append(todo, s)
				continue
			}
			s.pc += offset(i, yes)
		default:
			c.lost = true
			return nil
		}
		todo = append(todo, s)
	}
	return spans
}

func isJump(code uint16) bool {
	return code == jumpEqual || code == jumpAbove || code == jumpFrom || code == jumpBits
}

// part returns how far from lo on numbers compare alike, and how.
func part(code uint16, lo, hi, k uint32) (last uint32, yes bool) {
	yes = compare(code, lo, k)
	switch code {
	case jumpEqual:
		if yes {
			return lo, true
		}
		if k > lo && k <= hi {
			return k - 1, false
		}
	case jumpAbove:
		if !yes && k < hi {
			return k, false
		}
	case jumpFrom:
		if !yes && k <= hi {
			return k - 1, false
		}
	}
	return hi, yes // as the bits that tell sides apart are, on one side
}

// search finds a number's span by halves.
func search(spans []span) filter {
	if len(spans) <= maxTree {
		return grow(spans)
	}
	middle := len(spans) / 2
	left, right := search(spans[:middle]), search(spans[middle:])
	code := filter{{Code: jumpFrom, K: spans[middle].lo, Jf: 1}, {Code: jumpTo, K: uint32(len(left))}}
	return append(append(code, left...), right...)
}

// maxTree is how many spans a tree may have: what its comparisons jump to is less
// than 256 instructions away.
const maxTree = 100

// A searchTree has an instruction for each comparison, and after them one for each
// answer.
type searchTree struct {
	code    filter
	forks   [][2]int // of each comparison: where smaller numbers go, and others
	answers filter
}

func grow(spans []span) filter {
	t := &searchTree{}
	if root := t.add(spans); root < 0 {
		return t.answers // there is but one
	}
	for at, fork := range t.forks {
		t.code[at].Jf, t.code[at].Jt = t.jump(at, fork[0]), t.jump(at, fork[1])
	}
	return append(t.code, t.answers...)
}

// add returns where the spans are looked for: the number of a comparison, or
// below zero that of an answer.
func (t *searchTree) add(spans []span) int {
	if len(spans) == 1 {
		return t.answer(spans[0].leaf())
	}
	at, middle := len(t.code), len(spans)/2
	t.code = append(t.code, unix.SockFilter{Code: jumpFrom, K: spans[middle].lo})
	t.forks = append(t.forks, [2]int{})
	left := t.add(spans[:middle])
	t.forks[at] = [2]int{left, t.add(spans[middle:])}
	return at
}

func (t *searchTree) answer(leaf unix.SockFilter) int {
	k := slices.Index(t.answers, leaf)
	if k < 0 {
		k = len(t.answers)
		t.answers = append(t.answers, leaf)
	}
	return -1 - k
}

func (t *searchTree) jump(from, to int) uint8 {
	if to < 0 {
		to = len(t.code) - 1 - to
	}
	return uint8(to - from - 1)
}

// leaf is a span's instruction. If it is not fixed, that is a jump to one of the
// old filter's, which link puts right: Jt marks it, as a jumpTo has none.
func (s span) leaf() unix.SockFilter {
	if s.fixed {
		return unix.SockFilter{Code: answer, K: s.action}
	}
	return unix.SockFilter{Code: jumpTo, K: uint32(s.pc), Jt: 1}
}

// link appends what the marked jumps lead to.
func (c *compactor) link(code filter) filter {
	wanted := map[int]bool{}
	for _, i := range code {
		if i.Code == jumpTo && i.Jt == 1 {
			wanted[int(i.K)] = true
		}
	}
	place := c.keep(wanted, &code)
	for pc := range code {
		if i := &code[pc]; i.Code == jumpTo && i.Jt == 1 {
			i.K, i.Jt = uint32(place[int(i.K)]-pc-1), 0
		}
	}
	return code
}

// keep appends the old instructions that are wanted, with all that they lead to,
// and returns where each is now.
func (c *compactor) keep(wanted map[int]bool, code *filter) map[int]int {
	place := map[int]int{}
	for pc, i := range c.from { // they lead forward only
		if !wanted[pc] {
			continue
		}
		place[pc] = len(*code)
		*code = append(*code, i)
		switch {
		case i.Code == answer:
		case i.Code == jumpTo:
			wanted[pc+1+int(i.K)] = true
		case isJump(i.Code):
			wanted[pc+1+int(i.Jt)], wanted[pc+1+int(i.Jf)] = true, true
		case i.Code == loadData || i.Code == loadConst || i.Code == and:
			wanted[pc+1] = true
		default:
			c.lost = true
		}
	}
	for pc, at := range place {
		i := &(*code)[at]
		switch {
		case i.Code == jumpTo:
			i.K = uint32(place[pc+1+int(i.K)] - at - 1)
		case isJump(i.Code): // nearer than they were, as some in between are gone
			i.Jt, i.Jf = uint8(place[pc+1+int(i.Jt)]-at-1), uint8(place[pc+1+int(i.Jf)]-at-1)
		}
	}
	return place
}

// agrees compares the answers of both at the ends of every span.
func (c *compactor) agrees(made filter) bool {
	for _, s := range c.all {
		for _, nr := range []uint32{s.lo, s.hi} {
			for _, argument := range []uint32{0, ^uint32(0), 1} {
				data := seccompData{nr, otherArch}
				if s.arch != nil {
					data[1] = *s.arch
				}
				for k := 4; k < len(data); k++ {
					data[k] = argument
				}
				was, ok := c.from.answer(data)
				if is, also := made.answer(data); !ok || !also || is != was {
					return false
				}
			}
		}
	}
	return true
}

// otherArch is not ours, whichever ours is: AUDIT_ARCH_M68K.
const otherArch = 4
