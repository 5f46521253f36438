package frontswap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// estate is what a survivor leaves to the next one.
type estate struct {
	mu    sync.Mutex
	pages map[backends.Handle]legacyPage
	next  backends.Handle
}

type legacyPage struct {
	key  backends.Key
	data []byte
}

// survivor is a backend whose pages outlive it.
type survivor struct {
	unpacked
	*estate
	adopted map[backends.Handle]bool
	inits   int
	closed  bool
	fails   error // of Adopted
}

func (s *survivor) Kind() string { return "survivor" }
func (s *survivor) Local() bool  { return true }
func (s *survivor) Init(backends.Export) error {
	s.inits++
	return nil
}
func (s *survivor) Adopt(key backends.Key, h backends.Handle) bool {
	p, ok := s.pages[h]
	if !ok || p.key != key || s.adopted[h] || s.inits > 0 {
		return false
	}
	s.adopted[h] = true
	return true
}
func (s *survivor) Adopted() (orphans uint64, err error) {
	if s.fails != nil {
		return 0, s.fails
	}
	maps.DeleteFunc(s.pages, func(h backends.Handle, _ legacyPage) bool {
		if !s.adopted[h] {
			orphans++
		}
		return !s.adopted[h]
	})
	return orphans, nil
}
func (s *survivor) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.pages[s.next] = legacyPage{key, bytes.Clone(data)}
	return s.next, backends.Accepted, nil
}
func (s *survivor) Load(key backends.Key, h backends.Handle, dst []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pages[h]; ok && p.key == key {
		copy(dst, p.data)
		return nil
	}
	return backends.ErrCorrupt
}
func (s *survivor) Invalidate(_ backends.Key, h backends.Handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pages, h)
}
func (s *survivor) Used(uint32) uint64    { return 0 }
func (s *survivor) Room() uint64          { return 1 << 40 }
func (s *survivor) InvalidateArea(uint32) {}
func (s *survivor) Stats() backends.Stats { return backends.Stats{} }
func (s *survivor) Close() error {
	s.closed = true
	return nil
}

// world is a registry whose memory outlives it, and what was recorded last.
type world struct {
	t       *testing.T
	config  sharedmem.FolderConfig
	folder  *sharedmem.Folder
	f       *Frontswap
	areas   []*Area
	record  []Registered
	storage *memory
	refuse  error // of the record
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-frontswap-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, config: sharedmem.FolderConfig{Path: filepath.Join(dir, "m"), Boot: "boot"}, storage: &memory{}}
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.folder, err = sharedmem.OpenFolder(w.config); err != nil {
		w.t.Fatal(err)
	}
	w.areas = nil
	w.f = Open(Config{Log: quiet(), Memory: w.folder, Record: func(list []Registered) error {
		if w.refuse == nil {
			w.record = list
		}
		return w.refuse
	}})
}

func (w *world) area(id uint32, pages uint64, takeover bool) (*Area, error) {
	a, err := w.f.OpenArea(AreaConfig{Name: fmt.Sprint("area", id), ID: id, Pages: pages, Storage: w.storage, Empty: id == 2, Takeover: takeover})
	if err == nil {
		w.areas = append(w.areas, a)
	}
	return a, err
}

// die ends the process, as far as frontswap can tell.
func (w *world) die() {
	w.t.Helper()
	w.folder.Leave()
	for _, a := range w.areas {
		if err := a.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := errors.Join(w.f.Abandon(), w.folder.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// restore is the first step of a takeover.
func (w *world) restore() map[string]*survivor {
	w.t.Helper()
	w.open()
	made := map[string]*survivor{}
	list := slices.Clone(w.record)
	for i, r := range list {
		made[r.Name] = &survivor{estate: r.Backend.(*survivor).estate, adopted: map[backends.Handle]bool{}}
		list[i].Backend = made[r.Name]
	}
	if err := w.f.Restore(list); err != nil {
		w.t.Fatal(err)
	}
	return made
}

func newSurvivor() *survivor {
	return &survivor{estate: &estate{pages: map[backends.Handle]legacyPage{}}}
}

// populated is a world with three backends, of which one has gone, and pages in
// every state.
func populated(t *testing.T) (*world, *survivor, *survivor) {
	t.Helper()
	w := newWorld(t)
	a, err := w.area(1, 3000, false)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := w.area(2, 100_000, false)
	if err != nil {
		t.Fatal(err)
	}
	first, gone, second := newSurvivor(), newSurvivor(), newSurvivor()
	for name, b := range map[string]*survivor{"gone": gone} {
		mustRegister(t, w.f, name, b)
	}
	mustRegister(t, w.f, "first", first)
	mustRegister(t, w.f, "second", second)
	if _, err := w.f.Unregister(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if len(w.record) != 2 || w.record[0].Owner != firstBackendOwner+1 {
		t.Fatalf("recorded %+v", w.record)
	}
	for page := range uint64(100) {
		store(a, page, page)
		store(empty, 90_000+page, 1000+page)
	}
	if err := w.f.Order([]string{"second", "first"}); err != nil {
		t.Fatal(err)
	}
	for page := uint64(50); page < 200; page++ {
		store(a, page, page)
	}
	a.Lock(7)
	a.SetSynced(7)
	a.Unlock(7)
	a.Lock(300)
	a.SetStorage(300)
	a.Unlock(300)
	a.Lock(301)
	a.InvalidatePage(301)
	a.Unlock(301)
	return w, first, second
}

// TestTakeover: words, owners, counts, order and states are what they were.
func TestTakeover(t *testing.T) {
	w, first, second := populated(t)
	if err := w.f.Freeze("first", "for a reason"); err != nil {
		t.Fatal(err)
	}
	before := []AreaStats{w.areas[0].Stats(), w.areas[1].Stats()}
	// Copies that nobody names, as a kill leaves them.
	for range 3 {
		second.Store(backends.Key{Export: 1, Page: 60}, backendtest.Mixed(1))
	}
	w.die()
	made := w.restore()
	for id, pages := range map[uint32]uint64{1: 3000, 2: 100_000} {
		if _, err := w.area(id, pages, true); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(w.areas, func(a, b *Area) int { return int(a.id) - int(b.id) })
	if made["first"].inits != 0 || store(w.areas[0], 2000, 1) {
		t.Error("a backend took part before Resume")
	}
	found, err := w.f.Resume()
	if err != nil || found != (Takeover{Pages: 300, Orphans: 3}) {
		t.Fatalf("found %+v, %v", found, err)
	}
	for i, a := range w.areas {
		got := a.Stats()
		if got.None != before[i].None || got.Storage != before[i].Storage || got.Hole != before[i].Hole || !maps.Equal(got.Backends, before[i].Backends) {
			t.Errorf("area %d: %+v, before %+v", a.id, got, before[i])
		}
	}
	status := w.f.Backends()
	if status[0].Name != "second" || status[0].State != StateActive || status[1].State != StateFrozen || status[1].Reason != "for a reason" {
		t.Errorf("backends %+v", status)
	}
	if made["first"].inits != 2 || made["second"].inits != 2 {
		t.Errorf("%d and %d exports initialised", made["first"].inits, made["second"].inits)
	}
	for page := range uint64(200) {
		checkLoad(t, w.areas[0], page, page)
	}
	for page := range uint64(100) {
		checkLoad(t, w.areas[1], 90_000+page, 1000+page)
	}
	a := w.areas[0]
	if !a.Synced(7) || a.Synced(8) || a.Owner(300) != OwnerStorage || a.Owner(301) != OwnerHole || a.Owner(302) != OwnerNone || w.areas[1].Owner(5) != OwnerHole {
		t.Error("words are not what they were")
	}
	if !store(a, 2000, 5) || len(second.pages) != 151 || len(first.pages) != 150 {
		t.Errorf("stores do not go to where they went: %d and %d pages", len(first.pages), len(second.pages))
	}
	// And it goes on like any other.
	for _, name := range []string{"first", "second"} {
		if _, err := w.f.Unregister(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.pages)+len(second.pages) != 0 || len(w.record) != 0 {
		t.Errorf("%d and %d pages left, %d backends recorded", len(first.pages), len(second.pages), len(w.record))
	}
	for _, a := range w.areas {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := w.folder.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(w.config.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("memory files after the end: %v", err)
	}
}

// TestTakeoverLost: pages that their backend has not are errors, and never another
// page's; unless storage has them too.
func TestTakeoverLost(t *testing.T) {
	w, first, _ := populated(t)
	for _, page := range []uint64{3, 7, 9} {
		delete(first.pages, w.areas[0].word(page).handle())
	}
	w.die()
	w.restore()
	a, err := w.area(1, 3000, true)
	if err != nil {
		t.Fatal(err)
	}
	found, err := w.f.Resume()
	if err != nil || found.Lost != 2 || found.Rescued != 1 {
		t.Fatalf("found %+v, %v", found, err)
	}
	if s := a.Stats(); s.Lost != 2 || a.Owner(3) != OwnerLost || a.Owner(7) != OwnerStorage || a.Owner(9) != OwnerLost {
		t.Errorf("%+v", s)
	}
	a.RLock(3)
	err = a.Load(3, make([]byte, backends.PageSize))
	a.RUnlock(3)
	if err == nil || a.Stats().LoadErrors != 1 {
		t.Errorf("a lost page was loaded: %v", err)
	}
	// Still so for the next process, until it is written or dropped.
	w.die()
	w.restore()
	if a, err = w.area(1, 3000, true); err != nil {
		t.Fatal(err)
	}
	if found, err := w.f.Resume(); err != nil || found.Lost != 0 || a.Stats().Lost != 2 {
		t.Fatalf("found %+v, %v, %+v", found, err, a.Stats())
	}
	store(a, 3, 77)
	checkLoad(t, a, 3, 77)
	a.Lock(9)
	a.InvalidatePage(9)
	a.Unlock(9)
	if s := a.Stats(); s.Lost != 0 {
		t.Errorf("%d pages are lost after they were written and dropped", s.Lost)
	}
	checkLoad(t, a, 4, 4)
	w.die()
}

// TestTakeoverDraining: an unload that was under way can go on.
func TestTakeoverDraining(t *testing.T) {
	w, first, _ := populated(t)
	stop := errors.New("killed")
	w.storage.before = func(uint64, int) error {
		if len(w.record) != 2 || w.record[0].State != StateDraining && w.record[1].State != StateDraining {
			t.Errorf("while it drains, recorded: %+v", w.record)
		}
		w.refuse = stop // what comes now happens after the kill
		return stop
	}
	if err := w.f.Freeze("second", "so that storage is next"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.f.Unregister(t.Context(), "first"); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	w.refuse, w.storage.before = nil, nil
	w.die()
	w.restore()
	a, err := w.area(1, 3000, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.area(2, 100_000, true); err != nil {
		t.Fatal(err)
	}
	if _, err := w.f.Resume(); err != nil {
		t.Fatal(err)
	}
	if s := w.f.findLocked("first"); s.state != StateFrozen || !strings.Contains(s.reason, "draining") {
		t.Errorf("state %v, %q", s.state, s.reason)
	}
	if _, err := w.f.Unregister(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if a.Owner(3) != OwnerStorage || len(first.pages) != 0 {
		t.Errorf("page 3 is with %d, %d pages stayed", a.Owner(3), len(first.pages))
	}
	w.die()
}

// TestTakeoverRefused: a damaged map is refused, and giving up changes nothing.
func TestTakeoverRefused(t *testing.T) {
	for _, test := range []struct {
		name  string
		word  word
		pages uint64
		text  string
	}{
		{"owner that there is none of", makeWord(OwnerLost+1, 0), 3000, "page 500 of the page map is 0x13000000000000, which is no word"},
		{"bits that are never set", 1 << 60, 3000, "page 500 of the page map is 0x1000000000000000, which is no word"},
		{"backend that is not there", makeWord(firstBackendOwner, 7), 3000, "page 500 of the page map names backend 3, and there is none"},
		{"too short", 0, 3001, "the page map has 24000 bytes for 24008"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, first, _ := populated(t)
			old := w.areas[0].at(500).Swap(uint64(test.word))
			w.die()
			pages := maps.Clone(first.pages)
			w.restore()
			_, err := w.area(1, test.pages, true)
			if !errors.Is(err, sharedmem.ErrDamaged) || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("%v, want %q", err, test.text)
			}
			w.die()
			if len(first.pages) != len(pages) {
				t.Error("a takeover that was given up changed a backend")
			}
			// Put right, everything is there.
			made := w.restore()
			if old != 0 {
				t.Fatalf("page 500 was %#x", old)
			}
			if test.word != 0 {
				path := filepath.Join(w.config.Path, MapName(1)+".mem")
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(make([]byte, 8), 4096+500*8); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			a, err := w.area(1, 3000, true)
			if err != nil {
				t.Fatal(err)
			}
			x := a.Examine()
			if len(x.Missing) != 0 || len(x.Damaged) != 0 || x.Backends["first"] != 50 || x.Backends["second"] != 150 {
				t.Errorf("examined: %+v", x)
			}
			if made["first"].closed || len(made["first"].pages) != len(pages) {
				t.Error("examining changed a backend")
			}
			w.die()
		})
	}
}

// away is a survivor whose pages nobody can be asked for just now.
type away struct{ *survivor }

func (away) Load(backends.Key, backends.Handle, []byte) error {
	return fmt.Errorf("not yet: %w", backends.ErrTransient)
}

// TestExamineElsewhere: pages that cannot be looked at are neither well nor damaged.
func TestExamineElsewhere(t *testing.T) {
	w, first, second := populated(t)
	second.pages = map[backends.Handle]legacyPage{}
	w.die()
	w.restore()
	a, err := w.area(1, 3000, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.f.slots {
		if s := w.f.slots[i].Load(); s != nil && s.name == "first" {
			s.backend = away{s.backend.(*survivor)}
		}
	}
	x := a.Examine()
	if x.Elsewhere != 50 || len(x.Damaged) != 0 || len(x.Missing) != 150 || len(first.pages) == 0 {
		t.Errorf("examined: %+v", x)
	}
	w.die()
}

// TestRecordRefused: what cannot be recorded is not loaded.
func TestRecordRefused(t *testing.T) {
	w, _, _ := populated(t)
	w.refuse = errors.New("no room")
	b := &backendtest.Map{}
	if err := w.f.Register("more", b); !errors.Is(err, w.refuse) {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), b.Misuse()); err != nil || len(w.f.Backends()) != 2 {
		t.Errorf("%v, %d backends", err, len(w.f.Backends()))
	}
	if err := w.f.Freeze("first", "anyway"); err != nil {
		t.Errorf("a state that cannot be recorded: %v", err)
	}
	w.die()
}

// TestQuiesce: no handle changes until things may go on.
func TestQuiesce(t *testing.T) {
	w, _, _ := populated(t)
	a := w.areas[0]
	h := host{f: w.f, s: w.f.findLocked("second")}
	rehandle := func() bool {
		handle := a.word(60).handle()
		return h.Rehandle(backends.Key{Export: 1, Page: 60}, handle, func() (backends.Handle, bool) { return handle, true })
	}
	resume := w.f.Quiesce()
	if rehandle() {
		t.Error("a handle was replaced")
	}
	resume()
	if !rehandle() {
		t.Error("no handle is replaced any more")
	}
	w.die()
}
