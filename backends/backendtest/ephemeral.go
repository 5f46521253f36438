package backendtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
)

// RunEphemeral tests a backend against the rules for ephemeral exports. It needs a
// limit of not much more than 8 MiB of pages. A backend that refuses Init of an
// ephemeral export has nothing to be tested here.
func RunEphemeral(t *testing.T, newBackend New) { runEphemeral(t, newBackend, testGivesWay) }

// RunEphemeralElsewhere is RunEphemeral for a backend which may have ephemeral pages where no
// page of another export could be: these have as much room as without them, but
// there may be some left when one is refused.
func RunEphemeralElsewhere(t *testing.T, newBackend New) {
	runEphemeral(t, newBackend, func(s *subject) { testRoom(s) })
}

func runEphemeral(t *testing.T, newBackend New, givesWay func(*subject)) {
	for _, test := range []struct {
		name string
		run  func(*subject)
	}{
		{"Forgotten", testForgotten},
		{"GivesWay", givesWay},
		{"WrongKey", testEphemeralWrongKey},
		{"MissAllocates", testMissAllocates},
		{"Overlap", testOverlap},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(newSubject(t, newBackend)) })
	}
	t.Run("Model", func(t *testing.T) { testEphemeralModel(t, newBackend) })
}

// The exports of these tests: swap, and a disk.
const (
	swapID = 3
	diskID = 7
)

func (s *subject) initBoth() {
	s.Helper()
	s.mustInit(swapID)
	if err := s.Init(backends.Export{ID: diskID, Name: "disk", Pages: 1 << 24, Ephemeral: true}); err != nil {
		s.Fatalf("Init of an ephemeral export: %v", err)
	}
	s.open = append(s.open, diskID)
}

// got loads an ephemeral page, checks it, and says whether it is there.
func (s *subject) got(l live) bool {
	s.Helper()
	dst := make([]byte, backends.PageSize)
	err := s.Load(l.key, l.handle, dst)
	switch {
	case errors.Is(err, backends.ErrGone):
		return false
	case err != nil:
		s.Fatalf("B23: Load(%v): %v, want the page or ErrGone", l.key, err)
	case !bytes.Equal(dst, l.page):
		s.Fatalf("B23: Load(%v) gave other bytes, from byte %d on", l.key, firstDifference(dst, l.page))
	}
	return true
}

// storeDisk stores pages from first on until that many were accepted, offering each
// of them twice at most.
func (s *subject) storeDisk(first uint64, n int) (pages []live) {
	s.Helper()
	for page := first; len(pages) < n && page < first+uint64(8*n); page++ {
		key, data := backends.Key{Export: diskID, Page: page}, Page(Structured, page)
		for range 2 {
			if l, ok := s.store(key, data); ok {
				pages = append(pages, l)
				break
			}
		}
	}
	return pages
}

// testForgotten fills the backend with more ephemeral pages than it has room for.
func testForgotten(s *subject) {
	s.initBoth()
	swap := s.mustStore(backends.Key{Export: swapID, Page: 5}, Structured, 5)
	pages := s.storeDisk(0, 9000)
	if len(pages) == 0 {
		s.Fatal("no ephemeral page is accepted")
	}
	there := 0
	for _, l := range pages {
		if s.got(l) {
			there++
		}
	}
	stats := s.Stats()
	if stats.EphemeralPages != uint64(there) || stats.Pages != uint64(there)+1 {
		s.Errorf("B3: Stats shows %d ephemeral pages of %d, but %d are there, beside one of swap", stats.EphemeralPages, stats.Pages, there)
	}
	if stats.CorruptLoads != 0 {
		s.Errorf("B23: %d loads of forgotten pages count as corrupt", stats.CorruptLoads)
	}
	if stats.LimitBytes != 0 && stats.HeldBytes > stats.LimitBytes {
		s.Errorf("B19: %d bytes held, more than the limit of %d", stats.HeldBytes, stats.LimitBytes)
	}
	// Every second one goes; those that stay must not notice, wherever they are now.
	for i, l := range pages {
		if i%2 == 0 {
			s.invalidate(l)
		}
	}
	still := 0
	for i, l := range pages {
		if i%2 == 1 && s.got(l) {
			still++
		}
	}
	if got := s.Stats().EphemeralPages; got != uint64(still) {
		s.Errorf("B24: %d ephemeral pages counted, %d are there", got, still)
	}
	s.check(swap)
	for i, l := range pages {
		if i%2 == 1 {
			s.invalidate(l)
		}
	}
	s.check(swap)
	s.checkPages(1)
	s.invalidate(swap)
	s.checkPages(0)
}

// testGivesWay is testRoom, and nothing ephemeral is left when a page is refused.
func testGivesWay(s *subject) {
	if left := testRoom(s); left > 0 {
		s.Errorf("B26: a page was refused as full while there are %d ephemeral pages", left)
	}
}

// testRoom fills the backend with ephemeral pages, then with others: those find
// as much room as in an empty one. It returns how many ephemeral pages were left when one of
// the others was refused as full.
func testRoom(s *subject) (left uint64) {
	s.initBoth()
	fill := func() (pages []live) {
		for page := range uint64(40000) {
			key, data := backends.Key{Export: swapID, Page: page}, Page(Structured, page)
			handle, refusal, err := s.Store(key, data)
			if err != nil {
				s.Fatalf("Store(%v): %v", key, err)
			}
			if refusal == backends.RefusedFull {
				return pages
			}
			if refusal == backends.Accepted {
				pages = append(pages, live{key, handle, data})
			}
		}
		return pages
	}
	empty := fill()
	for _, l := range empty {
		s.invalidate(l)
	}
	disk := s.storeDisk(0, 9000)
	swap := fill()
	if len(swap) < len(empty)*98/100 {
		s.Errorf("B26: %d pages found room beside ephemeral ones, %d in an empty backend", len(swap), len(empty))
	}
	if stats := s.Stats(); stats.Refused[backends.RefusedFull] > 1 {
		left = stats.EphemeralPages
	}
	for _, l := range disk {
		s.got(l)
		s.invalidate(l)
	}
	for _, l := range swap {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
	return left
}

func testEphemeralWrongKey(s *subject) {
	s.initBoth()
	pages := s.storeDisk(0, 2)
	if len(pages) < 2 {
		s.Fatal("no ephemeral page is accepted")
	}
	dst := make([]byte, backends.PageSize)
	for _, key := range []backends.Key{
		{Export: diskID, Page: pages[0].key.Page ^ 1<<30},
		pages[1].key,
	} {
		if err := s.Load(key, pages[0].handle, dst); !errors.Is(err, backends.ErrGone) {
			s.Errorf("B23: Load(%v) under the handle of %v: %v, want ErrGone", key, pages[0].key, err)
		}
		// A handle of that page that was forgotten, whose place another page took.
		s.Invalidate(backends.Key{Export: diskID, Page: key.Page ^ 1<<29}, pages[0].handle)
	}
	for _, l := range pages {
		if !s.got(l) {
			s.Errorf("B24: page %v was forgotten with another's name", l.key)
		}
		s.invalidate(l)
	}
	s.checkPages(0)
}

func testMissAllocates(s *subject) {
	s.initBoth()
	pages := s.storeDisk(0, 1)
	if len(pages) == 0 {
		s.Fatal("no ephemeral page is accepted")
	}
	l := pages[0]
	s.invalidate(l)
	dst := make([]byte, backends.PageSize)
	var err error
	if n := testing.AllocsPerRun(100, func() { err = s.Load(l.key, l.handle, dst) }); n != 0 {
		s.Errorf("B23: Load of a forgotten page allocates %v times", n)
	}
	if !errors.Is(err, backends.ErrGone) {
		s.Errorf("B23: Load of a forgotten page: %v, want ErrGone", err)
	}
}

// testOverlap lets pages be loaded while they are invalidated and stored anew, with
// swap beside them that takes their room.
func testOverlap(s *subject) {
	s.initBoth()
	const pages, rounds = 64, 60
	type slot struct {
		mu     sync.Mutex // held by who changes it
		handle backends.Handle
		there  bool
	}
	var slots [pages]slot
	var contents [pages][2][]byte
	for page := range contents {
		for i := range contents[page] {
			contents[page][i] = Page(Structured, uint64(page)<<20|uint64(i))
		}
	}
	var wg sync.WaitGroup
	for n := range uint64(2) {
		wg.Go(func() { // writers
			for round := range uint64(rounds) {
				for page := n; page < pages; page += 2 {
					p := &slots[page]
					p.mu.Lock()
					if p.there {
						s.Invalidate(backends.Key{Export: diskID, Page: page}, p.handle)
					}
					handle, refusal, err := s.Store(backends.Key{Export: diskID, Page: page}, contents[page][round%2])
					p.handle, p.there = handle, err == nil && refusal == backends.Accepted
					p.mu.Unlock()
					if err != nil {
						s.Errorf("Store of page %d: %v", page, err)
						return
					}
				}
			}
		})
		wg.Go(func() { // readers, with handles that may be dead by then
			random := rand.New(rand.NewPCG(n, 9))
			dst := make([]byte, backends.PageSize)
			for range rounds * pages {
				page := random.Uint64N(pages)
				p := &slots[page]
				p.mu.Lock()
				handle, there := p.handle, p.there
				p.mu.Unlock()
				if !there {
					continue
				}
				err := s.Load(backends.Key{Export: diskID, Page: page}, handle, dst)
				if err != nil && !errors.Is(err, backends.ErrGone) {
					s.Errorf("B25: Load of page %d: %v", page, err)
					return
				}
				if err == nil && !bytes.Equal(dst, contents[page][0]) && !bytes.Equal(dst, contents[page][1]) {
					s.Errorf("B25: Load of page %d gave what was never stored", page)
					return
				}
			}
		})
	}
	wg.Go(func() { // swap
		var held []live
		for page := range uint64(2000) {
			key := backends.Key{Export: swapID, Page: page}
			handle, refusal, err := s.Store(key, Page(Structured, page))
			if err != nil {
				s.Errorf("Store(%v): %v", key, err)
			}
			if refusal == backends.Accepted {
				held = append(held, live{key: key, handle: handle})
			}
			if len(held) > 1000 {
				s.invalidate(held[0])
				held = held[1:]
			}
		}
		for _, l := range held {
			s.invalidate(l)
		}
	})
	wg.Wait()
	for page := range slots {
		if slots[page].there {
			s.Invalidate(backends.Key{Export: diskID, Page: uint64(page)}, slots[page].handle)
		}
	}
	s.checkPages(0)
}

// testEphemeralModel does random things to both sorts of exports.
func testEphemeralModel(t *testing.T, newBackend New) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{b: newBackend(t), open: make(map[uint32]bool)}
		disk := map[backends.Key]live{}
		var keys []backends.Key // of disk, in an order that replays
		opened := false
		forget := func(i int) {
			l := disk[keys[i]]
			m.b.Invalidate(l.key, l.handle)
			delete(disk, l.key)
			keys = append(keys[:i], keys[i+1:]...)
		}
		closeDisk := func() {
			for len(keys) > 0 {
				forget(0)
			}
			if opened {
				m.b.InvalidateArea(diskID)
			}
			opened = false
		}
		must := func(rt *rapid.T, err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"init": m.init, "invalidateArea": m.invalidateArea, "store": m.store, "load": m.load, "invalidate": m.invalidate,
			"openDisk": func(rt *rapid.T) {
				if !opened {
					must(rt, m.b.Init(backends.Export{ID: diskID, Name: "disk", Pages: 1 << 20, Ephemeral: true}))
					opened = true
				}
			},
			"closeDisk": func(rt *rapid.T) { closeDisk() },
			"put": func(rt *rapid.T) {
				first := rapid.Uint64Range(0, 1<<12).Draw(rt, "page")
				for page := first; opened && page < first+50; page++ {
					key := backends.Key{Export: diskID, Page: page}
					if _, ok := disk[key]; ok {
						continue
					}
					data := Mixed(rapid.Uint64Range(0, 1<<20).Draw(rt, "seed"))
					handle, refusal, err := m.b.Store(key, data)
					must(rt, err)
					m.refused[refusal]++
					if refusal == backends.Accepted {
						disk[key] = live{key, handle, data}
						keys = append(keys, key)
					}
				}
			},
			"get": func(rt *rapid.T) {
				if len(keys) == 0 {
					rt.Skip("no pages")
				}
				l := disk[keys[rapid.IntRange(0, len(keys)-1).Draw(rt, "which")]]
				dst := make([]byte, backends.PageSize)
				if err := m.b.Load(l.key, l.handle, dst); err != nil && !errors.Is(err, backends.ErrGone) || err == nil && !bytes.Equal(dst, l.page) {
					rt.Fatalf("B23: Load(%v) gave other bytes, or %v", l.key, err)
				}
			},
			"forget": func(rt *rapid.T) {
				if len(keys) > 0 {
					forget(rapid.IntRange(0, len(keys)-1).Draw(rt, "which"))
				}
			},
			"": func(rt *rapid.T) {
				stats := m.b.Stats()
				if stats.Pages-stats.EphemeralPages != uint64(len(m.pages)) || stats.EphemeralPages > uint64(len(disk)) {
					rt.Fatalf("B3: Stats shows %d pages, %d of them ephemeral, want %d and at most %d",
						stats.Pages, stats.EphemeralPages, len(m.pages), len(disk))
				}
				if stats.Refused != m.refused || stats.CorruptLoads != 0 {
					rt.Fatalf("B6: Stats counts %v and %d corrupt loads, want %v", stats.Refused, stats.CorruptLoads, m.refused)
				}
			},
		})
		closeDisk()
		m.close(rt)
	})
}
