package backendtest

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends"
)

func testRoundTrip(s *subject) {
	s.initAll()
	for content := range Contents {
		s.Run(content.String(), func(t *testing.T) {
			s := &subject{T: t, Backend: s.Backend}
			var pages []live
			for seed := range uint64(64) {
				key := backends.Key{Export: exports[seed%4], Page: seed * seed * 977 % backends.MaxPages}
				if l, ok := s.store(key, Page(content, seed)); ok {
					s.check(l)
					pages = append(pages, l)
				}
			}
			for range 2 {
				for _, l := range pages {
					s.check(l)
				}
			}
			for i, l := range pages {
				s.invalidate(l)
				for _, left := range pages[i+1 : min(i+3, len(pages))] {
					s.check(left)
				}
			}
			s.checkPages(0)
		})
	}
	s.Run("ends of the range", func(t *testing.T) {
		s := &subject{T: t, Backend: s.Backend}
		for _, page := range []uint64{0, 1, 1<<32 - 1, 1 << 32, backends.MaxPages - 1} {
			l := s.mustStore(backends.Key{Export: exports[3], Page: page}, Structured, page)
			s.check(l)
			s.invalidate(l)
		}
		s.checkPages(0)
	})
}

// testNotRetained changes the caller's buffers after each call (B10).
func testNotRetained(s *subject) {
	s.initAll()
	data := make([]byte, backends.PageSize)
	for seed := range uint64(64) {
		want := Mixed(seed)
		copy(data, want)
		l, ok := s.store(backends.Key{Export: 1, Page: seed}, data)
		if !bytes.Equal(data, want) {
			s.Fatal("B10: Store changed the data")
		}
		if !ok {
			continue
		}
		FillMixed(data, seed+1)
		dst := make([]byte, backends.PageSize)
		if err := s.Load(l.key, l.handle, dst); err != nil {
			s.Fatalf("B7: Load: %v", err)
		}
		clear(dst)
		l.page = want
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
}

// testDuplicateKeys keeps two generations of a page, as the caller does for a
// moment in each store over an existing page.
func testDuplicateKeys(s *subject) {
	s.initAll()
	key := backends.Key{Export: 1, Page: 4711}
	for older := range Contents {
		for newer := range Contents {
			first, ok1 := s.store(key, Page(older, 1))
			second, ok2 := s.store(key, Page(newer, 2))
			if ok1 {
				s.check(first)
			}
			if ok2 {
				s.check(second)
			}
			switch {
			case ok1 && ok2:
				s.invalidate(first)
				s.check(second)
				third, ok := s.store(key, Page(older, 3))
				s.invalidate(second)
				if ok {
					s.check(third)
					s.invalidate(third)
				}
			case ok1:
				s.invalidate(first)
			case ok2:
				s.invalidate(second)
			}
			s.checkPages(0)
		}
	}
}

// testEqualPages stores one content under several keys (B12).
func testEqualPages(s *subject) {
	s.initAll()
	for content := range Contents {
		var pages []live
		for page := range uint64(16) {
			if l, ok := s.store(backends.Key{Export: exports[page%4], Page: page}, Page(content, 9)); ok {
				pages = append(pages, l)
			}
		}
		s.checkPages(len(pages))
		for i, l := range pages {
			s.invalidate(l)
			for _, left := range pages[i+1:] {
				s.check(left)
			}
		}
		s.checkPages(0)
	}
}

func testWrongKey(s *subject) {
	s.initAll()
	for _, content := range []Content{Repeated, Structured, Text} {
		first := s.mustStore(backends.Key{Export: 1, Page: 100}, content, 1)
		second := s.mustStore(backends.Key{Export: 1, Page: 101}, content, 2)
		for _, key := range []backends.Key{
			{Export: 1, Page: 101},
			{Export: 1, Page: 100 | 1<<39},
			{Export: 0, Page: 100},
			{Export: 0x80000001, Page: 100},
		} {
			s.checkCorrupt("B9", key, first.handle)
		}
		s.checkCorrupt("B9", first.key, second.handle)
		s.check(first)
		s.check(second)
		s.invalidate(first)
		s.checkCorrupt("B8", first.key, second.handle)
		s.check(second)
		s.invalidate(second)
	}
	s.checkPages(0)
}

// testWrongHandle loads handles that no store returned (B20), near to one that
// is live and far from it.
func testWrongHandle(s *subject) {
	s.initAll()
	l := s.mustStore(backends.Key{Export: 1, Page: 100}, Structured, 1)
	wrong := []backends.Handle{l.handle + 1, l.handle - 1, 1<<backends.HandleBits - 1, 1 << 63, ^backends.Handle(0)}
	for bit := range 64 {
		wrong = append(wrong, l.handle^1<<bit)
	}
	for _, handle := range wrong {
		s.checkCorrupt("B20", l.key, handle)
	}
	s.check(l)
	s.invalidate(l)
	s.checkPages(0)
}

// testHandles keeps many pages and expects that no two share a handle, unless
// they are the same page.
func testHandles(s *subject) {
	s.initAll()
	owners := make(map[backends.Handle]live)
	stored := 0
	var pages []live
	for seed := range uint64(1024) {
		l, ok := s.store(backends.Key{Export: exports[seed%4], Page: seed}, Mixed(seed))
		if !ok {
			continue
		}
		if owner, taken := owners[l.handle]; taken && !bytes.Equal(owner.page, l.page) {
			s.Fatalf("B12: pages %v and %v share handle %#x", owner.key, l.key, uint64(l.handle))
		}
		owners[l.handle] = l
		pages = append(pages, l)
		stored++
	}
	s.checkPages(stored)
	for _, l := range pages {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
}
