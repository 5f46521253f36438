package frontswap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func mustRegister(t *testing.T, f *Frontswap, name string, b backends.Backend) {
	t.Helper()
	if err := f.Register(name, b); err != nil {
		t.Fatal(err)
	}
}

func names(f *Frontswap) (list []string) {
	for _, b := range f.Backends() {
		list = append(list, b.Name)
	}
	return list
}

func TestFreezeThaw(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	store(a, 1, 1)
	if err := f.Freeze("b", "maintenance"); err != nil {
		t.Fatal(err)
	}
	if store(a, 2, 2) || store(a, 1, 3) {
		t.Error("a frozen backend took a page")
	}
	checkLoad(t, a, 1, 1)
	if s := f.Backends()[0]; s.State != StateFrozen || s.Reason != "maintenance" {
		t.Errorf("status: %+v", s)
	}
	late := openArea(t, f, 2, 10, &memory{}) // initialised although frozen
	a.Lock(1)
	a.InvalidatePage(1)
	a.Unlock(1)
	if len(b.Keys()) != 0 {
		t.Error("a frozen backend kept an invalidated page")
	}
	if err := f.Thaw("b"); err != nil {
		t.Fatal(err)
	}
	if !store(a, 2, 2) || !store(late, 2, 2) {
		t.Error("a thawed backend takes no pages")
	}
	for _, wrong := range []error{f.Thaw("b"), f.Freeze("none", ""), f.Thaw("none")} {
		if wrong == nil {
			t.Error("a senseless freeze or thaw succeeded")
		}
	}
	closeAll(t, []*Area{a, late}, b)
}

func TestOrder(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	used := []*backendtest.Map{{}, {}, {}}
	for i, b := range used {
		mustRegister(t, f, string(rune('a'+i)), b)
	}
	store(a, 1, 1)
	if err := f.Order([]string{"c", "a"}); err != nil {
		t.Fatal(err)
	}
	if got := names(f); !slices.Equal(got, []string{"c", "a", "b"}) {
		t.Errorf("order is %v", got)
	}
	store(a, 2, 2)
	if len(used[0].Keys()) != 1 || len(used[2].Keys()) != 1 {
		t.Errorf("pages went to %v, %v, %v", used[0].Keys(), used[1].Keys(), used[2].Keys())
	}
	checkLoad(t, a, 1, 1)
	if err := f.Order([]string{"a", "x"}); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("an unknown name: %v", err)
	}
	if err := f.Order([]string{"a", "a"}); err == nil {
		t.Error("a name twice was accepted")
	}
	if got := names(f); !slices.Equal(got, []string{"c", "a", "b"}) {
		t.Errorf("a refused order changed it to %v", got)
	}
	closeAll(t, []*Area{a}, used...)
}

// TestUnloadMovesDownTheChain: pages go to the next backend, what it refuses to
// the one after, the rest to storage; never to one that is asked earlier.
func TestUnloadMovesDownTheChain(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 400, disk)
	first, second, third, fourth := &backendtest.Map{Limit: 5}, &backendtest.Map{Limit: 300}, &backendtest.Map{Limit: 100}, &backendtest.Map{Limit: 50}
	mustRegister(t, f, "second", second)
	for page := range uint64(300) {
		store(a, page, page)
	}
	mustRegister(t, f, "third", third)
	mustRegister(t, f, "fourth", fourth)
	mustRegister(t, f, "first", first)
	if err := f.Order([]string{"first", "second"}); err != nil {
		t.Fatal(err)
	}
	drained, err := f.Unregister(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	if drained.Into["third"] != 100 || drained.Into["fourth"] != 50 || len(drained.Into) != 2 || drained.Stored() != 150 {
		t.Errorf("the drain's numbers: %+v", drained)
	}
	if got := fmt.Sprint(len(first.Keys()), len(third.Keys()), len(fourth.Keys()), len(disk.pages)); got != "0 100 50 150" {
		t.Errorf("pages went to first, third, fourth, storage: %s", got)
	}
	for page := range uint64(300) {
		if a.Owner(page) != OwnerStorage {
			checkLoad(t, a, page, page)
		} else if !bytes.Equal(disk.pages[page], backendtest.Mixed(page)) {
			t.Errorf("page %d is not on storage", page)
		}
	}
	closeAll(t, []*Area{a}, first, second, third, fourth)
}

func TestReplace(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 600, disk)
	old, last, next := &backendtest.Map{}, &backendtest.Map{}, &backendtest.Map{Limit: 500}
	mustRegister(t, f, "old", old)
	mustRegister(t, f, "last", last)
	for page := range uint64(600) {
		store(a, page, page)
	}
	drained, err := f.Replace(t.Context(), "old", "new", next)
	if err != nil {
		t.Fatal(err)
	}
	if drained.Moved != 600 || drained.Into["new"] != 500 || drained.Into["last"] != 100 || drained.Stored() != 0 {
		t.Errorf("the drain's numbers: %+v", drained)
	}
	if got := names(f); !slices.Equal(got, []string{"new", "last"}) {
		t.Errorf("order is %v: the new one is not in the old one's place", got)
	}
	if len(next.Keys()) != 500 || len(last.Keys()) != 100 || len(disk.pages) != 0 {
		t.Errorf("%d pages in the new one, %d in the last, %d on storage", len(next.Keys()), len(last.Keys()), len(disk.pages))
	}
	for page := range uint64(600) {
		checkLoad(t, a, page, page)
	}
	closeAll(t, []*Area{a}, old, next, last)
}

func TestReplaceThatCannotLoadChangesNothing(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	b := openArea(t, f, 2, 10, &memory{})
	old := &backendtest.Map{}
	mustRegister(t, f, "old", old)
	store(a, 1, 1)
	inits := 0
	broken := &backendtest.Map{OnInit: func(backends.Export) error {
		if inits++; inits == 2 {
			return errors.New("no room")
		}
		return nil
	}}
	if _, err := f.Replace(t.Context(), "old", "new", broken); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("replace: %v", err)
	}
	if got := f.Backends(); len(got) != 1 || got[0].State != StateActive || !store(a, 2, 2) {
		t.Errorf("the old backend was not left as it was: %+v", got)
	}
	if _, err := f.Replace(t.Context(), "none", "new", broken); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("replace of nothing: %v", err)
	}
	if _, err := f.Replace(t.Context(), "old", "old", &backendtest.Map{}); !errors.Is(err, ErrExists) {
		t.Errorf("replace under the same name: %v", err)
	}
	closeAll(t, []*Area{a, b}, old, broken)
}

// TestShrinkTakesTheColdest: pages that were used since the last look stay,
// as long as there are others.
func TestShrinkTakesTheColdest(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 300, disk)
	b, next := &backendtest.Map{}, &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range uint64(300) {
		store(a, page, page)
	}
	mustRegister(t, f, "next", next)
	// All are hot at first: the look that makes them cold moves none of them, the
	// pass after it takes the lowest.
	if n, err := f.Shrink(t.Context(), "b", 10); n != 10 || err != nil {
		t.Fatalf("shrink: %d, %v", n, err)
	}
	for page := range uint64(300) { // pages of every third number are in use
		if page%3 == 0 && a.Owner(page) != OwnerStorage {
			checkLoad(t, a, page, page)
		}
	}
	left := len(b.Keys())
	cold := uint64(0)
	for _, key := range b.Keys() {
		if key.Page%3 != 0 {
			cold++
		}
	}
	if n, err := f.Migrate(t.Context(), "b", cold); n != cold || err != nil {
		t.Fatalf("migrate: %d of %d, %v", n, cold, err)
	}
	for _, key := range next.Keys() {
		if key.Page%3 == 0 {
			t.Errorf("page %d was moved although it is in use and others are not", key.Page)
		}
	}
	if len(next.Keys()) != int(cold) || len(b.Keys()) != left-int(cold) {
		t.Errorf("%d pages in the next backend, %d left", len(next.Keys()), len(b.Keys()))
	}
	if s := f.Backends()[0]; s.State != StateActive || s.Drain.Running {
		t.Errorf("status after a shrink: %+v", s)
	}
	closeAll(t, []*Area{a}, b, next)
}

func TestMigrateLeavesRefusedPages(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 100, disk)
	b, next := &backendtest.Map{}, &backendtest.Map{Limit: 30}
	mustRegister(t, f, "b", b)
	for page := range uint64(100) {
		store(a, page, page)
	}
	mustRegister(t, f, "next", next)
	if n, err := f.Migrate(t.Context(), "b", 100); n != 30 || err != nil {
		t.Errorf("migrate: %d, %v", n, err)
	}
	if len(b.Keys()) != 70 || len(disk.pages) != 0 {
		t.Errorf("%d pages left, %d on storage", len(b.Keys()), len(disk.pages))
	}
	for page := range uint64(100) {
		checkLoad(t, a, page, page)
	}
	closeAll(t, []*Area{a}, b, next)
}

// TestMovesAtOnce: one move of a backend's pages at a time; an unload does not
// wait for a shrink to finish, it ends it.
func TestMovesAtOnce(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 3*BlockPages, disk)
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range a.Pages() {
		store(a, page, page)
	}
	var once sync.Once
	shrinking, goOn := make(chan struct{}), make(chan struct{})
	disk.before = func(uint64, int) error {
		once.Do(func() { close(shrinking); <-goOn })
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := f.Shrink(context.Background(), "b", 1<<40); !errors.Is(err, ErrCancelled) {
			t.Errorf("shrink during an unload: %d, %v", n, err)
		}
	})
	<-shrinking
	if _, err := f.Shrink(t.Context(), "b", 1); !errors.Is(err, ErrBusy) {
		t.Errorf("a second shrink: %v", err)
	}
	wg.Go(func() {
		if _, err := f.Unregister(context.Background(), "b"); err != nil {
			t.Errorf("unload: %v", err)
		}
	})
	for f.Backends()[0].State != StateDraining {
	}
	for _, err := range []error{f.Freeze("b", ""), f.Thaw("b"), second(f.Unregister(t.Context(), "b"))} {
		if !errors.Is(err, ErrDraining) {
			t.Errorf("another operation on a draining backend: %v", err)
		}
	}
	if _, err := f.Migrate(t.Context(), "b", 1); !errors.Is(err, ErrDraining) {
		t.Errorf("migrate from a draining backend: %v", err)
	}
	close(goOn)
	wg.Wait()
	for page := range a.Pages() {
		if !bytes.Equal(disk.pages[page], backendtest.Mixed(page)) {
			t.Fatalf("page %d is not on storage", page)
		}
	}
	closeAll(t, []*Area{a}, b)
}

func TestCancelLeavesBackendFrozenAndThawable(t *testing.T) {
	f := New(quiet())
	disk := &memory{}
	a := openArea(t, f, 1, 20*BlockPages, disk)
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range a.Pages() {
		store(a, page, page)
	}
	if err := f.Cancel("b"); err == nil {
		t.Error("cancelled nothing")
	}
	disk.before = func(first uint64, _ int) error {
		if first == 0 {
			return f.Cancel("b")
		}
		return nil
	}
	if _, err := f.Unregister(t.Context(), "b"); !errors.Is(err, ErrCancelled) {
		t.Fatalf("cancelled unload: %v", err)
	}
	if err := f.Thaw("b"); err != nil {
		t.Fatal(err)
	}
	if !store(a, 1, 1000) {
		t.Error("the backend takes no pages after cancel and thaw")
	}
	checkLoad(t, a, 1, 1000)
	checkLoad(t, a, 19*BlockPages+1, 19*BlockPages+1)
	closeAll(t, []*Area{a}, b)
}

// TestRehandle: a backend moves a page's copy; whoever uses the page wins.
func TestRehandle(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 10, &memory{})
	b := &mover{}
	mustRegister(t, f, "b", b)
	store(a, 3, 3)
	if b.handles[3] == 0 || !b.move(3) {
		t.Fatal("a page at rest was not moved")
	}
	checkLoad(t, a, 3, 3)
	stale := b.handles[3]
	store(a, 3, 33)
	if b.host.Rehandle(backends.Key{Export: 1, Page: 3}, stale-100, func() (backends.Handle, bool) { t.Error("asked for a handle"); return 0, true }) {
		t.Error("a handle that the page does not have was replaced")
	}
	a.RLock(3)
	if b.move(3) {
		t.Error("a page was moved under a reader")
	}
	a.RUnlock(3)
	if b.host.Rehandle(backends.Key{Export: 1, Page: 3}, b.handles[3], func() (backends.Handle, bool) { return 0, false }) {
		t.Error("a refused move was reported as done")
	}
	for _, key := range []backends.Key{{Export: 9, Page: 3}, {Export: 1, Page: 10}} {
		if b.host.Rehandle(key, b.handles[3], func() (backends.Handle, bool) { return 1, true }) {
			t.Errorf("a page that is not there was moved: %+v", key)
		}
	}
	checkLoad(t, a, 3, 33)
	if n, err := b.host.Evict(t.Context(), 5); n != 1 || err != nil || a.Owner(3) != OwnerStorage {
		t.Errorf("evict: %d, %v, owner %d", n, err, a.Owner(3))
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// mover is a backend that can move its copies, one for each page number.
type mover struct {
	unpacked
	mu      sync.Mutex
	host    backends.Host
	last    backends.Handle
	handles map[uint64]backends.Handle // the newest of each page
	data    map[backends.Handle][]byte
}

func (m *mover) Kind() string { return "mover" }
func (m *mover) Local() bool  { return true }
func (m *mover) Init(e backends.Export) error {
	m.host, m.handles, m.data = e.Host, map[uint64]backends.Handle{}, map[backends.Handle][]byte{}
	return nil
}
func (m *mover) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last += 1000
	m.handles[key.Page], m.data[m.last] = m.last, bytes.Clone(data)
	return m.last, backends.Accepted, nil
}
func (m *mover) Load(key backends.Key, h backends.Handle, dst []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data[h] == nil {
		return backends.ErrCorrupt
	}
	copy(dst, m.data[h])
	return nil
}
func (m *mover) Invalidate(_ backends.Key, h backends.Handle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, h)
}
func (m *mover) Used(uint32) uint64                       { return 0 }
func (m *mover) Room() uint64                             { return 1 << 40 }
func (m *mover) InvalidateArea(uint32)                    {}
func (m *mover) Adopt(backends.Key, backends.Handle) bool { return false }
func (m *mover) Adopted() (uint64, error)                 { return 0, nil }
func (m *mover) Stats() backends.Stats                    { return backends.Stats{} }
func (m *mover) Close() error                             { return nil }
func (m *mover) move(page uint64) bool {
	old := m.handles[page]
	return m.host.Rehandle(backends.Key{Export: 1, Page: page}, old, func() (backends.Handle, bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.last += 1000
		m.data[m.last], m.handles[page] = m.data[old], m.last
		delete(m.data, old)
		return m.last, true
	})
}

// TestEverythingAtOnce runs every operation on backends at once, over requests,
// and checks each load against what its writer stored last.
func TestEverythingAtOnce(t *testing.T) {
	f := New(quiet())
	const pages, writers = 4 * BlockPages, 4
	disk := &memory{}
	// Opened with one block and grown, so that its blocks share lock stripes.
	a := openArea(t, f, 1, BlockPages, disk)
	if err := a.Grow(pages, true); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	used := []*backendtest.Map{}
	newMap := func() *backendtest.Map {
		mu.Lock()
		defer mu.Unlock()
		b := &backendtest.Map{Limit: 100 + len(used)%7*50}
		used = append(used, b)
		return b
	}
	for _, name := range []string{"x", "y", "z"} {
		mustRegister(t, f, name, newMap())
	}
	var stop atomic.Bool
	var operators, clients sync.WaitGroup
	acts := []func(i int){
		func(i int) { _, _ = f.Replace(context.Background(), names(f)[0], fmt.Sprint("r", i), newMap()) },
		func(i int) { _ = f.Register(fmt.Sprint("n", i), newMap()) },
		func(i int) { _, _ = f.Unregister(context.Background(), names(f)[0]) },
		func(i int) { _ = f.Freeze(names(f)[0], "test"); _ = f.Thaw(names(f)[0]) },
		func(i int) { _, _ = f.Shrink(context.Background(), names(f)[0], 20) },
		func(i int) { _, _ = f.Migrate(context.Background(), names(f)[0], 20) },
		func(i int) { _ = f.Order(names(f)[1:]) },
		func(i int) { _ = f.Cancel(names(f)[0]) },
	}
	mustRegister(t, f, "last resort", newMap()) // names(f)[0] never runs out
	for w, act := range acts {
		operators.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if len(names(f)) < 2 || len(names(f)) > 10 && w == 1 {
					mustNotRunOut(f, newMap, w, i)
					continue
				}
				func() {
					defer func() { _ = recover() }() // names(f) may be empty by then
					act(w*100000 + i)
				}()
			}
		})
	}
	for w := range uint64(writers) {
		clients.Go(func() {
			got := make([]byte, backends.PageSize)
			for i := range uint64(1500) {
				page := i*37%(pages/writers)*writers + w
				seed := i<<8 | w
				a.Lock(page)
				if !a.Store(page, backendtest.Mixed(seed)) {
					if err := disk.WritePages(page, backendtest.Mixed(seed)); err != nil {
						t.Error(err)
					}
					a.SetStorage(page)
				}
				a.Unlock(page)
				a.RLock(page)
				if a.Owner(page) == OwnerStorage {
					disk.mu.Lock()
					copy(got, disk.pages[page])
					disk.mu.Unlock()
				} else if err := a.Load(page, got); err != nil {
					t.Errorf("load: %v", err)
				}
				a.RUnlock(page)
				if !bytes.Equal(got, backendtest.Mixed(seed)) {
					t.Errorf("page %d is not what was stored last", page)
				}
			}
		})
	}
	clients.Wait()
	stop.Store(true)
	operators.Wait()
	closeAll(t, []*Area{a}, used...)
}

func mustNotRunOut(f *Frontswap, newMap func() *backendtest.Map, w, i int) {
	if len(f.Backends()) < 2 {
		_ = f.Register(fmt.Sprint("more", w, "-", i), newMap())
	}
}

func second(_ Drain, err error) error { return err }

// TestShrinkGoesAround: pages that are in use stay, wherever they lie. A look
// that began at the start each time would take those at the front first.
func TestShrinkGoesAround(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 6*BlockPages, &memory{})
	other := openArea(t, f, 2, 2*BlockPages, &memory{})
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for _, area := range []*Area{a, other} {
		for page := range area.Pages() {
			store(area, page, page)
		}
	}
	for round := range 20 {
		for page := range uint64(100) {
			checkLoad(t, a, page, page)
		}
		if n, err := f.Shrink(t.Context(), "b", 50); n != 50 || err != nil {
			t.Fatalf("round %d: %d pages, %v", round, n, err)
		}
	}
	for page := range uint64(100) {
		if a.Owner(page) == OwnerStorage {
			t.Errorf("page %d is in use all the time and was moved", page)
		}
	}
	if left := len(b.Keys()); left != 8*BlockPages-20*50 {
		t.Errorf("%d pages left", left)
	}
	closeAll(t, []*Area{a, other}, b)
}

// TestStatusDuringMoves: whoever looks at the numbers of moves may do so at any
// moment. The race detector watches.
func TestStatusDuringMoves(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 300, &memory{})
	b, next := &backendtest.Map{}, &backendtest.Map{}
	mustRegister(t, f, "b", b)
	for page := range uint64(300) {
		store(a, page, page)
	}
	mustRegister(t, f, "next", next)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, s := range f.Backends() {
				if d := s.Drain; d.Stored() > d.Moved || d.Moved > 300 {
					t.Errorf("numbers that cannot be: %+v", d)
				}
			}
		}
	})
	for range 20 {
		if n, err := f.Migrate(t.Context(), "b", 5); n != 5 || err != nil {
			t.Errorf("migrate: %d, %v", n, err)
		}
		if n, err := f.Shrink(t.Context(), "b", 5); n != 5 || err != nil {
			t.Errorf("shrink: %d, %v", n, err)
		}
	}
	if d := f.Backends()[0].Drain; d.Moved != 5 || d.Stored() != 5 || len(d.Into) != 0 {
		t.Errorf("the last shrink: %+v", d)
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	close(done)
	wg.Wait()
	closeAll(t, []*Area{a}, b, next)
}
