package ramster

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// compareCached is compareExport for an ephemeral export: what nobody knows of is flushed, and
// pages that the donor has dropped are gone, as it may. It returns false if it did not get
// through.
func (k *keeper) compareCached(m *member, place uint8, id uint32, e *export) bool {
	for from := uint64(0); from < wire.MaxPages; {
		if e.closed.Load() {
			return true
		}
		n, next, err := m.session.List(k.ctx, id, from, k.listed[:])
		if err != nil {
			return false
		}
		there := make(map[uint64]uint64, n) // generations by page
		for _, l := range k.listed[:n] {
			there[l.Page] = l.Generation
			s, _, ok := k.cachedAt(e, backends.Key{Export: id, Page: l.Page})
			if ok && s.generation == l.Generation && s.place == place {
				continue
			}
			if !m.session.Flush(id, l.Page, 1, l.Generation) {
				return false
			}
			k.counts.orphans.Add(1)
		}
		k.dropIf(e, id, from, next, func(key backends.Key, s cachedStub) bool {
			// One that has landed since the list was made goes too, here and there.
			return s.place == place && there[key.Page] != s.generation && !k.flightOf(s.flight).carries(key, s.generation)
		})
		from = next
	}
	return true
}

// dropIf makes pages gone, of those from a number on to before another.
func (k *keeper) dropIf(e *export, id uint32, from, before uint64, which func(backends.Key, cachedStub) bool) {
	e.pages.Range(from, func(page, word uint64) bool {
		if page >= before || k.ctx.Err() != nil || e.closed.Load() {
			return false
		}
		key, ref := backends.Key{Export: id, Page: page}, arena.Ref(word-1)
		if s, _, ok := k.cachedOf(key, ref); ok && which(key, s) && k.dropCached(key, ref, s.generation) {
			k.flushCached(key, s)
		}
		return true
	})
}

// sweepCached makes pages gone whose donor has lost them.
func (k *keeper) sweepCached() {
	lost := false
	for n := 1; n < placeCount; n++ {
		lost = lost || k.cached.at[n].Load() > 0 && !k.isBelieved(uint8(n))
	}
	if !lost {
		return
	}
	for id, e := range *k.exports.Load() {
		if e.ephemeral {
			e.life.RLock()
			k.dropIf(e, id, 0, wire.MaxPages, func(_ backends.Key, s cachedStub) bool { return !k.isBelieved(s.place) })
			e.life.RUnlock()
		}
	}
}
