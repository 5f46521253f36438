package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/backends/latency"
	"github.com/tmemd/tmemd/frontswap"
)

var (
	backendSeconds = describe("backend_seconds", "Time that the backend took for loads and stores, refused ones too, of one page in 64.", "backend", "operation")
	storageSeconds = describe("storage_seconds", "Time that storage of all exports and disks took: each operation past the page cache, and of the others one in 64.", "operation")

	timeDescriptions = []*prometheus.Desc{backendSeconds, storageSeconds}
)

func (e emitter) backendTimes(b frontswap.BackendStatus) {
	e.times(backendSeconds, b.Loads, b.Name, "load")
	e.times(backendSeconds, b.Stores, b.Name, "store")
}

// StorageTimes is how long storage of everything took.
func (s Snapshot) StorageTimes() (reads, writes, syncs latency.Snapshot) {
	for _, x := range s.Exports {
		reads.Add(x.Stats.Storage.Reads)
		writes.Add(x.Stats.Storage.Writes)
		syncs.Add(x.Stats.Storage.Syncs)
	}
	for _, d := range s.Disks {
		reads.Add(d.Stats.Storage.Reads)
		writes.Add(d.Stats.Storage.Writes)
		syncs.Add(d.Stats.Storage.Syncs)
	}
	return reads, writes, syncs
}

func (e emitter) storageTimes(s Snapshot) {
	reads, writes, syncs := s.StorageTimes()
	e.times(storageSeconds, reads, "read")
	e.times(storageSeconds, writes, "write")
	e.times(storageSeconds, syncs, "sync")
}

// times shows every second bucket: powers of four are as much as an eye tells apart, and
// half of the series.
func (e emitter) times(d *prometheus.Desc, s latency.Snapshot, labels ...string) {
	buckets := make(map[float64]uint64, latency.Buckets/2)
	count := uint64(0)
	for i, n := range s.Buckets {
		count += n
		if bound := latency.Bound(i); bound > 0 && i%2 == 0 {
			buckets[bound.Seconds()] = count
		}
	}
	e <- prometheus.MustNewConstHistogram(d, count, s.Sum.Seconds(), buckets, labels...)
}
