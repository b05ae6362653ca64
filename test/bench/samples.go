package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// samples are measured values of one subject, all in one unit.
type samples []float64

func (s samples) median() float64 { return s.quantile(0.5) }

// quantile returns the value below which the fraction q of the samples lies.
func (s samples) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// A subject is measured once by each call.
type subject func() (float64, error)

// interleave runs every subject once a round, so that all of them share the
// machine's noise, in another order each time: what a docker exec leaves to be
// done is no more often the next one's burden than another's. The order is the
// same in every run. A round before the first warms up and is not kept.
func interleave(rounds int, subjects ...subject) ([]samples, error) {
	all := make([]samples, len(subjects))
	order := rand.New(rand.NewPCG(1, 2))
	for round := -1; round < rounds; round++ {
		for _, k := range order.Perm(len(subjects)) {
			v, err := subjects[k]()
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				all[k] = append(all[k], v)
			}
		}
	}
	return all, nil
}

// milliseconds measures how long f takes.
func milliseconds(f func() error) (float64, error) {
	began := time.Now()
	err := f()
	return time.Since(began).Seconds() * 1e3, err
}
