package latency

import (
	"math"
	"sync"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	for i := range Buckets - 1 {
		if got := bucket(Bound(i)); got != i {
			t.Errorf("%v is in bucket %d, not %d", Bound(i), got, i)
		}
		if got := bucket(Bound(i) + 1); got != i+1 {
			t.Errorf("%v is in bucket %d, not %d", Bound(i)+1, got, i+1)
		}
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, 1: 0, math.MaxInt64: Buckets - 1} {
		if got := bucket(d); got != want {
			t.Errorf("%d ns is in bucket %d, not %d", d, got, want)
		}
	}
	if Bound(Buckets-1) != 0 || Bound(0) != 256 || Bound(Buckets-2) != 1<<32 {
		t.Errorf("bounds %v, %v, %v", Bound(0), Bound(Buckets-2), Bound(Buckets-1))
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				h.Observe(300)
				h.Observe(time.Minute)
			}
		})
	}
	all.Wait()
	s := h.Snapshot()
	s.Add(s)
	if s.Count() != 16000 || s.Buckets[1] != 8000 || s.Buckets[Buckets-1] != 8000 || s.Sum != 8000*(300+time.Minute) {
		t.Errorf("%+v", s)
	}
	if n := testing.AllocsPerRun(100, func() { h.Observe(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestSampled: about one in SampleEvery, whatever the stride: no kind of access is left
// out, or timed alone.
func TestSampled(t *testing.T) {
	for _, stride := range []uint64{1, 2, 3, 8, 16, 64, 256, 1000, 4096, 1 << 18} {
		n := 0
		for i := range uint64(64 * SampleEvery) {
			if Sampled(5 + i*stride) {
				n++
			}
		}
		if n < 40 || n > 90 {
			t.Errorf("stride %d: %d of %d", stride, n, 64*SampleEvery)
		}
	}
}

func BenchmarkSampled(b *testing.B) {
	var h Histogram
	page := uint64(0)
	for b.Loop() {
		page++
		if Sampled(page) {
			start := time.Now()
			h.Observe(time.Since(start))
		}
	}
}
