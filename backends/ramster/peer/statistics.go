package peer

import (
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// statuses is how many of them there are.
const statuses = int(wire.Bad) + 1

// Stats are counters, since New, and gauges.
type Stats struct {
	State State

	Sessions       uint64 // that stood
	Failures       uint64 // to make one
	ProtocolErrors uint64 // of the donor
	RoundTrips     uint64 // requests that were answered
	Missed         uint64 // fetches that were late
	Strikes        uint64 // see the package's comment
	BytesOut       uint64
	BytesIn        uint64
	Writes         uint64           // batches that were sent
	PagesFetched   uint64           // also those that came late
	Puts           [statuses]uint64 // that were answered, by wire.Status
	PoolsRefused   uint64           // the donor had no room for a pool
	Refused        uint64           // mutations that the backlog had no room for
	Busy           uint64           // fetches that ended with ErrBusy

	Waiting   int           // mutations that are not answered
	Fetching  int           // fetches that are not answered
	Latency   time.Duration // of fetches, from the call to the last page, moving average
	RoundTrip time.Duration // of all requests, from sending to the answer, moving average
	Memory    sharedmem.Usage
}

// Stats is cheap enough for each scrape.
func (p *Peer) Stats() Stats {
	p.mu.Lock()
	s := p.stats
	s.State = p.State()
	s.Waiting = int(p.backlog.tail - p.backlog.head)
	s.Fetching = int(p.fetches.tail - p.fetches.head)
	p.mu.Unlock()
	s.Memory = p.memory.Usage()
	return s
}

// average moves an average by an eighth of the way.
func average(a *time.Duration, d time.Duration) {
	if *a == 0 {
		*a = d
		return
	}
	*a += (d - *a) / 8
}

// setRoom takes what the donor says, with mu. It allocates, once in statsPause at most.
func (p *Peer) setRoom(r wire.Room) {
	old := *p.room.Load()
	p.room.Store(&r)
	step := r.Quota / 64
	if old.Frozen != r.Frozen || (old.Wanted == 0) != (r.Wanted == 0) || old.Weight != r.Weight || old.Quota != r.Quota ||
		(old.Free == 0) != (r.Free == 0) || apart(old.Wanted, r.Wanted) > step || apart(old.Free, r.Free) > step {
		p.changed = true
	}
}

func apart(a, b uint64) uint64 { return max(a, b) - min(a, b) }
