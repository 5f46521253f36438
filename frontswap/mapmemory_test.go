package frontswap

import (
	"errors"
	"os"
	"testing"
)

// TestOvercommit: the map of an area takes memory as pages are written, and only for
// what is near them; reading, asking and walking take none; and another process finds
// the same.
func TestOvercommit(t *testing.T) {
	w := newWorld(t)
	mustRegister(t, w.f, "first", newSurvivor())
	const pages = 1 << 20 // 8 MiB of map
	open := func(takeover bool) *Area {
		a, err := w.f.OpenArea(AreaConfig{Name: "a", ID: 1, Pages: pages, Storage: w.storage, Empty: true, Overcommit: true, Takeover: takeover})
		if err != nil {
			t.Fatal(err)
		}
		w.areas = append(w.areas, a)
		return a
	}
	a := open(false)
	resident := func() int64 { return a.Stats().Memory.Resident / int64(os.Getpagesize()) }
	before := resident()
	for page := uint64(0); page < pages; page += 500 {
		if a.Owner(page) != OwnerHole || a.Synced(page) || a.Reserved(page) {
			t.Fatalf("page %d is not a hole without memory", page)
		}
		a.Lock(page)
		a.InvalidatePage(page)
		a.Unlock(page)
	}
	if got := resident(); got != before {
		t.Fatalf("looking took %d pages of memory", got-before)
	}
	for _, page := range []uint64{0, 511, 512, 700_000, pages - 1} {
		if err := a.Reserve(page, page+1); err != nil || !a.Reserved(page) {
			t.Fatal(err)
		}
		if !store(a, page, page) {
			t.Fatalf("page %d was not stored", page)
		}
	}
	if got := resident(); got != before+4 {
		t.Errorf("five pages in four places took %d pages of memory", got-before)
	}
	if err := a.Reserve(510, 1030); err != nil || !a.Reserved(1024) || a.Reserved(1536) {
		t.Errorf("a range: %v", err)
	}

	// Longer, shorter and longer again.
	if err := a.Grow(2*pages, true); err != nil || a.Reserved(2*pages-1) || resident() > before+5 {
		t.Fatalf("grown: %v, %d pages of memory", err, resident()-before)
	}
	if err := a.Reserve(2*pages-1, 2*pages); err != nil || !store(a, 2*pages-1, 9) {
		t.Fatalf("a page of what was gained: %v", err)
	}
	checkLoad(t, a, 2*pages-1, 9)
	a.Shrink(pages)
	if err := a.Grow(2*pages, true); err != nil || a.Owner(2*pages-1) != OwnerHole || a.Reserved(2*pages-1) {
		t.Fatalf("grown again: %v", err)
	}
	a.Shrink(pages)

	w.die()
	w.restore()
	a = open(true)
	if _, err := w.f.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, page := range []uint64{0, 511, 512, 700_000, pages - 1} {
		checkLoad(t, a, page, page)
	}
	if a.Owner(5000) != OwnerHole || a.Reserved(5000) {
		t.Error("what nobody wrote has memory")
	}
	if err := errors.Join(a.Reserve(5000, 5001), a.Close()); err != nil {
		t.Error(err)
	}
}
