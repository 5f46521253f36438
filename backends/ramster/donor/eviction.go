package donor

import "github.com/tmemd/tmemd/backends/arena"

const (
	// evictBatch is how many pages are dropped at once: about a chunk's worth.
	evictBatch = 64
	// evictChunks is how many chunks are then emptied for other sizes of pages.
	evictChunks = 4
)

// evictAny drops ephemeral pages of the client that is furthest above its share, and
// makes chunks of what they leave. It returns false if there are none.
func (d *Donor) evictAny() bool {
	d.evicting.Lock()
	defer d.evicting.Unlock()
	c := d.victim()
	if c == nil || d.evict(c) == 0 {
		return false
	}
	d.compact(evictChunks)
	return true
}

// evictOf drops ephemeral pages of one client, who needs its quota for others.
func (d *Donor) evictOf(c *client) bool {
	if c.pages[ephemeral].Load() == 0 {
		return false
	}
	d.evicting.Lock()
	defer d.evicting.Unlock()
	return d.evict(c) > 0
}

// victim is the client, of those with ephemeral pages, that uses most for its weight:
// its share of the memory is in proportion to the weight, so that is the one furthest
// above it. Nil if there is none.
func (d *Donor) victim() (worst *client) {
	for place := range d.pools {
		p := d.pools[place].Load()
		if p == nil || p.kind != ephemeral || p.client.pages[ephemeral].Load() == 0 || p.client == worst {
			continue
		}
		if worst == nil || p.client.excess() > worst.excess() {
			worst = p.client
		}
	}
	return worst
}

// excess is what a client uses for each unit of its weight.
func (c *client) excess() float64 { return float64(c.used()) / float64(c.weight.Load()) }

// evict drops up to a batch of a client's ephemeral pages, pool by pool, from where it
// stopped: pages that were fetched since the hand came by get a second chance.
// REQUIRES: evicting held.
func (d *Donor) evict(c *client) (dropped int) {
	// Twice around takes the chances away, and the place where it began comes last.
	for range 2*maxPools + 1 {
		if p := d.pools[c.hand].Load(); p != nil && p.client == c && p.kind == ephemeral {
			dropped += d.evictFrom(p, evictBatch-dropped)
		}
		if dropped >= evictBatch || c.pages[ephemeral].Load() == 0 {
			break
		}
		c.hand = (c.hand + 1) % maxPools
	}
	d.evicted.Add(uint64(dropped))
	return dropped
}

// evictFrom goes on in a pool, to its end at most.
func (d *Donor) evictFrom(p *pool, most int) (dropped int) {
	end := true
	p.table.Range(p.hand, func(page, word uint64) bool {
		if dropped >= most {
			p.hand, end = page, false
			return false
		}
		if d.evictPage(p, page, word) {
			dropped++
		}
		return true
	})
	if end {
		p.hand = 0
	}
	return dropped
}

func (d *Donor) evictPage(p *pool, page, word uint64) bool {
	lock := d.lock(p.number, page)
	defer lock.Unlock()
	if p.table.Get(page) != word || d.poolOf(p.number) != p {
		return false
	}
	if o, ok := d.find(p, page, word); ok && o.Flags&flagUsed != 0 {
		d.arena.Mark(refOf(word), 0, flagUsed)
		return false
	}
	d.drop(p, page)
	return true
}

// compact empties up to so many sparse chunks.
func (d *Donor) compact(chunks int) {
	d.compacting.Lock()
	defer d.compacting.Unlock()
	d.arena.Compact(chunks, d.move)
}

// move gives an object another slot.
func (d *Donor) move(ref arena.Ref) bool {
	was, ok := d.arena.Snapshot(ref, nil)
	if !ok {
		return false
	}
	lock := d.lock(was.Export, was.Page)
	defer lock.Unlock()
	p := d.poolOf(was.Export)
	if p == nil || p.table.Get(was.Page) != wordOf(ref) {
		return false // gone, or going
	}
	now, ok := d.find(p, was.Page, wordOf(ref))
	if !ok {
		return false
	}
	to, ok := d.arena.Put(now)
	if !ok {
		return false
	}
	// There is a leaf, so this is always done.
	if !p.table.Set(was.Page, wordOf(to)) {
		d.arena.Free(to)
		return false
	}
	d.arena.Free(ref)
	d.compacted.Add(1)
	return true
}
