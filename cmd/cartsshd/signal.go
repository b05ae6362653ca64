package main

import (
	"os"
	"os/signal"
)

// on calls f at every signal sig, until the returned stop is called. When that
// returns, f does not run any more.
func on(sig os.Signal, f func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	done, idle := make(chan struct{}), make(chan struct{})
	go func() { // until stop
		defer close(idle)
		for {
			select {
			case <-signals:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		<-idle
	}
}
