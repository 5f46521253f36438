package backendtest

import (
	"github.com/tmemd/tmemd/backends"
)

// testRefusals offers pages of all sorts and expects that a refusal changes
// nothing but its counter.
func testRefusals(s *subject) {
	s.initAll()
	key := backends.Key{Export: 1, Page: 1}
	older := s.mustStore(key, Structured, 1)
	for seed := range uint64(32) {
		for content := range Contents {
			before := s.Stats()
			handle, refusal, err := s.Store(key, Page(content, seed))
			if err != nil {
				s.Fatalf("Store(%v): %v", key, err)
			}
			if refusal == backends.Accepted {
				s.Invalidate(key, handle)
			}
			after := s.Stats()
			if after.Pages != before.Pages || after.StoredBytes != before.StoredBytes {
				s.Fatalf("B4: a %v page (%v) left %d pages and %d bytes behind", content, refusal,
					after.Pages-before.Pages, after.StoredBytes-before.StoredBytes)
			}
			before.Refused[refusal]++
			if after.Refused != before.Refused {
				s.Fatalf("B6: a %v page (%v) changed the counters to %v, want %v", content, refusal, after.Refused, before.Refused)
			}
		}
		s.check(older)
	}
	s.invalidate(older)
	s.checkPages(0)
}

// testLimit stores until the backend is full, and expects that it says so, stays
// below its limit, keeps what it has, and takes pages again when some have gone.
func testLimit(s *subject) {
	const most = 12_000
	s.initAll()
	limit := s.Stats().LimitBytes
	var pages []live
	full := false
	for seed := uint64(0); seed < most && !full; seed++ {
		key := backends.Key{Export: 1, Page: seed}
		page := Page(Structured, seed)
		handle, refusal, err := s.Store(key, page)
		switch {
		case err != nil:
			s.Fatalf("Store(%v): %v", key, err)
		case refusal == backends.Accepted:
			pages = append(pages, live{key, handle, page})
		case refusal == backends.RefusedFull:
			full = true
		}
		if held := s.Stats().HeldBytes; limit != 0 && held > limit {
			s.Fatalf("B19: %d bytes held, more than the limit of %d", held, limit)
		}
	}
	if full && limit == 0 {
		s.Error("B19: refused as full without a limit")
	}
	if stored := s.Stats().StoredBytes; limit != 0 && !full && stored > limit {
		s.Errorf("B19: %d bytes stored under a limit of %d, and never full", stored, limit)
	}
	s.checkPages(len(pages))
	for _, l := range pages {
		s.check(l)
	}
	for _, l := range pages[len(pages)/2:] {
		s.invalidate(l)
	}
	again := s.mustStore(backends.Key{Export: 1, Page: most}, Structured, most)
	s.check(again)
	s.invalidate(again)
	for _, l := range pages[:len(pages)/2] {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
}

// testAccounting expects that every figure follows what is done and comes back
// to where it was.
func testAccounting(s *subject) {
	s.initAll()
	for round := range uint64(3) {
		var pages []live
		same := 0
		before := s.Stats().Refused
		for seed := range uint64(256) {
			l, ok := s.store(backends.Key{Export: exports[seed%4], Page: seed}, Mixed(seed<<2|round))
			if ok {
				pages = append(pages, l)
				if l.page[0] == l.page[len(l.page)-1] {
					same++
				}
			}
			s.checkPages(len(pages))
		}
		stats := s.Stats()
		offered := uint64(0)
		for i := range stats.Refused {
			offered += stats.Refused[i] - before[i]
		}
		if offered != 256 || stats.Refused[backends.Accepted]-before[backends.Accepted] != uint64(len(pages)) {
			s.Fatalf("B6: counters %v after 256 stores, %d of them accepted; before %v", stats.Refused, len(pages), before)
		}
		if stats.SameFilledPages < stats.Pages && stats.StoredBytes == 0 {
			s.Fatalf("B14: no bytes stored for %d pages", stats.Pages-stats.SameFilledPages)
		}
		var resident int64
		for _, usage := range stats.Memory {
			if usage.Purpose == "" || usage.Mapped < 0 || usage.Resident < 0 {
				s.Fatalf("B18: usage %+v makes no sense", usage)
			}
			resident += usage.Resident
		}
		if len(stats.Memory) > 0 && uint64(resident) < stats.StoredBytes {
			s.Fatalf("B18: %d bytes stored in %d bytes of memory", stats.StoredBytes, resident)
		}
		for i, l := range pages {
			s.invalidate(l)
			s.checkPages(len(pages) - i - 1)
		}
	}
}
