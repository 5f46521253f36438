package backendtest

import (
	"strings"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/backends"
)

func testLifeCycle(s *subject) {
	if kind := s.Kind(); kind == "" || kind != strings.ToLower(kind) {
		s.Errorf("Kind is %q, want a name in lower case", kind)
	}
	local := s.Local()
	for generation := range uint64(3) {
		s.initAll()
		var pages []live
		for _, id := range exports {
			for page := range uint64(8) {
				pages = append(pages, s.mustStore(backends.Key{Export: id, Page: page}, Structured, generation<<8|page))
			}
		}
		s.checkPages(len(pages))
		for _, l := range pages {
			s.check(l)
		}
		for _, l := range pages {
			s.invalidate(l)
		}
		s.checkPages(0)
		s.letGo()
	}
	if s.Local() != local {
		s.Errorf("B16: Local changed from %v to %v", local, s.Local())
	}
}

func testInitFails(s *subject) {
	s.mustInit(7)
	l := s.mustStore(backends.Key{Export: 7, Page: 1}, Structured, 1)
	if s.Init(backends.Export{ID: 7, Name: "swap", Pages: 1 << 24}) == nil {
		s.Error("B2: the second Init of an export succeeded")
	}
	s.check(l)
	other := s.mustStore(backends.Key{Export: 7, Page: 2}, Structured, 2)
	s.check(other)
	s.invalidate(l)
	s.invalidate(other)
}

func testUnmanaged(s *subject) {
	refused := func(when string) {
		s.Helper()
		for page := range uint64(8) {
			_, refusal, err := s.Store(backends.Key{Export: 3, Page: page}, Mixed(page))
			if err != nil || refusal != backends.RefusedUnmanaged {
				s.Errorf("B1: Store %s: %v, %v, want refused as unmanaged", when, refusal, err)
			}
		}
		s.checkPages(0)
	}
	refused("before Init")
	s.mustInit(4)
	refused("with another export initialised")
	s.mustInit(3)
	s.invalidate(s.mustStore(backends.Key{Export: 3, Page: 5}, Structured, 1))
	s.letGo()
	refused("after InvalidateArea")
	if got := s.Stats().Refused[backends.RefusedUnmanaged]; got != 24 {
		s.Errorf("B6: %d stores counted as unmanaged, want 24", got)
	}
	s.mustInit(3)
	l := s.mustStore(backends.Key{Export: 3, Page: 5}, Structured, 2)
	s.check(l)
	s.invalidate(l)
}

func testClose(s *subject) {
	existing := goleak.IgnoreCurrent()
	s.initAll()
	var pages []live
	for page := range uint64(512) {
		if l, ok := s.store(backends.Key{Export: 1, Page: page}, Mixed(page)); ok {
			pages = append(pages, l)
		}
	}
	for _, l := range pages {
		s.invalidate(l)
	}
	s.letGo()
	accepted := s.Stats().Refused[backends.Accepted]
	s.closed = true
	stopScrape := scrape(s.Backend)
	err := s.Close()
	stopScrape()
	if err != nil {
		s.Fatalf("Close: %v", err)
	}
	stats := s.Stats()
	if stats.Pages != 0 || stats.StoredBytes != 0 || stats.HeldBytes != 0 {
		s.Errorf("B3: after Close Stats shows %d pages, %d stored and %d held bytes",
			stats.Pages, stats.StoredBytes, stats.HeldBytes)
	}
	for _, usage := range stats.Memory {
		if usage.Resident != 0 || usage.Mapped != 0 {
			s.Errorf("B3: after Close the %s has %d bytes mapped, %d resident", usage.Purpose, usage.Mapped, usage.Resident)
		}
	}
	if stats.Refused[backends.Accepted] != accepted {
		s.Errorf("B14: after Close %d accepted stores, before %d", stats.Refused[backends.Accepted], accepted)
	}
	if err := goleak.Find(existing); err != nil {
		s.Errorf("B15: after Close: %v", err)
	}
}
