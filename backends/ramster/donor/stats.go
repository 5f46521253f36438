package donor

import (
	"cmp"
	"slices"

	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Stats is a donor's account of itself. Its figures are taken one after the other while
// work goes on.
type Stats struct {
	Clients []ClientStats // by name

	LimitBytes int64 // what pages and index may take now
	MaxBytes   int64 // the limit that was set
	HeldBytes  int64 // what they take
	IndexBytes int64 // the index's part of that
	UsedBytes  int64 // what clients are charged with

	Pools    int
	Sessions int
	Frozen   bool
	Stall    float64 // see pressure.Sizer.Stall

	// Requests counts replies by operation and status; see wire.
	Requests     [wire.Stats + 1][wire.Bad + 1]uint64
	Evicted      uint64 // ephemeral pages that were dropped
	Compacted    uint64 // pages that were moved
	Corrupt      uint64 // pages that were found damaged, and are gone
	Denied       uint64 // greetings of those who may not
	Unidentified uint64 // connections that did not say who they are

	Memory []sharedmem.Usage
}

// ClientStats is a donor's account of one client.
type ClientStats struct {
	Name       string
	Granted    bool // it is in the table
	Quota      int64
	Weight     int64
	Used       int64 // bytes that it is charged with
	Wanted     int64 // bytes that the donor wants back
	Persistent int64 // pages
	Ephemeral  int64 // pages
	Pools      int
	Sessions   int
}

func (d *Donor) count(o wire.Operation, s wire.Status) { d.requests[o][s].Add(1) }

// Stats counts. It is cheap enough for each scrape.
func (d *Donor) Stats() Stats {
	index, pages := d.index.Usage(), d.arena.Usage()
	s := Stats{
		LimitBytes: d.limit.Load(), MaxBytes: d.most.Load(), IndexBytes: d.index.Bytes(),
		Frozen: d.frozen.Load(), Stall: d.sizer.Stall(),
		Evicted: d.evicted.Load(), Compacted: d.compacted.Load(), Corrupt: d.corrupt.Load(),
		Denied: d.denied.Load(), Unidentified: d.unidentified.Load(),
		Memory: append(append(pages[:], index[:]...), d.ledger.region.Usage()),
	}
	s.HeldBytes = d.arena.Stats().HeldBytes + s.IndexBytes
	for o := range s.Requests {
		for status := range s.Requests[o] {
			s.Requests[o][status] = d.requests[o][status].Load()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		s.Clients = append(s.Clients, ClientStats{
			Name: c.name, Granted: c.granted, Quota: c.quota.Load(), Weight: c.weight.Load(), Used: c.used(), Wanted: c.wanted(),
			Persistent: c.pages[persistent].Load(), Ephemeral: c.pages[ephemeral].Load(), Pools: c.pools, Sessions: d.sessionsOfLocked(c),
		})
	}
	slices.SortFunc(s.Clients, func(a, b ClientStats) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range s.Clients {
		s.UsedBytes += c.Used
		s.Pools += c.Pools
		s.Sessions += c.Sessions
	}
	return s
}

func (d *Donor) sessionsOfLocked(c *client) (n int) {
	for _, o := range d.owners {
		if o.client == c && !o.idle() {
			n++
		}
	}
	return n
}

// roomOf is the account that an owner gets. What ephemeral pages have is free: a put that
// needs it gets it.
func (d *Donor) roomOf(c *client) wire.Room {
	all, used := d.arena.Used()+d.index.Used(), c.used()
	quota := max(0, c.quota.Load())
	return wire.Room{
		Quota:   uint64(quota),
		Used:    uint64(max(0, used)),
		Pages:   uint64(max(0, c.pages[persistent].Load()+c.pages[ephemeral].Load())),
		Free:    uint64(max(0, min(c.allowed()-used+c.droppable.Load(), d.limit.Load()-all+d.droppable.Load()))),
		Wanted:  uint64(c.wanted()),
		Frozen:  d.frozen.Load(),
		Foreign: uint64(max(0, all-used)),
		Weight:  uint64(c.weight.Load()),
	}
}
