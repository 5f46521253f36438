package tier

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// BenchmarkWriteback asks how long stores take while pages are evicted all the
// time, beside the same stores into a pool with room: bursts of 32 pages out, each
// timed by itself. An operation is 256 bursts of both.
func BenchmarkWriteback(b *testing.B) {
	const pages, bursts, burst = 1 << 16, 256, 32
	content := make([]byte, 1024*pageSize)
	for i := range 1024 {
		backendtest.Fill(content[i*pageSize:][:pageSize], backendtest.Structured, uint64(i))
	}
	open := func(limit int64) (*Device, *zcache.Cache) {
		f := newFrontswap()
		d := openDevice(b, newMemoryStorage(pages), f)
		c, err := zcache.New(zcache.Config{Limit: limit, Cold: -1, Scrub: -1})
		if err != nil {
			b.Fatal(err)
		}
		register(b, f, "zcache", c)
		b.Cleanup(func() {
			if err := d.Trim(0, pages*pageSize); err != nil {
				b.Error(err)
			}
			if _, err := f.Unregister(context.Background(), "zcache"); err != nil {
				b.Error(err)
			}
		})
		return d, c
	}
	quietDevice, _ := open(1 << 30)
	fullDevice, full := open(pages * structuredBytes / 4)
	random := rand.New(rand.NewPCG(1, 1))
	write := func(d *Device, page int) {
		if _, err := d.WriteAt(content[page*7%1024*pageSize:][:pageSize], int64(page)*pageSize); err != nil {
			b.Fatal(err)
		}
	}
	for page := range pages {
		write(quietDevice, page)
		write(fullDevice, page)
	}
	var took [2][]time.Duration
	evicted, refused := full.Stats().Moved[backends.MovedEvicted], full.Stats().Refused[backends.RefusedFull]
	for b.Loop() {
		for i, d := range []*Device{quietDevice, fullDevice} {
			for range bursts {
				first := random.IntN(pages - burst)
				for page := range burst {
					start := time.Now()
					write(d, first+page)
					took[i] = append(took[i], time.Since(start))
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	stores := float64(len(took[1]))
	b.ReportMetric(float64(full.Stats().Moved[backends.MovedEvicted]-evicted)/stores, "evicted/store")
	b.ReportMetric(float64(full.Stats().Refused[backends.RefusedFull]-refused)/stores, "refused/store")
	quantile := func(i int, q float64) float64 {
		return float64(took[i][int(q*float64(len(took[i])-1))].Nanoseconds()) / 1000
	}
	for i := range took {
		slices.Sort(took[i])
	}
	b.ReportMetric(quantile(0, 0.5), "quiet-p50-µs")
	b.ReportMetric(quantile(0, 0.999), "quiet-p99.9-µs")
	b.ReportMetric(quantile(1, 0.5), "full-p50-µs")
	b.ReportMetric(quantile(1, 0.999), "full-p99.9-µs")
	b.ReportMetric(quantile(1, 0.999)/quantile(0, 0.5), "p99.9/quiet-p50")
	b.ReportMetric(0, "ns/op")
}
