package sshd

import (
	"io"
	"sync"
)

// voice is the output by which the session itself can speak while its command
// runs: the terminal, or stderr. x/crypto/ssh wants one writer at a time.
type voice struct {
	mu sync.Mutex
	to io.Writer
}

func (v *voice) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.to.Write(p)
}

// maxAsides may be on their way to a client that does not read. It gets no
// more of them.
const maxAsides = 4

// aside tells the person something while the command runs, and waits for nobody.
func (st *streams) aside(words string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.silent || st.asides >= maxAsides {
		return
	}
	st.asides++
	st.flowing.Go(func() { // finish waits for it
		defer st.session.server.guard("aside")
		io.WriteString(st.voice, st.session.line(words))
		st.mu.Lock()
		defer st.mu.Unlock()
		st.asides--
	})
}

// beSilent lets no more asides begin, so that flowing can be waited for.
func (st *streams) beSilent() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.silent = true
}

// heard tells the clock of what the client sends.
type heard struct {
	clock *clock
	to    io.Writer
}

func (h heard) Write(p []byte) (int, error) {
	h.clock.hear()
	return h.to.Write(p)
}
