package frontswap

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func countedPages(a *Area) (total int64) {
	s := a.Stats()
	total = s.None + s.Storage + s.Hole
	for _, n := range s.Backends {
		total += n
	}
	return total
}

// TestGrow: what an area gains reads as zeros, as storage has it or as holes,
// and works like the rest; whoever is at work on the rest goes on.
func TestGrow(t *testing.T) {
	for _, test := range []struct {
		name         string
		empty, zeros bool
		want         Owner
	}{
		{"storage reads as zeros", false, true, OwnerNone},
		{"storage has something else", false, false, OwnerHole},
		{"empty, storage reads as zeros", true, true, OwnerHole},
		{"empty, storage has something else", true, false, OwnerHole},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := New(quiet())
			a, err := f.OpenArea(AreaConfig{Name: "a", ID: 1, Pages: 300, Storage: &memory{}, Empty: test.empty})
			if err != nil {
				t.Fatal(err)
			}
			b := &backendtest.Map{}
			mustRegister(t, f, "b", b)
			store(a, 299, 1)
			a.Lock(7) // somebody is in the middle of something
			if err := a.Grow(5000, test.zeros); err != nil {
				t.Fatal(err)
			}
			a.Store(7, backendtest.Mixed(7))
			a.Unlock(7)
			if a.Pages() != 5000 || countedPages(a) != 5000 {
				t.Errorf("%d pages, %d by owner", a.Pages(), countedPages(a))
			}
			for _, page := range []uint64{300, 4999} {
				if got := a.Owner(page); got != test.want {
					t.Errorf("page %d: owner %d, want %d", page, got, test.want)
				}
			}
			store(a, 4999, 2)
			for page, seed := range map[uint64]uint64{299: 1, 7: 7, 4999: 2} {
				checkLoad(t, a, page, seed)
			}
			if err := errors.Join(a.Grow(10, true), a.Grow(5000, false)); err != nil || a.Pages() != 5000 {
				t.Errorf("growing to less: %v, %d pages", err, a.Pages())
			}
			if err := a.Grow(backends.MaxPages+1, true); err == nil {
				t.Error("grew beyond every limit")
			}
			if _, err := f.Unregister(t.Context(), "b"); err != nil {
				t.Error(err)
			}
			if a.Owner(4999) != OwnerStorage {
				t.Error("the drain overlooked a page that came with the growth")
			}
			closeAll(t, []*Area{a}, b)
		})
	}
}

// TestShrink: what lies beyond the new end is dropped from backends, gives its
// memory back, and is not what it was when the area grows again.
func TestShrink(t *testing.T) {
	f := New(quiet())
	a, err := f.OpenArea(AreaConfig{Name: "a", ID: 1, Pages: 5000, Storage: &memory{}, Empty: true})
	if err != nil {
		t.Fatal(err)
	}
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := uint64(0); page < 5000; page += 3 {
		store(a, page, page)
	}
	a.Lock(4001)
	a.SetStorage(4001)
	a.Unlock(4001)
	if got, want := a.Content(1000), uint64((4998-1002)/3+1+1); got != want {
		t.Errorf("%d pages have content from 1000 on, want %d", got, want)
	}
	before := a.Stats().Memory.Resident
	a.Shrink(1000)
	if a.Pages() != 1000 || countedPages(a) != 1000 || a.Content(0) != 334 || len(b.Keys()) != 334 {
		t.Errorf("%d pages, %d by owner, %d with content, %d in the backend", a.Pages(), countedPages(a), a.Content(0), len(b.Keys()))
	}
	if after := a.Stats().Memory.Resident; after >= before {
		t.Errorf("the map took %d bytes and takes %d", before, after)
	}
	if c := a.Stats().Counters; c.Invalidates != 0 {
		t.Errorf("%d invalidates counted: the client dropped nothing", c.Invalidates)
	}
	a.Shrink(1000)
	a.Shrink(2000)
	if err := a.Grow(5000, true); err != nil {
		t.Fatal(err)
	}
	if a.Content(1000) != 0 || countedPages(a) != 5000 {
		t.Errorf("after growing again %d pages have content", a.Content(1000))
	}
	checkLoad(t, a, 999, 999)
	closeAll(t, []*Area{a}, b)
}

// TestShrinkDuringDrain stops a drain while it writes pages that the area is
// about to lose: the shrink waits for that batch, and the drain ends well.
func TestShrinkDuringDrain(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 4*BlockPages, disk)
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range a.Pages() {
		store(a, page, page)
	}
	writing, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	late := false
	shrunk := make(chan struct{})
	disk.before = func(first uint64, n int) error {
		if first >= 2*BlockPages {
			once.Do(func() { close(writing); <-goOn })
			select {
			case <-shrunk:
				late = true
			default:
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if d, err := f.Unregister(context.Background(), "b"); err != nil || d.Left != 0 {
			t.Errorf("unload: %+v, %v", d, err)
		}
	})
	<-writing
	wg.Go(func() {
		a.Shrink(2 * BlockPages)
		close(shrunk)
	})
	select {
	case <-shrunk:
		t.Error("the area shrank under a batch that was on its way to storage")
	case <-time.After(20 * time.Millisecond): // long enough to go wrong in most runs
	}
	close(goOn)
	wg.Wait()
	if late {
		t.Error("a page was written to storage after the area had lost it")
	}
	if a.Pages() != 2*BlockPages || countedPages(a) != 2*BlockPages || a.Stats().Storage != 2*BlockPages {
		t.Errorf("after both: %+v", a.Stats())
	}
	closeAll(t, []*Area{a}, b)
}
