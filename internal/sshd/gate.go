package sshd

import (
	"net"
	"net/netip"
	"sync"
)

// gate counts who is inside, and keeps out whoever is one too many. A max or
// each of zero is no limit.
type gate struct {
	max  int // in all
	each int // from one address

	mu     sync.Mutex
	inside int
	from   map[netip.Prefix]int
}

func (g *gate) enter(who netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.max > 0 && g.inside >= g.max || g.each > 0 && g.from[who] >= g.each {
		return false
	}
	if g.from == nil {
		g.from = make(map[netip.Prefix]int)
	}
	g.inside++
	g.from[who]++
	return true
}

func (g *gate) leave(who netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.from[who]--; g.from[who] == 0 {
		delete(g.from, who)
	}
}

// household is what counts as one address: an IPv6 client has 2^64 of them.
func household(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil { // no IP address
		return netip.Prefix{}
	}
	return p
}

func addrOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}
