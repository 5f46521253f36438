package ramster

import (
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/peer"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// flying is one ephemeral page on its way to its donor.
type flying struct {
	cache  *Cache // immutable
	number uint16 // immutable
	member *member

	mu         sync.Mutex
	key        backends.Key
	ref        arena.Ref
	generation uint64 // 0: none; guarded by mu, as what follows
	length     int
	blob       []byte // of the region
}

var _ peer.Completion = (*flying)(nil)

// board takes a flight to a donor, or nil if none is idle.
func (c *Cache) board(m *member) *flying {
	if m.flying.Add(1) > maxFlying/2 {
		m.flying.Add(-1)
		return nil
	}
	select {
	case f := <-c.cached.idle:
		f.member = m
		return f
	default:
		m.flying.Add(-1)
		return nil
	}
}

// spurnsCached says whether the donor refused an ephemeral page lately. What it takes of swap is
// another matter.
func (m *member) spurnsCached() bool { return time.Now().UnixNano() < m.cachedTo.Load() }

// land makes the flight idle.
func (f *flying) land() {
	f.member.flying.Add(-1)
	f.member = nil
	f.cache.cached.idle <- f
}

func (f *flying) load(key backends.Key, ref arena.Ref, generation uint64, blob []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key, f.ref, f.generation, f.length = key, ref, generation, copy(f.blob, blob)
}

// unload returns what was on board.
func (f *flying) unload() (key backends.Key, ref arena.Ref, generation uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	generation, f.generation = f.generation, 0
	return f.key, f.ref, generation
}

// flightOf returns a flight; a number that makes no sense is damage, and that of none.
func (c *Cache) flightOf(n uint16) *flying {
	all := c.cached.flights.Load()
	if all == nil || int(n) >= len(all) {
		return nil
	}
	return all[n]
}

// carries says whether a version of a page is on board. f may be nil.
func (f *flying) carries(key backends.Key, generation uint64) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.generation == generation && f.key == key
}

// copyTo gives w that version of a page, if it is on board. f may be nil.
func (f *flying) copyTo(w *waiter, key backends.Key, generation uint64) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation != generation || f.key != key {
		return false
	}
	w.length = copy(w.blob[:], f.blob[:f.length])
	return true
}

// Done implements [peer.Completion]. The page leaves the flight before its stub is looked at:
// so whoever drops the stub and finds the page on board leaves the rest to us.
func (f *flying) Done(status wire.Status, err error) {
	c, m := f.cache, f.member
	key, ref, generation := f.unload()
	s, _, ok := c.cachedOf(key, ref)
	ok = ok && s.generation == generation
	arrived := err == nil && status == wire.OK
	switch {
	case ok && arrived && c.isBelieved(s.place) && c.members.at[s.place].Load() == m:
	default:
		c.dropCached(key, ref, generation)
		if arrived || err != nil { // it may have the page
			m.flushCached(key, generation)
		}
	}
	if err == nil && status != wire.OK {
		m.cachedTo.Store(time.Now().Add(fullPause).UnixNano())
	}
	f.land()
}
