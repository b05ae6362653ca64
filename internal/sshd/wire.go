package sshd

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// x/crypto writes through a buffer of this size: a longer packet arrives
	// as one full buffer and then the rest of it.
	packetBuffer = 4096

	// So much may wait to be written before the writer has to.
	queueSize = 256 << 10
)

// wire is a client's TCP connection, as x/crypto/ssh likes it best.
type wire struct {
	net.Conn
	tcp syscall.RawConn // nil if it is none

	// Until the first command runs, acknowledge at once: OpenSSH's client
	// leaves Nagle's algorithm on while it shakes hands, and would wait twice
	// for our delayed acknowledgement, 40 ms each.
	prompt atomic.Bool

	early []byte // read with the version line, and belonging after it

	mu       sync.Mutex
	changed  sync.Cond // of what is below
	queue    []byte
	flushing bool
	err      error
}

func newWire(raw net.Conn) *wire {
	w := &wire{Conn: raw}
	w.changed.L = &w.mu
	if sc, ok := raw.(syscall.Conn); ok {
		w.tcp, _ = sc.SyscallConn()
	}
	w.prompt.Store(w.tcp != nil)
	w.acknowledge()
	return w
}

// SetDeadline does nothing: gliderlabs/ssh takes all deadlines away again
// before each read and write.
func (w *wire) SetDeadline(time.Time) error { return nil }

// Read reads ahead where x/crypto reads the version line byte by byte.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.early) > 0 {
		return w.readEarly(p), nil
	}
	if len(p) > 1 {
		n, err := w.Conn.Read(p)
		w.acknowledge()
		return n, err
	}
	line := make([]byte, 256)
	n, err := w.Conn.Read(line)
	w.acknowledge()
	w.early = line[:n]
	return w.readEarly(p), err
}

func (w *wire) readEarly(p []byte) int {
	n := copy(p, w.early)
	w.early = w.early[n:]
	return n
}

// acknowledge is to be called again and again: the kernel takes TCP_QUICKACK
// for a hint, and forgets it.
func (w *wire) acknowledge() {
	if !w.prompt.Load() {
		return
	}
	w.tcp.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}

// settle ends the haste of the handshake.
func (w *wire) settle() { w.prompt.Store(false) }

// Write commits in groups: what is bulky is queued, and written by another
// goroutine in pieces as large as they have grown meanwhile, so that one
// write(2) serves several packets. What is small, such as an echo, goes
// straight out.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && !w.flushing && len(p) < packetBuffer {
		return w.Conn.Write(p)
	}
	for w.err == nil && len(w.queue) > 0 && len(w.queue)+len(p) > queueSize {
		w.changed.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.queue == nil {
		w.queue = queues.get()[:0]
	}
	w.queue = append(w.queue, p...)
	if !w.flushing {
		w.flushing = true
		go w.flush() // Close waits for it
	}
	return len(p), nil
}

// flush writes until nothing is queued. An idle connection has no goroutine
// and no buffer here.
func (w *wire) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 && w.err == nil {
		batch := w.queue
		w.queue = nil
		w.mu.Unlock()
		_, err := w.Conn.Write(batch)
		queues.put(batch)
		w.mu.Lock()
		w.err = err
		w.changed.Broadcast()
	}
	w.flushing = false
	w.changed.Broadcast()
}

// Close closes the connection, after a second at most for what is queued.
func (w *wire) Close() error {
	w.Conn.SetWriteDeadline(time.Now().Add(time.Second))
	w.mu.Lock()
	for w.flushing {
		w.changed.Wait()
	}
	w.mu.Unlock()
	return w.Conn.Close()
}
