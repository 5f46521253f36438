package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets is the length of a histogram.
const Buckets = 26

const firstBits = 8 // the first bucket ends at 1<<firstBits nanoseconds

// Bound is the upper end, inclusive, of bucket i: 256 ns, 512 ns and so on up to 4.3 s.
// The last bucket has none, and 0 is returned for it.
func Bound(i int) time.Duration {
	if i >= Buckets-1 {
		return 0
	}
	return 1 << (firstBits + i)
}

// Histogram counts durations. Its zero value is empty, all methods are safe for
// concurrent use.
type Histogram struct {
	buckets [Buckets]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

// Observe counts one.
func (h *Histogram) Observe(d time.Duration) {
	h.buckets[bucket(d)].Add(1)
	h.sum.Add(int64(d))
}

func bucket(d time.Duration) int {
	if d <= 1<<firstBits {
		return 0
	}
	return min(bits.Len64(uint64(d-1)>>firstBits), Buckets-1)
}

// Snapshot is what a histogram counted.
type Snapshot struct {
	Buckets [Buckets]uint64 // not cumulative; Bound gives their upper ends
	Sum     time.Duration
}

// Snapshot reads the histogram.
func (h *Histogram) Snapshot() (s Snapshot) {
	for i := range h.buckets {
		s.Buckets[i] = h.buckets[i].Load()
	}
	s.Sum = time.Duration(h.sum.Load())
	return s
}

// Add adds what another one counted.
func (s *Snapshot) Add(other Snapshot) {
	for i, n := range other.Buckets {
		s.Buckets[i] += n
	}
	s.Sum += other.Sum
}

// Count is how many durations were counted.
func (s *Snapshot) Count() (n uint64) {
	for _, b := range s.Buckets {
		n += b
	}
	return n
}

// SampleEvery is how many operations there are for each that is timed.
const SampleEvery = 1 << sampleBits

const sampleBits = 6

// Sampled picks the pages whose operations are timed: one in SampleEvery, spread evenly
// over runs and strides (Fibonacci hashing).
func Sampled(page uint64) bool { return page*0x9E3779B97F4A7C15>>(64-sampleBits) == 0 }
