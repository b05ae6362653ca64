package main

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoStopsListeningToASignalWaitsForWhatItHasBegun(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	stop := on(unix.SIGUSR1, func() {
		close(begun)
		<-goOn
		done.Store(true)
	})
	must(t, unix.Kill(unix.Getpid(), unix.SIGUSR1))
	<-begun
	go close(goOn)
	stop()
	if !done.Load() {
		t.Error("it did not")
	}
}
