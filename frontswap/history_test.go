package frontswap

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// Tests for what went wrong in systems like this one; INVARIANTS.md says where.

// TestOnePageIsDrained: a walk that steps on before it has looked overlooks the
// first page, as Xen's did for nine years, and one that ends too early the last.
func TestOnePageIsDrained(t *testing.T) {
	const pages = 2*BlockPages + 7
	for _, page := range []uint64{0, 1, BlockPages - 1, BlockPages, pages - 1} {
		for name, move := range map[string]func(f *Frontswap) error{
			"unload": func(f *Frontswap) error { _, err := f.Unregister(t.Context(), "b"); return err },
			"shrink": func(f *Frontswap) error { _, err := f.Shrink(t.Context(), "b", pages); return err },
		} {
			f, disk := New(quiet()), &memory{}
			a := openArea(t, f, 1, pages, disk)
			b := &backendtest.Map{}
			mustRegister(t, f, "b", b)
			store(a, page, page)
			if err := move(f); err != nil {
				t.Fatal(err)
			}
			if a.Owner(page) != OwnerStorage || !bytes.Equal(disk.pages[page], backendtest.Mixed(page)) || len(disk.pages) != 1 {
				t.Errorf("%s: page %d is not on storage, or others are too", name, page)
			}
			closeAll(t, []*Area{a}, b)
		}
	}
}

// TestNothingEntersFrozen: the pages of a frozen backend can only get fewer,
// whatever is moved around it; thawed it takes pages as before.
func TestNothingEntersFrozen(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 600, &memory{})
	first, frozen, other := &backendtest.Map{}, &backendtest.Map{}, &backendtest.Map{}
	mustRegister(t, f, "frozen", frozen)
	for page := range uint64(100) {
		store(a, page, page)
	}
	mustRegister(t, f, "first", first)
	if err := f.Order([]string{"first"}); err != nil {
		t.Fatal(err)
	}
	for page := uint64(100); page < 600; page++ {
		store(a, page, page)
	}
	if err := f.Freeze("frozen", "test"); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Migrate(t.Context(), "first", 50); n != 0 || err != nil {
		t.Errorf("migrated %d pages to a frozen backend, %v", n, err)
	}
	if n, err := f.Shrink(t.Context(), "first", 50); n != 50 || err != nil {
		t.Errorf("shrink: %d, %v", n, err)
	}
	if _, err := f.Replace(t.Context(), "first", "other", other); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unregister(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	store(a, 5, 55) // goes elsewhere: nobody takes it, so the old copy stays until storage has it
	if n := len(frozen.Keys()); n != 100 {
		t.Errorf("a frozen backend has %d pages, had 100", n)
	}
	if err := f.Thaw("frozen"); err != nil {
		t.Fatal(err)
	}
	if !store(a, 599, 1) {
		t.Error("a thawed backend takes no page")
	}
	closeAll(t, []*Area{a}, first, frozen, other)
}

// TestPlaceIsUsedAgain: a backend that gets the place, and so the number, of one
// that is gone is not asked for the pages of that one. Cleancache mixed them up
// when one backend followed another.
func TestPlaceIsUsedAgain(t *testing.T) {
	f, disk := New(quiet()), &memory{}
	a := openArea(t, f, 1, 20, disk)
	first, second := &backendtest.Map{}, &backendtest.Map{}
	mustRegister(t, f, "first", first)
	for page := range uint64(10) {
		store(a, page, page)
	}
	number := f.findLocked("first").owner
	if _, err := f.Unregister(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	mustRegister(t, f, "second", second)
	if got := f.findLocked("second").owner; got != number {
		t.Fatalf("the second backend has number %d, the first had %d", got, number)
	}
	store(a, 15, 15)
	for page := range uint64(10) {
		if a.Owner(page) != OwnerStorage || !bytes.Equal(disk.pages[page], backendtest.Mixed(page)) {
			t.Errorf("page %d: owner %d", page, a.Owner(page))
		}
	}
	if keys := second.Keys(); len(keys) != 1 || keys[0].Page != 15 {
		t.Errorf("the second backend has %v", keys)
	}
	closeAll(t, []*Area{a}, first, second)
}
