package main

import (
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
// machine's noise. Each round begins with another subject, so that none always
// follows the same one. A round before the first warms up and is not kept.
func interleave(rounds int, subjects ...subject) ([]samples, error) {
	all := make([]samples, len(subjects))
	for round := -1; round < rounds; round++ {
		for i := range subjects {
			k := (i + round + 1) % len(subjects)
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
