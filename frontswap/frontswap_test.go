package frontswap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is storage that remembers what a drain wrote, and fails on demand.
type memory struct {
	mu     sync.Mutex
	pages  map[uint64][]byte
	writes [][2]uint64 // first page and length of each write, in order
	before func(first uint64, n int) error
}

func (m *memory) WritePages(first uint64, data []byte) error {
	n := len(data) / backends.PageSize
	if m.before != nil {
		if err := m.before(first, n); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pages == nil {
		m.pages = map[uint64][]byte{}
	}
	m.writes = append(m.writes, [2]uint64{first, uint64(n)})
	for i := range n {
		m.pages[first+uint64(i)] = bytes.Clone(data[i*backends.PageSize:][:backends.PageSize])
	}
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openArea(t *testing.T, f *Frontswap, id uint32, pages uint64, storage Storage) *Area {
	t.Helper()
	a, err := f.OpenArea(AreaConfig{Name: fmt.Sprint("area", id), ID: id, Pages: pages, Storage: storage})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func store(a *Area, page, seed uint64) bool {
	a.Lock(page)
	defer a.Unlock(page)
	return a.Store(page, backendtest.Mixed(seed))
}

func checkLoad(t *testing.T, a *Area, page, seed uint64) {
	t.Helper()
	a.RLock(page)
	defer a.RUnlock(page)
	got := make([]byte, backends.PageSize)
	if err := a.Load(page, got); err != nil {
		t.Errorf("load page %d: %v", page, err)
	} else if !bytes.Equal(got, backendtest.Mixed(seed)) {
		t.Errorf("page %d is not what was stored", page)
	}
}

// closeAll ends the areas and checks that the backends were used as their
// contract says.
func closeAll(t *testing.T, areas []*Area, used ...*backendtest.Map) {
	t.Helper()
	for _, a := range areas {
		if err := a.Close(); err != nil {
			t.Errorf("close area: %v", err)
		}
	}
	for _, b := range used {
		if err := b.Misuse(); err != nil {
			t.Errorf("backend misused: %v", err)
		}
		if n := len(b.Keys()); n != 0 {
			t.Errorf("backend holds %d pages after every area was closed", n)
		}
	}
}

func TestLazyInit(t *testing.T) {
	f := New(quiet())
	early := openArea(t, f, 1, 10, &memory{})
	if store(early, 0, 1) {
		t.Error("a store succeeded with no backend loaded")
	}
	if c := early.Stats().Counters; c != (Counters{}) {
		t.Errorf("counters moved with no backend loaded: %+v", c)
	}
	var inits []uint32
	b := &backendtest.Map{OnInit: func(e backends.Export) error { inits = append(inits, e.ID); return nil }}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	late := openArea(t, f, 2, 10, &memory{})
	if !slices.Equal(inits, []uint32{1, 2}) {
		t.Errorf("initialised for areas %v, want each of 1, 2 once", inits)
	}
	for _, a := range []*Area{early, late} {
		if !store(a, 3, 7) {
			t.Errorf("%s: the backend did not get the page", a.name)
		}
		checkLoad(t, a, 3, 7)
	}
	closeAll(t, []*Area{early, late}, b)
}

func TestRegisterRollsBack(t *testing.T) {
	f := New(quiet())
	areas := []*Area{openArea(t, f, 1, 10, &memory{}), openArea(t, f, 2, 10, &memory{}), openArea(t, f, 3, 10, &memory{})}
	calls := 0
	b := &backendtest.Map{OnInit: func(backends.Export) error {
		if calls++; calls == 3 {
			return errors.New("no room")
		}
		return nil
	}}
	if err := f.Register("b", b); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("register: got %v, want the backend's error", err)
	}
	if got := f.Backends(); len(got) != 0 {
		t.Errorf("a trace is left: %+v", got)
	}
	if store(areas[0], 0, 1) {
		t.Error("the backend takes pages after a failed registration")
	}
	if err := f.Register("b", b); err != nil { // its name and its place are free again
		t.Errorf("register again: %v", err)
	}
	closeAll(t, areas, b)
}

func TestRegisterNamesAndPlaces(t *testing.T) {
	f := New(quiet())
	for i := range MaxBackends {
		if err := f.Register(fmt.Sprint("b", i), &backendtest.Map{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Register("b3", &backendtest.Map{}); !errors.Is(err, ErrExists) {
		t.Errorf("a name twice: got %v", err)
	}
	if err := f.Register("another", &backendtest.Map{}); err == nil {
		t.Error("one backend too many was registered")
	}
	if _, err := f.Unregister(t.Context(), "b3"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unregister(t.Context(), "b3"); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("unload twice: got %v", err)
	}
	if err := f.Register("another", &backendtest.Map{}); err != nil {
		t.Errorf("the freed place is not used: %v", err)
	}
	// A later registration is asked later, whatever place it got.
	if got := f.Backends(); got[len(got)-1].Name != "another" {
		t.Errorf("the newest backend is not last: %s", got[len(got)-1].Name)
	}
}

func TestRefusalPassesOn(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	first, second := &backendtest.Map{Limit: 1}, &backendtest.Map{Limit: 1}
	if err := errors.Join(f.Register("first", first), f.Register("second", second)); err != nil {
		t.Fatal(err)
	}
	for page, want := range []bool{true, true, false} {
		if got := store(a, uint64(page), uint64(page)); got != want {
			t.Errorf("store %d: got %v, want %v", page, got, want)
		}
	}
	if len(first.Keys()) != 1 || first.Keys()[0].Page != 0 || len(second.Keys()) != 1 || second.Keys()[0].Page != 1 {
		t.Errorf("pages went to %v and %v", first.Keys(), second.Keys())
	}
	// A page that is stored anew and refused stays as it was until storage has it.
	if store(a, 0, 99) {
		t.Error("a full backend took a second copy")
	}
	checkLoad(t, a, 0, 0)
	a.Lock(0)
	a.SetStorage(0)
	a.Unlock(0)
	if len(first.Keys()) != 0 {
		t.Error("the stale copy is still held after storage took over")
	}
	got := a.Stats().Counters
	want := Counters{Loads: 1, SuccStores: 2, FailedStores: 2}
	if got != want {
		t.Errorf("counters: got %+v, want %+v", got, want)
	}
	closeAll(t, []*Area{a}, first, second)
}

func TestFailedStoreTakesBackendOut(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	var broken atomic.Bool
	b := &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) {
		if broken.Load() {
			return 0, errors.New("on fire")
		}
		return backends.Accepted, nil
	}}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	store(a, 1, 1)
	broken.Store(true)
	if store(a, 2, 2) {
		t.Error("a failed store was taken for a success")
	}
	broken.Store(false)
	if store(a, 2, 2) {
		t.Error("a failed backend still gets stores")
	}
	checkLoad(t, a, 1, 1)
	if s := f.Backends()[0]; s.State != StateFailed || s.Reason != "on fire" || s.Pages != 1 {
		t.Errorf("status: %+v", s)
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Errorf("a failed backend cannot be unloaded: %v", err)
	}
	closeAll(t, []*Area{a}, b)
}

func TestLoadErrorIsNotHidden(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 4, &memory{})
	b := &backendtest.Map{OnLoad: func(_ backends.Key, _ backends.Handle, dst []byte) error {
		return backends.ErrCorrupt
	}}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	store(a, 1, 1)
	a.RLock(1)
	err := a.Load(1, make([]byte, backends.PageSize))
	try := a.TryLoad(1, make([]byte, backends.PageSize))
	a.RUnlock(1)
	if !errors.Is(err, backends.ErrCorrupt) || try {
		t.Errorf("load of a corrupt page: got %v and %v", err, try)
	}
	if got := a.Stats().LoadErrors; got != 1 {
		t.Errorf("%d load errors counted, want 1", got)
	}
	closeAll(t, []*Area{a}, b)
}

func TestUnregisterDrainsInOrder(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 3*BlockPages+5, disk)
	b := &backendtest.Map{}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	stored := []uint64{}
	for page := uint64(0); page < a.Pages(); page++ {
		if page%7 != 3 {
			store(a, page, page)
			stored = append(stored, page)
		}
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	last := map[uint64]uint64{} // end of the latest write, by block: a drain has more than one in hand
	for _, write := range disk.writes {
		if block := write[0] / BlockPages; write[0] < last[block] {
			t.Errorf("write %v comes after one that ends at page %d", write, last[block])
		} else {
			last[block] = write[0] + write[1]
		}
	}
	if n := len(disk.writes); n > len(stored)/6+4 {
		t.Errorf("%d writes for %d pages: neighbours are not written together", n, len(stored))
	}
	for _, page := range stored {
		if !bytes.Equal(disk.pages[page], backendtest.Mixed(page)) {
			t.Errorf("page %d is not on storage", page)
		}
		if a.Owner(page) != OwnerStorage {
			t.Errorf("page %d: owner %d", page, a.Owner(page))
		}
	}
	if s := a.Stats(); s.Storage != int64(len(stored)) || s.None != int64(a.Pages())-s.Storage || s.Invalidates != 0 {
		t.Errorf("stats after the drain: %+v", s)
	}
	closeAll(t, []*Area{a}, b)
}

// TestUnloadGate stops a store between reading the set of backends and handing
// the page over, and unloads meanwhile: the store must be drained too (F3).
func TestUnloadGate(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 2*BlockPages, disk)
	inStore, goOn := make(chan struct{}), make(chan struct{})
	var late atomic.Int32
	b := &backendtest.Map{OnStore: func(key backends.Key, _ []byte) (backends.Refusal, error) {
		if key.Page == 5 {
			close(inStore)
			<-goOn
		} else {
			late.Add(1)
		}
		return backends.Accepted, nil
	}}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if !store(a, 5, 5) {
			t.Error("the store under way was refused")
		}
	})
	<-inStore
	wg.Go(func() {
		if _, err := f.Unregister(context.Background(), "b"); err != nil {
			t.Errorf("unload: %v", err)
		}
	})
	for f.Backends()[0].State != StateDraining {
	}
	for page := uint64(6); page < 300; page++ { // the gate is closed for all others
		if store(a, page, page) {
			t.Fatalf("page %d was stored while the backend drains", page)
		}
	}
	close(goOn)
	wg.Wait()
	if late.Load() != 0 {
		t.Errorf("%d stores reached the backend after the gate", late.Load())
	}
	if !bytes.Equal(disk.pages[5], backendtest.Mixed(5)) {
		t.Error("the page of the store under way is lost")
	}
	closeAll(t, []*Area{a}, b)
}

// TestDrainBarrier stops the drain between copying a page and committing it,
// and does everything that a request may do to the page there (F4). The request
// tries without a pause, to slip into any gap between the drain's locks.
func TestDrainBarrier(t *testing.T) {
	actions := map[string]func(a *Area){
		"write":      func(a *Area) { a.SetStorage(5) },
		"store":      func(a *Area) { a.Store(5, backendtest.Mixed(99)) },
		"invalidate": func(a *Area) { a.InvalidatePage(5) },
	}
	for name, action := range actions {
		t.Run(name, func(t *testing.T) {
			for range 100 {
				drainBarrier(t, action)
			}
		})
	}
}

func drainBarrier(t *testing.T, action func(a *Area)) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 10, disk)
	copied, goOn, trying := make(chan struct{}), make(chan struct{}), make(chan struct{})
	disk.before = func(uint64, int) error { close(copied); <-goOn; return nil }
	b := &backendtest.Map{}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	store(a, 5, 5)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := f.Unregister(context.Background(), "b"); err != nil {
			t.Errorf("unload: %v", err)
		}
	})
	<-copied
	checkLoad(t, a, 5, 5) // loads do not wait for the storage write
	var saw Owner
	wg.Go(func() {
		if a.TryLock(5) {
			t.Error("a store got in between copy and commit")
			a.Unlock(5)
		}
		close(trying)
		for !a.TryLock(5) {
		}
		saw = a.Owner(5)
		action(a)
		a.Unlock(5)
	})
	<-trying
	close(goOn)
	wg.Wait()
	if saw != OwnerStorage {
		t.Errorf("the request saw owner %d, want storage: after the commit", saw)
	}
	closeAll(t, []*Area{a}, b)
}

func TestDrainCancelled(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 20*BlockPages, disk)
	b := &backendtest.Map{}
	if err := f.Register("b", b); err != nil {
		t.Fatal(err)
	}
	for page := range a.Pages() {
		store(a, page, page)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	disk.before = func(first uint64, _ int) error {
		if first == BlockPages {
			cancel(errors.New("never mind"))
		}
		return nil
	}
	_, err := f.Unregister(ctx, "b")
	if err == nil || !strings.Contains(err.Error(), "never mind") {
		t.Fatalf("cancelled unload: got %v", err)
	}
	// What was in hand then was moved: no more than a block for each worker.
	if s := f.Backends()[0]; s.State != StateFrozen || s.Pages < (18-2*(maxLoaders+1))*BlockPages || s.Pages%BlockPages != 0 {
		t.Errorf("after the cancel: %+v", s)
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Errorf("unload after a cancel: %v", err)
	}
	closeAll(t, []*Area{a}, b)
}

// TestLifecyclesTogether opens and closes areas, loads and unloads backends and
// stores pages, all at once; the backends watch that their contract is kept.
func TestLifecyclesTogether(t *testing.T) {
	f := New(quiet())
	steady := openArea(t, f, 100, 600, &memory{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var used []*backendtest.Map
	for w := range 2 {
		wg.Go(func() {
			for i := range 40 {
				b := &backendtest.Map{Limit: 100 * i}
				mu.Lock()
				used = append(used, b)
				mu.Unlock()
				name := fmt.Sprint("b", w, "-", i)
				if err := f.Register(name, b); err != nil {
					t.Errorf("register: %v", err)
				} else if _, err := f.Unregister(context.Background(), name); err != nil {
					t.Errorf("unregister: %v", err)
				}
			}
		})
		wg.Go(func() {
			for i := range 40 {
				a := openArea(t, f, uint32(w*1000+i), 300, &memory{})
				for page := range uint64(50) {
					store(a, page*5, page)
				}
				if err := a.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
		})
		wg.Go(func() {
			for i := range uint64(2000) {
				page := (i*7 + uint64(w)) % 600
				if !store(steady, page, i) {
					steady.Lock(page)
					steady.InvalidatePage(page)
					steady.Unlock(page)
				}
			}
		})
	}
	wg.Wait()
	closeAll(t, []*Area{steady}, used...)
	for _, b := range used {
		if s := b.Stats(); s.Pages != 0 {
			t.Errorf("%d pages left in an unloaded backend", s.Pages)
		}
		if n := b.Stats().Refused[backends.RefusedUnmanaged]; n != 0 {
			t.Errorf("%d stores came before Init or after InvalidateArea", n) // F2
		}
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 100, &memory{})
	b := &sink{}
	if err := f.Register("sink", b); err != nil {
		t.Fatal(err)
	}
	page := backendtest.Page(backendtest.Text, 1)
	allocs := testing.AllocsPerRun(1000, func() {
		a.Lock(3)
		a.Store(3, page)
		a.Unlock(3)
		a.RLock(3)
		if err := a.Load(3, page); err != nil {
			t.Error(err)
		}
		a.RUnlock(3)
		a.Lock(3)
		a.InvalidatePage(3)
		a.Unlock(3)
	})
	if allocs != 0 {
		t.Errorf("%v allocations for each store, load and invalidate", allocs)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// sink is a backend without storage of its own, for what frontswap itself costs.
type sink struct{ backendtest.Map }

func (*sink) Store(backends.Key, []byte) (backends.Handle, backends.Refusal, error) {
	return 1, backends.Accepted, nil
}
func (*sink) Load(backends.Key, backends.Handle, []byte) error { return nil }
func (*sink) Invalidate(backends.Key, backends.Handle)         {}

func TestTransitions(t *testing.T) {
	for from := StateRegistered; from <= StateGone; from++ {
		for to := StateRegistered; to <= StateGone; to++ {
			s := &slot{name: "b", state: from}
			err := s.moveLocked(to, "why")
			legal := slices.Contains(transitions[from], to)
			if (err == nil) != legal {
				t.Errorf("%s to %s: got %v", from, to, err)
			}
			if legal && s.state != to || !legal && s.state != from {
				t.Errorf("%s to %s: ended as %s", from, to, s.state)
			}
		}
	}
}
