package daemon

import (
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/metrics"
)

// countRemotes is what backends that are other hosts' memory count.
func countRemotes(list []frontswap.BackendStatus) (all []metrics.Ramster) {
	for _, b := range list {
		r, ok := behindRules(b.Backend).(*remote)
		if !ok {
			continue
		}
		n := r.Remote()
		counts := metrics.Ramster{
			Backend: b.Name, Staged: n.Staged, Home: n.Home, CameHome: n.CameHome, SentOut: n.SentOut, Pages: n.Pages, Lost: n.Lost, Sent: n.Sent, SentAgain: n.SentAgain, Repaired: n.Repaired, Orphans: n.Orphans,
			ReadAhead: n.ReadAhead, AheadHits: n.AheadHits, SecondCopy: n.SecondCopy, LoadsWaited: n.LoadsWaited, Evicted: n.Evicted,
			Cached: n.Cached, CachedGone: n.CachedGone,
		}
		for _, d := range r.Donors() {
			counts.Donors = append(counts.Donors, metrics.RamsterDonor{
				Name: d.Name, Up: d.State == "up", Pages: d.Pages, Free: d.Free, Wanted: d.Wanted, Latency: d.Session.Latency,
				Missed: d.Session.Missed, Rejected: d.Rejected, Missing: d.Missing, Sessions: d.Session.Sessions, Failures: d.Session.Failures,
				Sent: d.Session.BytesOut, Received: d.Session.BytesIn,
				Session: countSession(d),
			})
		}
		all = append(all, counts)
	}
	return all
}

// countSession is how the way to a donor is.
func countSession(d ramster.DonorStatus) metrics.RamsterSession {
	s := metrics.RamsterSession{
		State: d.State, Leaving: d.Leaving, Frozen: d.Frozen,
		ProtocolErrors: d.Session.ProtocolErrors, Strikes: d.Session.Strikes, PoolsRefused: d.Session.PoolsRefused,
		Backlogged: d.Session.Refused, Busy: d.Session.Busy,
		Waiting: d.Session.Waiting, Fetching: d.Session.Fetching, RoundTrip: d.Session.RoundTrip,
	}
	for status, n := range d.Session.Puts {
		s.Puts = append(s.Puts, metrics.RamsterPuts{Status: wire.Status(status).String(), Count: n})
	}
	return s
}

// count is what the memory that is lent counts, or nil.
func (l *lending) count() *metrics.Lent {
	if l == nil || l.donor == nil {
		return nil
	}
	s := l.donor.Stats()
	counts := metrics.Lent{
		Held: s.HeldBytes, Limit: s.LimitBytes, Max: s.MaxBytes, Frozen: s.Frozen, Sessions: s.Sessions,
		Denied: s.Denied, Unidentified: s.Unidentified, Dropped: s.Evicted, Corrupt: s.Corrupt, Memory: s.Memory,
	}
	counts.More = metrics.LentMore{Index: s.IndexBytes, Charged: s.UsedBytes, Pools: s.Pools, Stall: s.Stall, Compacted: s.Compacted}
	for _, c := range s.Clients {
		counts.Clients = append(counts.Clients, metrics.LentClient{
			Name: c.Name, Persistent: c.Persistent, Ephemeral: c.Ephemeral, Used: c.Used, Quota: c.Quota, Wanted: c.Wanted,
		})
	}
	for operation := wire.Hello; operation <= wire.Stats; operation++ {
		for status, n := range s.Requests[operation] {
			// Most pairs never come; these have to be there before they do.
			if n > 0 || wire.Status(status) == wire.OK {
				counts.Requests = append(counts.Requests, metrics.LentRequests{Operation: operation.String(), Status: wire.Status(status).String(), Count: n})
			}
		}
	}
	return &counts
}
