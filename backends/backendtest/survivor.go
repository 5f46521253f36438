package backendtest

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
)

// testAdoptNothing: a backend that starts empty has nothing to adopt but handles
// that are the data, and adoption leaves it as good as new.
func testAdoptNothing(s *subject, other *subject) {
	other.initAll()
	adopted := 0
	dst := make([]byte, backends.PageSize)
	for page := range uint64(300) {
		l, ok := other.store(backends.Key{Export: 1, Page: page}, Mixed(page))
		if !ok {
			continue
		}
		if s.Adopt(l.key, l.handle) {
			adopted++
			if err := s.Load(l.key, l.handle, dst); err != nil || firstDifference(dst, l.page) >= 0 {
				s.Fatalf("B21: adopted page %d cannot be loaded: %v", page, err)
			}
			defer s.invalidate(l)
		}
		other.invalidate(l)
	}
	if orphans, err := s.Adopted(); err != nil || orphans != 0 {
		s.Fatalf("B22: Adopted: %d orphans, %v", orphans, err)
	}
	s.checkPages(adopted)
	s.initAll()
	l := s.mustStore(backends.Key{Export: 1, Page: 1}, Structured, 1)
	s.check(l)
	s.invalidate(l)
	s.checkPages(adopted)
}

// Reopen ends a backend as the death of its process does, from outside: whatever
// goroutines it had are gone, and nothing in its memory changes. It returns what
// another process makes of that memory.
type Reopen func(t *testing.T, dead backends.Backend) backends.Backend

// RunSurvivor tests a backend whose pages outlive the process.
func RunSurvivor(t *testing.T, newBackend New, reopen Reopen) {
	t.Run("Adopts", func(t *testing.T) { testAdopts(t, newBackend, reopen) })
	t.Run("Twice", func(t *testing.T) { testAdoptsTwice(t, newBackend, reopen) })
}

// fill stores pages and invalidates some again.
func (s *subject) fill(first, n uint64) (pages []live) {
	for page := first; page < first+n; page++ {
		l, ok := s.store(backends.Key{Export: exports[page%2], Page: page}, Mixed(page))
		switch {
		case !ok:
		case page%5 == 0:
			s.invalidate(l)
		default:
			pages = append(pages, l)
		}
	}
	return pages
}

func testAdopts(t *testing.T, newBackend New, reopen Reopen) {
	s := newSubject(t, newBackend)
	s.initAll()
	pages := s.fill(0, 600)
	orphan := s.mustStore(backends.Key{Export: 1, Page: 9999}, Structured, 1)
	kept, forgotten := pages[:len(pages)/2], pages[len(pages)/2:]
	// A copy that was replaced, and whose handle was not freed any more.
	kept = append(kept, s.mustStore(forgotten[0].key, Structured, 77))

	s.Backend, s.open = reopen(t, s.Backend), nil
	if s.Adopt(backends.Key{Export: orphan.key.Export, Page: 9998}, orphan.handle) {
		t.Error("B21: adopted for another page")
	}
	for i, l := range kept {
		if !s.Adopt(l.key, l.handle) {
			t.Fatalf("B21: page %d was not adopted", l.key.Page)
		}
		s.check(l)
		if i == len(kept)-1 && s.Adopt(l.key, l.handle) { // of structured content, so not its own data
			t.Error("B21: adopted twice")
		}
	}
	orphans, err := s.Adopted()
	if err != nil {
		t.Fatal(err)
	}
	if orphans == 0 || orphans > uint64(len(forgotten))+1 {
		t.Errorf("B22: %d orphans, of %d copies that nobody adopted", orphans, len(forgotten)+1)
	}
	s.initAll()
	checkUsed(s.Fatalf, s.Backend, exports[:]...)
	for _, l := range kept {
		s.check(l)
	}
	more := s.fill(1000, 600)
	for _, l := range append(kept, more...) {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
	for _, id := range exports {
		if used := s.Used(id); used != 0 {
			s.Errorf("B32: %d bytes charged for no pages, after a takeover", used)
		}
	}
	s.letGo()
}

// testAdoptsTwice: a process that dies while it takes over leaves everything for
// the next one.
func testAdoptsTwice(t *testing.T, newBackend New, reopen Reopen) {
	s := newSubject(t, newBackend)
	s.initAll()
	pages := s.fill(0, 300)
	for range 2 {
		s.Backend, s.open = reopen(t, s.Backend), nil
		for _, l := range pages[:len(pages)/2] {
			if !s.Adopt(l.key, l.handle) {
				t.Fatalf("B21: page %d was not adopted", l.key.Page)
			}
		}
	}
	s.Backend = reopen(t, s.Backend)
	for _, l := range pages {
		if !s.Adopt(l.key, l.handle) {
			t.Fatalf("B22: page %d was not adopted after two processes that gave up", l.key.Page)
		}
	}
	if orphans, err := s.Adopted(); err != nil || orphans != 0 {
		t.Fatalf("B22: Adopted: %d orphans, %v", orphans, err)
	}
	s.initAll()
	for _, l := range pages {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
	s.letGo()
}
