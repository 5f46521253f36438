package client

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHistogramBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v")
		i := bucketOf(v)
		if start := bucketStart(i); start > v {
			t.Fatalf("bucket %d of %d starts at %d", i, v, start)
		} else if float64(v-start) > float64(v)/(1<<histogramBits) {
			t.Fatalf("bucket %d of %d starts at %d, too far away", i, v, start)
		}
		if v > 0 && bucketOf(v-1) > i {
			t.Fatalf("bucket %d of %d comes before that of %d", i, v, v-1)
		}
		if i >= len(Histogram{}.buckets) {
			t.Fatalf("there is no bucket %d, of %d", i, v)
		}
	})
}

func TestHistogramQuantile(t *testing.T) {
	var h, other Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	for i := range 50 {
		h.Add(time.Duration(i+1), 1)
		other.Add(time.Duration(i+51), 1)
	}
	other.Add(-time.Second, 1) // a clock that went back counts as 0
	h.Merge(&other)
	if h.Count() != 101 {
		t.Errorf("count %d", h.Count())
	}
	if h.Longest() != 100 {
		t.Errorf("the longest is %d", h.Longest())
	}
	for _, test := range []struct {
		q    float64
		want time.Duration
	}{{0, 0}, {0.25, 25}, {0.5, 50}, {0.99, 99}, {1, 100}} {
		if got := h.Quantile(test.q); got != test.want {
			t.Errorf("quantile %v is %d, want %d", test.q, got, test.want)
		}
	}
}
