package zcache_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// dedup is a cache whose exports share pages: those of one number, of two that there are, or as
// domain says.
type dedup struct {
	*zcache.Cache
	domain func(export uint32) uint32
}

func (d dedup) Init(export backends.Export) error {
	export.Dedup = d.domain(export.ID)
	return d.Cache.Init(export)
}

func oneDomain(uint32) uint32 { return 1 }

// alike makes pages from a small set: what Store gets of many pages is one of few.
func alike(n uint64) []byte { return backendtest.Page(backendtest.Structured, n%5) }

// TestDedupConformance runs the suite with sharing on that has a host: nothing is shared without.
func TestDedupConformance(t *testing.T) {
	t.Run("Hosted", func(t *testing.T) {
		backendtest.RunHosted(t, func(t *testing.T) backends.Backend { return dedup{newWith(t, restless(2<<20)), oneDomain} })
	})
}

// settled waits until no page is left to be compressed behind.
func settled(t testing.TB, c *zcache.Cache) backends.Stats {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		stats := c.Stats()
		if stats.Codecs[1].Pages == stats.Incompressible {
			return stats
		}
		if time.Now().After(deadline) {
			t.Fatalf("pages are left as they came: %+v", stats)
		}
	}
}

// calm is a configuration in which only compression behind is done.
func calm() zcache.Config {
	return zcache.Config{Limit: 16 << 20, Capacity: 16 << 20, Staging: 8 << 20, Cold: -1, Scrub: -1}
}

func openAlike(t testing.TB, h *backendtest.Host, pages uint64, exports ...uint32) {
	t.Helper()
	for _, id := range exports {
		if err := h.Open(id, pages); err != nil {
			t.Fatal(err)
		}
		for page := range pages {
			if _, err := h.Write(backends.Key{Export: id, Page: page}, alike(page)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDedup: pages of one domain are kept once, those of another and of none by themselves; what they
// are charged is what they would take; and all is gone with the last page.
func TestDedup(t *testing.T) {
	c := newWith(t, calm())
	h := &backendtest.Host{Backend: dedup{c, func(id uint32) uint32 { return []uint32{0, 1, 1, 2}[id] }}}
	const pages = 100
	openAlike(t, h, pages, 0, 1, 2, 3)
	stats := settled(t, c)
	// Export 0 shares nothing. Pages 0 to 4 may have met themselves only.
	if stats.SharedContents != 10 || stats.SharedPages != 3*pages || stats.Pages != 4*pages {
		t.Errorf("%d pages, %d of them share %d contents; want 400, 300 and 10", stats.Pages, stats.SharedPages, stats.SharedContents)
	}
	if c.Used(1) != c.Used(0) || c.Used(2) != c.Used(0) || c.Used(3) != c.Used(0) {
		t.Errorf("charged %d, %d, %d; without sharing %d", c.Used(1), c.Used(2), c.Used(3), c.Used(0))
	}
	if saved := stats.SharedSaved; saved == 0 || saved > 3*c.Used(0) || saved < 2*c.Used(0) {
		t.Errorf("%d bytes saved of %d", saved, 3*c.Used(0))
	}
	for id := range uint32(4) {
		if err := h.Check(id); err != nil {
			t.Error(err)
		}
	}
	for id := range uint32(4) {
		h.Close(id)
		for other := id + 1; other < 4; other++ {
			if err := h.Check(other); err != nil {
				t.Error(err)
			}
		}
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 || stats.SharedPages != 0 || stats.SharedSaved != 0 || stats.HeldBytes > warmBytes {
		t.Errorf("at the end: %+v", stats)
	}
	closeCache(t, c)
}

// TestDedupOff: without a number nothing of it is there.
func TestDedupOff(t *testing.T) {
	c := newWith(t, calm())
	h := &backendtest.Host{Backend: c}
	openAlike(t, h, 100, 1)
	if stats := settled(t, c); stats.SharedPages != 0 || stats.SharedContents != 0 || len(stats.Memory) != 2 || len(stats.Codecs) != 3 || stats.Moved[backends.MovedShared] != 0 {
		t.Errorf("shared although nobody asked for it: %+v", stats)
	}
	h.Close(1)
	closeCache(t, c)
}

// TestDedupDoesNotAllocate: neither loads of pages that are shared, nor what lets them go.
func TestDedupDoesNotAllocate(t *testing.T) {
	backendtest.RunAllocations(t, func(t *testing.T) backends.Backend { return dedup{newCache(t, 10<<20), oneDomain} })
	s := newSurvivor(t, calm())
	c := s.open(t, zcache.New)
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	const pages = 1000
	openAlike(t, h, pages, 1)
	settled(t, c)
	c = s.reopen(t, c) // without a host nothing else is at work
	handle := func(page uint64) (backends.Key, backends.Handle) {
		key := backends.Key{Export: 1, Page: page}
		handle, _ := h.Held(key)
		return key, handle
	}
	for page := range uint64(pages) {
		if !c.Adopt(handle(page)) {
			t.Fatalf("page %d was not adopted", page)
		}
	}
	if orphans, err := c.Adopted(); orphans != 0 || err != nil {
		t.Fatal(orphans, err)
	}
	initExport(t, c)
	if stats := c.Stats(); stats.SharedPages != pages || stats.SharedContents != 5 || c.Used(1) == 0 {
		t.Fatalf("after another process: %+v", stats)
	}
	dst := make([]byte, backends.PageSize)
	page := uint64(0)
	if got := testing.AllocsPerRun(pages-1, func() {
		key, handle := handle(page)
		if err := c.Load(key, handle, dst); err != nil {
			t.Fatal(err)
		}
		c.Invalidate(key, handle)
		page++
	}); got != 0 {
		t.Errorf("%v allocations to load and forget a page that is shared", got)
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.SharedContents != 0 || stats.StoredBytes != 0 || c.Used(1) != 0 {
		t.Errorf("at the end: %+v", stats)
	}
	if err := errors.Join(c.Close(), s.now.Close()); err != nil {
		t.Error(err)
	}
}

// TestDedupDamage: a damaged content is an error of the pages that share it, and of no other; the same for
// a reference.
func TestDedupDamage(t *testing.T) {
	c := newWith(t, calm())
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	const pages = 10
	openAlike(t, h, pages, 1)
	if stats := settled(t, c); stats.SharedPages != pages {
		t.Fatalf("%d pages are shared", stats.SharedPages)
	}
	var all []stored
	for page := range uint64(pages) {
		key := backends.Key{Export: 1, Page: page}
		handle, held := h.Held(key)
		if !held {
			t.Fatal("a page was not kept")
		}
		all = append(all, stored{key, handle, alike(page)})
	}
	f := arenaFile(t)
	own := map[int64]bool{}
	for _, s := range all {
		own[int64(s.handle)*arena.RefUnit] = true
	}
	seen := map[uint64]int{}
	for at := int64(0); at < 8*arena.ChunkSize; at += arena.RefUnit { // staged pages had the front
		var slot [arena.RefUnit]byte
		if _, err := f.ReadAt(slot[:], at); err != nil {
			t.Fatal(err)
		}
		if slot == [arena.RefUnit]byte{} {
			continue
		}
		flip(t, f, at+20, 0x10)
		corrupt := loadDamaged(t, c, all)
		flip(t, f, at+20, 0x10)
		seen[corrupt]++
		if own[at] && corrupt != 1 {
			t.Errorf("%d pages are corrupt after damage to one reference", corrupt)
		}
	}
	if seen[pages/5] < 5 || len(seen) != 3 || seen[1] != pages {
		t.Errorf("corrupt pages by number, for each place: %v", seen)
	}
	if corrupt := loadDamaged(t, c, all); corrupt != 0 {
		t.Errorf("%d pages are corrupt without damage", corrupt)
	}
	h.Close(1)
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 {
		t.Errorf("at the end: %+v", stats)
	}
	closeCache(t, c)
}

// TestDedupPacks: a page that is shared is packed as one by itself.
func TestDedupPacks(t *testing.T) {
	c, to := newWith(t, calm()), newCache(t, 1<<20)
	defer closeCache(t, to)
	initExport(t, to)
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	openAlike(t, h, 20, 1)
	settled(t, c)
	buffer, dst := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	for page := range uint64(20) {
		key := backends.Key{Export: 1, Page: page}
		handle, _ := h.Held(key)
		p, err := c.Pack(key, handle, buffer)
		if err != nil {
			t.Fatal(err)
		}
		if there, refusal, err := to.Unpack(key, p); err != nil || refusal != backends.Accepted {
			t.Fatal(refusal, err)
		} else if err := to.Load(key, there, dst); err != nil || !bytes.Equal(dst, alike(page)) {
			t.Fatalf("page %d: %v", page, err)
		}
	}
	h.Close(1)
	closeCache(t, c)
}

// dedupModel is exports of two domains over a cache that is taken over now and then, against
// what the host knows was written.
type dedupModel struct {
	t     *testing.T
	s     *survivor
	c     *zcache.Cache
	h     *backendtest.Host
	pages map[backends.Key][]byte
}

const modelPages, modelExports = 96, 4

func modelDomain(id uint32) uint32 { return []uint32{1, 1, 2, 0}[id] }

func (m *dedupModel) open(c *zcache.Cache) {
	m.c = c
	m.h = &backendtest.Host{Backend: dedup{c, modelDomain}}
	for id := range uint32(modelExports) {
		if err := m.h.Open(id, modelPages); err != nil {
			m.t.Fatal(err)
		}
	}
}

// restart is another process. Of what there was, pages that forget says are not adopted.
func (m *dedupModel) restart(rt *rapid.T, forget func(backends.Key) bool) {
	type page struct {
		key    backends.Key
		handle backends.Handle
	}
	c := m.s.reopen(m.t, m.c) // ends the background somewhere in its work
	var held []page
	for key := range m.pages {
		if handle, ok := m.h.Held(key); ok {
			held = append(held, page{key, handle})
		} else {
			delete(m.pages, key) // the host's storage goes with it
		}
	}
	var kept []page
	for _, p := range held {
		if forget(p.key) {
			delete(m.pages, p.key)
			continue
		}
		if !c.Adopt(p.key, p.handle) {
			rt.Fatalf("page %v was not adopted", p.key)
		}
		kept = append(kept, p)
	}
	dst := make([]byte, backends.PageSize)
	for _, p := range kept {
		if err := c.Load(p.key, p.handle, dst); err != nil || !bytes.Equal(dst, m.pages[p.key]) {
			rt.Fatalf("between Adopt and Adopted: %v", err)
		}
	}
	if _, err := c.Adopted(); err != nil {
		rt.Fatal(err)
	}
	m.open(c)
	for _, p := range kept {
		m.h.Adopted(p.key, p.handle, m.pages[p.key])
	}
}

func (m *dedupModel) check(rt *rapid.T) {
	for id := range uint32(modelExports) {
		if err := m.h.Check(id); err != nil {
			rt.Fatal(err)
		}
	}
}

// TestDedupModel does random things to exports of several domains, with everything in the background at
// work, and restarts at any point.
func TestDedupModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		config := restless(4 << 20)
		config.Capacity = 4 << 20
		m := &dedupModel{t: t, s: newSurvivor(t, config), pages: map[backends.Key][]byte{}}
		m.open(m.s.open(t, zcache.New))
		run := func(rt *rapid.T, most uint64, do func(backends.Key, uint64)) {
			id := uint32(rapid.IntRange(0, modelExports-1).Draw(rt, "export"))
			first, seed := rapid.Uint64Range(0, modelPages-1).Draw(rt, "first"), rapid.Uint64Range(0, 3).Draw(rt, "seed")
			for page := first; page < min(modelPages, first+most); page++ {
				do(backends.Key{Export: id, Page: page}, seed)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				run(rt, 48, func(key backends.Key, seed uint64) {
					data := backendtest.Mixed((key.Page + seed) % 12)
					if _, err := m.h.Write(key, data); err != nil {
						rt.Fatal(err)
					}
					m.pages[key] = data
				})
			},
			"trim": func(rt *rapid.T) {
				run(rt, 24, func(key backends.Key, _ uint64) { m.h.Trim(key); delete(m.pages, key) })
			},
			"read": func(rt *rapid.T) {
				dst := make([]byte, backends.PageSize)
				run(rt, 24, func(key backends.Key, _ uint64) {
					if err := m.h.Read(key, dst); err != nil {
						rt.Fatal(err)
					}
				})
			},
			"shrink": func(rt *rapid.T) {
				if err := m.c.SetLimit(int64(rapid.IntRange(8, 64).Draw(rt, "chunks")) * arena.ChunkSize); err != nil {
					rt.Fatal(err)
				}
			},
			"wait": func(*rapid.T) { time.Sleep(3 * time.Millisecond) },
			"restart": func(rt *rapid.T) {
				one := rapid.IntRange(1, 7).Draw(rt, "forget one of")
				n := 0
				m.restart(rt, func(backends.Key) bool { n++; return n%one == 0 && one > 1 })
			},
			"check": m.check,
		})
		m.check(rt)
		for id := range uint32(modelExports) {
			m.h.Clear(id)
			if used := m.c.Used(id); used != 0 {
				rt.Fatalf("B32: %d bytes charged for no pages", used)
			}
		}
		for id := range uint32(modelExports) {
			m.h.Close(id)
		}
		if stats := m.c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 || stats.SharedPages != 0 || stats.HeldBytes > warmBytes {
			rt.Fatalf("at the end: %+v", stats)
		}
		if err := errors.Join(m.c.Close(), m.s.now.Close()); err != nil {
			rt.Fatal(err)
		}
	})
}
