package sshd

import "sync"

// buffers is a pool of byte slices of one size, for those who have something
// to put into them: who waits for input waits without one, or a thousand idle
// sessions would hold a thousand buffers.
type buffers struct {
	size int
	pool sync.Pool // of *[]byte
}

var (
	queues = &buffers{size: queueSize}
	bulk   = &buffers{size: 256 << 10} // a pipe's worth
	screen = &buffers{size: 32 << 10}  // a terminal's worth, and one SSH packet's
)

func (b *buffers) get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, b.size)
}

func (b *buffers) put(buf []byte) {
	if cap(buf) < b.size {
		return
	}
	buf = buf[:b.size]
	b.pool.Put(&buf)
}
