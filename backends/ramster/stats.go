package ramster

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/peer"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Stats counts. The figures are taken one after the other while work goes on.
func (c *Cache) Stats() backends.Stats {
	held := c.arena.Stats()
	same := max(c.same.Load(), 0)
	usage := c.arena.Usage()
	stats := backends.Stats{
		EphemeralPages:  uint64(held.Droppable + max(c.cached.same.Load(), 0)),
		Pages:           uint64(held.Objects + same),
		SameFilledPages: uint64(same),
		StoredBytes:     uint64(max(held.DataBytes, 0)),
		HeldBytes:       uint64(held.HeldBytes),
		LimitBytes:      uint64(c.config.arenaLimit()),
		MaxBytes:        uint64(c.config.arenaLimit()),
		CorruptLoads:    c.corrupt.Load(),
		Memory:          []sharedmem.Usage{c.ahead.memory.Usage(), c.ledger.region.Usage()},
	}
	index := c.index.Usage()
	stats.Memory = append(append(stats.Memory, usage[:]...), index[:]...)
	for _, m := range *c.members.list.Load() {
		stats.Memory = append(stats.Memory, m.session.Stats().Memory)
	}
	stats.Memory = append(stats.Memory, c.cached.usage()...)
	stats.Moved[backends.MovedDropped] = c.cached.dropped.Load()
	for i := range c.refused {
		stats.Refused[i] = c.refused[i].Load()
	}
	return stats
}

// Config is what the cache was made with, with the donors that it has now.
func (c *Cache) Config() Config {
	config := c.config
	config.Donors = nil
	for _, m := range *c.members.list.Load() {
		if !m.leaving.Load() {
			config.Donors = append(config.Donors, m.Donor)
		}
	}
	return config
}

// DonorStatus is a snapshot of one donor.
type DonorStatus struct {
	Donor
	State    string // connecting, up, open (its circuit breaker) or refused
	Reason   string // why it is refused
	Leaving  bool   // it gets no more pages, and what it has moves away
	Pages    int64  // of ours that it has
	Cached   int64  // pages of ephemeral exports that it may have, beside these
	Free     uint64 // bytes that it still takes
	Wanted   uint64 // bytes that it wants back
	Frozen   bool   // it takes nothing just now
	Rejected uint64 // answers that were not the page that we had sealed
	Missing  uint64 // pages that it should have had and had not
	Session  peer.Stats
}

// Donors lists the donors in the order in which they were added.
func (c *Cache) Donors() []DonorStatus {
	var all []DonorStatus
	for _, m := range *c.members.list.Load() {
		room := m.session.Room()
		d := DonorStatus{
			Donor: m.Donor, State: m.session.State().String(), Leaving: m.leaving.Load(), Pages: c.members.stubs[m.place.Load()].Load(),
			Free: room.Free, Wanted: room.Wanted, Frozen: room.Frozen, Rejected: m.rejected.Load(), Missing: m.missing.Load(), Session: m.session.Stats(),
		}
		d.Cached = c.cached.at[m.place.Load()].Load()
		if m.place.Load() == 0 {
			d.Pages, d.Cached = 0, 0
		}
		if reason := m.refusal.Load(); reason != nil {
			d.State, d.Reason = "refused", *reason
		}
		all = append(all, d)
	}
	return all
}

// Remote is what becomes of pages beyond what [backends.Stats] has names for.
type Remote struct {
	Staged      int64 // bytes of pages that donors do not have yet
	Home        int64 // bytes of pages that came home
	Pages       int64 // pages that donors have
	Lost        int64 // of these, pages that no donor has any more, as of the last look
	Sent        uint64
	SentAgain   uint64 // pages that a donor refused, or whose donor went, meanwhile
	Repaired    uint64 // copies made again
	Orphans     uint64 // pages that a donor had and nobody knew of, flushed
	ReadAhead   uint64 // pages asked for before they were loaded
	AheadHits   uint64 // of these, pages that were loaded
	SecondCopy  uint64 // loads that asked another donor
	LoadsWaited uint64 // times that a load waited for a donor to come back
	CameHome    uint64 // pages that came home because this host has memory to spare
	SentOut     uint64 // of these, pages that had to go again
	Evicted     uint64 // pages that went to the next place because donors wanted them back
	Cached      int64  // pages of ephemeral exports that donors may have
	CachedGone  uint64 // of these, pages that a donor had not when they were loaded, or did not give in time
}

// Remote returns a snapshot.
func (c *Cache) Remote() Remote {
	n := &c.counts
	return Remote{
		Staged: c.stagedBytes.Load(), Pages: c.stubs.Load(), Lost: c.lost.Load(), Sent: n.sent.Load(), SentAgain: n.sentAgain.Load(),
		Repaired: n.repaired.Load(), Orphans: n.orphans.Load(), ReadAhead: n.aheadPages.Load(), AheadHits: n.aheadHits.Load(),
		SecondCopy: n.secondCopy.Load(), LoadsWaited: n.waited.Load(), Home: c.home.bytes.Load(), CameHome: c.home.came.Load(), SentOut: c.home.left.Load(), Evicted: n.evicted.Load(),
		Cached: c.cached.pages.Load(), CachedGone: c.cached.gone.Load(),
	}
}
