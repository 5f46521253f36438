package frontswap

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// evict has the backend, loaded alone, evict n pages, which must succeed, and
// returns them.
func evict(t *testing.T, f *Frontswap, a *Area, n uint64) (evicted []uint64) {
	t.Helper()
	before := map[uint64]bool{}
	for page := range a.Pages() {
		before[page] = a.word(page).owner() == OwnerStorage
	}
	h := host{f: f, s: f.slots[0].Load()}
	if moved, err := h.Evict(t.Context(), n); err != nil || moved != n {
		t.Fatalf("evicted %d of %d pages: %v", moved, n, err)
	}
	for page := range a.Pages() {
		if !before[page] && a.word(page).owner() == OwnerStorage {
			evicted = append(evicted, page)
		}
	}
	return evicted
}

// loadStorage does what the tier does when it reads pages that storage has, and
// returns how many refaults there are then.
func loadStorage(a *Area, pages []uint64) uint64 {
	for _, page := range pages {
		a.RLock(page)
		a.FromStorage(page, page+1)
		a.RUnlock(page)
	}
	return host{f: a.fs, s: a.fs.slots[0].Load()}.Refaults()
}

// TestRefaults: a page counts if it comes back before half as many pages as there
// are were evicted, and once.
func TestRefaults(t *testing.T) {
	f := New(quiet())
	const pages = 1000
	a := openArea(t, f, 1, pages, &memory{})
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range uint64(pages) {
		store(a, page, page)
	}
	check := func(what string, got, want uint64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d refaults, want %d", what, got, want)
		}
	}
	first := evict(t, f, a, 100)
	check("straight back", loadStorage(a, first[:10]), 10)
	check("the same again", loadStorage(a, first[:10]), 10)
	for i, page := range first {
		if w := a.word(page); (w.handle() == 0) != (i < 10) {
			t.Errorf("page %d: word %#x", page, uint64(w))
		}
	}
	second := evict(t, f, a, 350) // 550 are left
	check("after 350 more, of 550", loadStorage(a, first[10:20]), 10)
	check("straight back again", loadStorage(a, second[:10]), 20)

	// Written anew, to the backend or to storage, a page has no shadow.
	store(a, second[20], 1)
	a.Lock(second[21])
	a.SetStorage(second[21])
	a.Unlock(second[21])
	check("written anew", loadStorage(a, second[20:22]), 20)

	// What an operator moves is no eviction.
	if moved, err := f.Shrink(t.Context(), "b", 100); err != nil || moved != 100 {
		t.Fatal(moved, err)
	}
	var all []uint64
	for page := range uint64(pages) {
		if a.word(page).owner() == OwnerStorage && a.word(page).handle() == 0 {
			all = append(all, page)
		}
	}
	if len(all) < 100 {
		t.Fatalf("%d pages without a shadow", len(all))
	}
	check("moved by an operator", loadStorage(a, all), 20)
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	// Shadows of a backend that is gone, the next in its place.
	other := &backendtest.Map{}
	mustRegister(t, f, "other", other)
	check("of another", loadStorage(a, second), 0)
	if storage := a.Stats().Storage; storage != pages {
		t.Errorf("%d pages on storage", storage)
	}
	closeAll(t, []*Area{a}, b, other)
}

// TestShadowWord keeps a shadow from being taken for anything else.
func TestShadowWord(t *testing.T) {
	s := &slot{owner: firstBackendOwner + MaxBackends - 1}
	s.evicted.Store(1<<40 + 12345)
	w := s.shadowWord()
	if w.owner() != OwnerStorage || w&(synced|referenced) != 0 || w.handle()&shadowClockMask != 12345 ||
		Owner(w.handle()>>shadowOwnerShift) != s.owner || w.handle() >= 1<<backends.HandleBits {
		t.Errorf("word %#x", uint64(w))
	}
}
