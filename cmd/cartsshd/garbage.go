package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A small heap is collected often: copying a stream makes garbage fast, and the
// next collection is due when the heap has doubled. Here it is due at 64 MiB, or
// when the heap has doubled, whichever is later: bulk transfers gain a third,
// and a thousand sessions cost no more memory than they did.
const heapFloor = 64 << 20

// delayCollections keeps it so: each collection sets when the next one is due.
func delayCollections() {
	debug.SetGCPercent(gcPercent(liveHeap()))
	runtime.SetFinalizer(&canary{new(byte)}, func(*canary) { delayCollections() })
}

// A canary is not referenced: its finalizer runs after the next collection.
type canary struct{ _ *byte }

// gcPercent is how much a heap of live bytes may grow, in percent of it.
func gcPercent(live uint64) int {
	const most = 1600
	if live*(most+100)/100 < heapFloor {
		return most
	}
	return max(100, int(heapFloor*100/live)-100)
}

func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return heapFloor
	}
	return sample[0].Value.Uint64()
}
