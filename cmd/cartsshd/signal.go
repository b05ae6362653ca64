package main

import (
	"os"
	"os/signal"
	"time"
)

// on calls f at every signal sig, until the returned stop is called. When that
// returns, f does not run any more.
func on(sig os.Signal, f func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	end := whenever(signals, f)
	return func() {
		signal.Stop(signals)
		end()
	}
}

// every does the same every so often.
func every(interval time.Duration, f func()) (stop func()) {
	ticker := time.NewTicker(interval)
	end := whenever(ticker.C, f)
	return func() {
		ticker.Stop()
		end()
	}
}

func whenever[T any](events <-chan T, f func()) (stop func()) {
	done, idle := make(chan struct{}), make(chan struct{})
	go func() { // until stop
		defer close(idle)
		for {
			select {
			case <-events:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-idle
	}
}
