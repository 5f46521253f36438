package backendtest

import (
	"github.com/tmemd/tmemd/backends"
)

// checkUsed expects that what exports are charged agrees with what is held for
// them. REQUIRES: no ephemeral page, and no call under way.
func checkUsed(fatalf func(string, ...any), b backends.Backend, ids ...uint32) {
	sum := uint64(0)
	for _, id := range ids {
		sum += b.Used(id)
	}
	if stats := b.Stats(); sum < stats.StoredBytes || sum > stats.HeldBytes {
		fatalf("B32: exports are charged %d bytes, for %d stored and %d held", sum, stats.StoredBytes, stats.HeldBytes)
	}
}

// testUsed expects that each export is charged for its own pages, exactly.
func testUsed(s *subject) {
	if used := s.Used(exports[0]); used != 0 {
		s.Fatalf("B32: %d bytes charged before Init", used)
	}
	s.initAll()
	var pages []live
	for seed := range uint64(256) {
		id := exports[seed%3] // the last one has none
		before, others := s.Used(id), s.Used(exports[(seed+1)%3])
		l, ok := s.store(backends.Key{Export: id, Page: seed}, Mixed(seed))
		after := s.Used(id)
		switch {
		case ok && !isFilled(l.page) && after <= before:
			s.Fatalf("B32: a page was stored and %d bytes are charged, before %d", after, before)
		case !ok && after != before:
			s.Fatalf("B32: a page was refused and %d bytes are charged, before %d", after, before)
		}
		if ok {
			pages = append(pages, l)
		}
		if got := s.Used(exports[(seed+1)%3]); got != others {
			s.Fatalf("B32: another export is charged %d bytes, before %d", got, others)
		}
		checkUsed(s.Fatalf, s.Backend, exports[:]...)
	}
	if used := s.Used(exports[3]); used != 0 {
		s.Fatalf("B32: an export without pages is charged %d bytes", used)
	}
	same := s.Used(exports[0])
	filled := live{key: backends.Key{Export: exports[0], Page: 1 << 20}, page: make([]byte, backends.PageSize)}
	if l, ok := s.store(filled.key, filled.page); ok {
		s.invalidate(l)
	}
	if got := s.Used(exports[0]); got != same {
		s.Fatalf("B32: a page came and went, and %d bytes are charged, before %d", got, same)
	}
	for _, l := range pages {
		s.invalidate(l)
		checkUsed(s.Fatalf, s.Backend, exports[:]...)
	}
	for _, id := range exports {
		if used := s.Used(id); used != 0 {
			s.Fatalf("B32: %d bytes charged for no pages", used)
		}
	}
	s.letGo()
	if used := s.Used(exports[0]); used != 0 {
		s.Fatalf("B32: %d bytes charged after InvalidateArea", used)
	}
}

// testLeft fills the backend and empties it again.
func testLeft(s *subject) {
	s.initAll()
	limit := s.Stats().LimitBytes
	empty := s.Room()
	var pages []live
	for seed := uint64(0); seed < 12_000; seed++ {
		key := backends.Key{Export: exports[seed%4], Page: seed}
		handle, refusal, err := s.Store(key, Page(Structured, seed))
		if err != nil {
			s.Fatalf("Store(%v): %v", key, err)
		}
		if refusal == backends.Accepted {
			pages = append(pages, live{key: key, handle: handle})
		}
		if refusal == backends.RefusedFull {
			if room := s.Room(); room > limit/8 {
				s.Fatalf("B33: refused as full with room for %d bytes of %d", room, limit)
			}
			break
		}
	}
	for _, l := range pages {
		s.invalidate(l)
	}
	if room := s.Room(); room < empty/2 {
		s.Fatalf("B33: room for %d bytes when all pages are gone, %d in the beginning", room, empty)
	}
}
