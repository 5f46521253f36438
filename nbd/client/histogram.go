package client

import (
	"math/bits"
	"time"
)

// Histogram buckets: each power of two is cut into 1<<histogramBits parts, so
// a quantile is off by 1.6 % at most.
const histogramBits = 6

// Histogram counts durations. The zero value is empty.
type Histogram struct {
	buckets [(65 - histogramBits) << histogramBits]uint64
	count   uint64
	longest time.Duration
}

// Add counts n requests that took so long.
func (h *Histogram) Add(took time.Duration, n uint64) {
	h.buckets[bucketOf(uint64(max(took, 0)))] += n
	h.count += n
	h.longest = max(h.longest, took)
}

// Merge adds what other counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.longest = max(h.longest, other.longest)
}

// Count is how many requests were counted.
func (h *Histogram) Count() uint64 { return h.count }

// Longest is the longest duration counted, exactly; 0 if nothing was.
func (h *Histogram) Longest() time.Duration { return h.longest }

// Quantile is the duration that a share q of the requests (0 to 1) did not
// exceed, rounded down to its bucket; 0 if nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.count)), h.count-1)
	for i, n := range h.buckets {
		if rank < n {
			return time.Duration(bucketStart(i))
		}
		rank -= n
	}
	return 0
}

func bucketOf(v uint64) int {
	if v < 1<<histogramBits {
		return int(v)
	}
	shift := bits.Len64(v) - histogramBits - 1
	return shift<<histogramBits + int(v>>shift)
}

func bucketStart(i int) uint64 {
	if i < 2<<histogramBits {
		return uint64(i)
	}
	shift := i>>histogramBits - 1
	return uint64(i-shift<<histogramBits) << shift
}
