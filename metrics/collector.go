package metrics

import (
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// Collector is a prometheus.Collector of a daemon's snapshots.
type Collector struct {
	take  func() Snapshot
	watch *watch
	bound bound
}

// NewCollector returns a collector that calls take for each scrape, from any
// goroutine. So many exports have series of their own, as many disks, and as many clients.
func NewCollector(take func() Snapshot, series int) *Collector {
	return &Collector{take: take, watch: &watch{}, bound: bound{limit: series}}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range allDescriptions() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	all := c.take()
	s, left := c.bound.apply(all)
	e := emitter(out)
	e.bound(all, left)
	e.gauge(buildInfo, 1, s.Version, s.Revision, runtime.Version())
	e.health(s.Health, c.watch.unready(all, time.Now()))
	e.gauge(protectionWanted, truth(s.ProtectionWanted))
	e.counter(exportMoves, s.Moves.Done, "moved")
	e.counter(exportMoves, s.Moves.Failed, "failed")
	e.gauge(exportMovePause, s.Moves.Pause.Seconds())
	e.gauge(exportsMoved, float64(s.Moves.Away))
	for _, measure := range slices.Sorted(maps.Keys(s.Protection)) {
		e.gauge(protection, truth(s.Protection[measure]), measure)
	}
	for _, x := range s.Exports {
		e.export(x)
		e.gauge(exportCharged, float64(x.Stats.Area.Used), x.Name)
	}
	for _, c := range s.Clients {
		e.client(c)
	}
	for _, d := range s.Disks {
		e.disk(d)
	}
	for _, b := range s.Backends {
		e.backend(b)
	}
	for _, r := range s.Ramsters {
		e.ramster(r)
	}
	if s.Lent != nil {
		e.lent(*s.Lent)
	}
	e.storageTimes(all)
	e.nbd(s.NBD)
	for _, u := range all.MemoryByPurpose() {
		e.gauge(memoryMapped, float64(u.Mapped), u.Purpose)
		e.gauge(memoryResident, float64(u.Resident), u.Purpose)
	}
}

// emitter sends the metrics of one scrape.
type emitter chan<- prometheus.Metric

func (e emitter) gauge(d *prometheus.Desc, value float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (e emitter) counter(d *prometheus.Desc, value uint64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func (e emitter) export(x Export) {
	area := x.Stats.Area
	e.counter(loads, area.Loads, x.Name)
	e.counter(succStores, area.SuccStores, x.Name)
	e.counter(failedStores, area.FailedStores, x.Name)
	e.counter(invalidates, area.Invalidates, x.Name)
	e.counter(loadErrors, area.LoadErrors, x.Name)

	e.gauge(pages, float64(area.None), x.Name, "none")
	e.gauge(pages, float64(area.Storage), x.Name, "storage")
	e.gauge(pages, float64(area.Hole), x.Name, "hole")
	e.gauge(pages, float64(area.Lost), x.Name, "lost")
	for _, name := range slices.Sorted(maps.Keys(area.Backends)) {
		e.gauge(pages, float64(area.Backends[name]), x.Name, name)
	}

	e.storage(x.Name, x.Stats.Storage)
	for _, mode := range []tier.Writethrough{tier.WritethroughOff, tier.WritethroughAsync, tier.WritethroughSync} {
		e.gauge(writethroughMode, truth(x.Stats.Writethrough == mode), x.Name, mode.String())
	}
	e.gauge(writethroughPending, float64(x.Stats.SyncBlocks), x.Name)
	e.counter(rescuedPages, x.Stats.Rescued, x.Name)
	e.gauge(exportSize, float64(x.Size), x.Name)
	e.gauge(storageLive, float64(x.Stats.LiveSize), x.Name)
	e.gauge(storageStale, float64(x.Stats.StaleSize), x.Name)
	e.gauge(punchPending, float64(x.Stats.PunchBlocks), x.Name)
}

func (e emitter) storage(name string, s tier.StorageStats) {
	e.counter(storagePagesRead, s.PagesRead, name)
	e.counter(storagePagesWritten, s.PagesWritten, name)
	e.counter(storagePagesPunched, s.PagesPunched, name)
	e.counter(storageErrors, s.ReadErrors, name, "read")
	e.counter(storageErrors, s.WriteErrors, name, "write")
	e.counter(storageErrors, s.PunchErrors, name, "punch")
	e.gauge(storageAllocated, float64(s.AllocatedSize), name)
	e.gauge(storageDirect, truth(s.Direct), name)
}

func (e emitter) disk(d Disk) {
	c := d.Stats.Cache
	e.gauge(diskSize, float64(d.Size), d.Name)
	e.counter(succGets, c.SuccGets, d.Name)
	e.counter(failedGets, c.FailedGets, d.Name)
	e.counter(puts, c.Puts, d.Name)
	e.counter(cleancacheInvalidates, c.Invalidates, d.Name)
	for _, name := range slices.Sorted(maps.Keys(c.Backends)) {
		e.gauge(cachedPages, float64(c.Backends[name]), d.Name, name)
	}
	for _, mode := range []cleancache.Mode{cleancache.Inclusive, cleancache.Exclusive} {
		e.gauge(cleancacheMode, truth(c.Mode == mode), d.Name, mode.String())
	}
	e.storage(d.Name, d.Stats.Storage)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (e emitter) backend(b frontswap.BackendStatus) {
	e.gauge(backendInfo, 1, b.Name, b.Kind)
	e.backendTimes(b)
	e.gauge(backendPages, float64(b.Pages), b.Name)
	e.gauge(backendEphemeral, float64(b.Stats.EphemeralPages), b.Name)
	e.gauge(backendSameFilled, float64(b.Stats.SameFilledPages), b.Name)
	e.gauge(backendShared, float64(b.Stats.SharedPages), b.Name)
	e.gauge(backendContents, float64(b.Stats.SharedContents), b.Name)
	e.gauge(backendSaved, float64(b.Stats.SharedSaved), b.Name)
	e.gauge(backendStored, float64(b.Stats.StoredBytes), b.Name)
	e.gauge(backendHeld, float64(b.Stats.HeldBytes), b.Name)
	e.gauge(backendIncompressible, float64(b.Stats.Incompressible), b.Name)
	e.gauge(backendLimit, float64(b.Stats.LimitBytes), b.Name)
	e.gauge(backendMax, float64(b.Stats.MaxBytes), b.Name)
	e.gauge(backendStall, b.Stats.Stall, b.Name)
	e.counter(backendAccepted, b.Stats.Refused[backends.Accepted], b.Name)
	for reason := backends.Accepted + 1; reason < backends.Refusals; reason++ {
		e.counter(backendRefused, b.Stats.Refused[reason], b.Name, reason.String())
	}
	for movement := range backends.Movements {
		e.counter(backendMoved, b.Stats.Moved[movement], b.Name, movement.String())
	}
	for _, codec := range b.Stats.Codecs {
		e.gauge(backendCodecPages, float64(codec.Pages), b.Name, codec.Name)
		e.gauge(backendCodecBytes, float64(codec.Bytes), b.Name, codec.Name)
	}
	e.counter(backendCorrupt, b.Stats.CorruptLoads, b.Name)
	e.counter(backendLoadErrors, b.LoadErrors, b.Name)
	for state := frontswap.StateRegistered; state < frontswap.StateGone; state++ {
		e.gauge(backendState, truth(b.State == state), b.Name, state.String())
	}
	if !b.Drain.Started.IsZero() {
		e.gauge(drainRunning, truth(b.Drain.Running), b.Name)
		e.gauge(drainMoved, float64(b.Drain.Stored()), b.Name, "storage")
		for _, into := range slices.Sorted(maps.Keys(b.Drain.Into)) {
			e.gauge(drainMoved, float64(b.Drain.Into[into]), b.Name, into)
		}
		e.gauge(drainLeft, float64(b.Drain.Left), b.Name)
	}
}

func (e emitter) nbd(s nbd.Stats) {
	for _, x := range s.Exports {
		e.gauge(nbdClients, float64(x.Clients), x.Name)
		for command := range nbd.CommandCount {
			r := &x.Commands[command]
			e.counter(nbdRequests, r.Requests, x.Name, command.String())
			e.counter(nbdErrors, r.Errors, x.Name, command.String())
			e.counter(nbdBytes, r.Bytes, x.Name, command.String())
		}
	}
	for command := range nbd.CommandCount {
		e.latency(command, s.Commands[command].Latency)
	}
	e.gauge(nbdConnections, float64(s.Connections.Now))
	e.gauge(nbdHandshaking, float64(s.Connections.Handshaking))
	e.counter(nbdConnectionsTotal, s.Connections.Total)
	for reason, n := range s.Connections.Refused {
		e.counter(nbdRefused, n, reason)
	}
	for reason, n := range s.HandshakeFailures {
		e.counter(nbdHandshakeFailures, n, reason)
	}
	for reason, n := range s.AccessDenied {
		e.counter(nbdDenied, n, reason)
	}
	e.gauge(nbdTLSConnections, float64(s.TLS.Now))
	e.counter(nbdTLSHandshakes, s.TLS.Handshakes)
	if !s.TLS.Expires.IsZero() {
		e.gauge(nbdTLSExpiry, float64(s.TLS.Expires.Unix()))
	}
	e.gauge(nbdBuffersLent, float64(s.Buffers.PoolLent))
	e.gauge(nbdBuffersLimit, float64(s.Buffers.PoolLimit))
	e.counter(nbdPanics, s.Panics)
}

func (e emitter) latency(command nbd.Command, l nbd.Latency) {
	buckets := make(map[float64]uint64, nbd.LatencyBuckets-1)
	count := uint64(0)
	for i, n := range l.Buckets {
		count += n
		if bound := nbd.LatencyBound(i); bound > 0 {
			buckets[bound.Seconds()] = count
		}
	}
	e <- prometheus.MustNewConstHistogram(nbdRequestSeconds, count, l.Sum.Seconds(), buckets, command.String())
}
