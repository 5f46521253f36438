package metrics

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
)

// Others is the export that errors are counted for of exports without series. It is no
// name that an export can have.
const Others = "(others)"

var (
	servedTotal    = describe("served", "Exports, disks and clients that there are.", "kind")
	servedUnlisted = describe("served_without_series", "Of these, those that have no series of their own, see metrics_exports.", "kind")

	nbdAllErrors = describe("nbd_command_errors_total", "Requests answered with an error, of all exports and disks, removed ones too.", "command")
	nbdAllBytes  = describe("nbd_command_bytes_total", "Bytes moved, discarded or zeroed, of all exports and disks, removed ones too.", "command")

	boundDescriptions = []*prometheus.Desc{servedTotal, servedUnlisted, nbdAllErrors, nbdAllBytes}
)

// bound keeps the number of series within what was asked for. Who has series keeps them
// for life, so that no counter stops and begins anew: a place is given to whoever is
// there when it gets free. Of the others only what went wrong is counted, together.
type bound struct {
	limit int // immutable

	mu                      sync.Mutex
	exports, disks, clients map[string]bool
	last                    map[string]failures // of exports without series; what was seen last
	gone                    failures            // of those that are not there any more
}

// failures are the counters of what went wrong with an export.
type failures struct{ loads, reads, writes, punches uint64 }

func (f *failures) add(other failures) {
	f.loads += other.loads
	f.reads += other.reads
	f.writes += other.writes
	f.punches += other.punches
}

// below says that one of the counters began anew.
func (f failures) below(other failures) bool {
	return f.loads < other.loads || f.reads < other.reads || f.writes < other.writes || f.punches < other.punches
}

func failuresOf(x Export) failures {
	s := x.Stats.Storage
	return failures{loads: x.Stats.Area.LoadErrors, reads: s.ReadErrors, writes: s.WriteErrors, punches: s.PunchErrors}
}

// unlisted is what apply left out.
type unlisted struct {
	exports, disks, clients int
	failed                  failures
}

// apply returns the snapshot with those only that have series.
func (b *bound) apply(s Snapshot) (Snapshot, unlisted) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := s
	b.exports = choose(b.exports, b.limit, all.Exports, func(x Export) string { return x.Name })
	b.disks = choose(b.disks, b.limit, all.Disks, func(d Disk) string { return d.Name })
	b.clients = choose(b.clients, b.limit, all.Clients, func(c frontswap.ClientStatus) string { return c.Name })
	s.Exports = only(all.Exports, func(x Export) bool { return b.exports[x.Name] })
	s.Disks = only(all.Disks, func(d Disk) bool { return b.disks[d.Name] })
	s.Clients = only(all.Clients, func(c frontswap.ClientStatus) bool { return b.clients[c.Name] })
	s.NBD.Exports = only(all.NBD.Exports, func(x nbd.ExportStats) bool { return b.exports[x.Name] || b.disks[x.Name] })

	seen := map[string]failures{}
	for _, x := range all.Exports {
		if !b.exports[x.Name] {
			seen[x.Name] = failuresOf(x)
		}
	}
	for name, before := range b.last {
		if now, there := seen[name]; !there && !b.exports[name] || there && now.below(before) {
			b.gone.add(before)
		}
	}
	b.last = seen
	left := unlisted{
		exports: len(all.Exports) - len(s.Exports), disks: len(all.Disks) - len(s.Disks), clients: len(all.Clients) - len(s.Clients), failed: b.gone,
	}
	for _, f := range seen {
		left.failed.add(f)
	}
	return s, left
}

// choose returns who has a place: those who had one and are there, then others.
func choose[T any](had map[string]bool, limit int, list []T, name func(T) string) map[string]bool {
	have := map[string]bool{}
	for _, x := range list {
		if had[name(x)] {
			have[name(x)] = true
		}
	}
	for _, x := range list {
		if len(have) >= limit {
			break
		}
		have[name(x)] = true
	}
	return have
}

func only[T any](list []T, has func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return !has(x) })
}

func (e emitter) bound(all Snapshot, left unlisted) {
	for _, k := range []struct {
		kind        string
		there, left int
	}{{"export", len(all.Exports), left.exports}, {"disk", len(all.Disks), left.disks}, {"client", len(all.Clients), left.clients}} {
		e.gauge(servedTotal, float64(k.there), k.kind)
		e.gauge(servedUnlisted, float64(k.left), k.kind)
	}
	e.counter(loadErrors, left.failed.loads, Others)
	e.counter(storageErrors, left.failed.reads, Others, "read")
	e.counter(storageErrors, left.failed.writes, Others, "write")
	e.counter(storageErrors, left.failed.punches, Others, "punch")
	for command := range nbd.CommandCount {
		e.counter(nbdAllErrors, all.NBD.Commands[command].Errors, command.String())
		e.counter(nbdAllBytes, all.NBD.Commands[command].Bytes, command.String())
	}
}
