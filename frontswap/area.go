package frontswap

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pagelock"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// BlockPages is how many pages may be locked at once, see package pagelock.
const BlockPages = pagelock.BlockPages

// Storage is what a drain needs from the layer below the area: the place where
// pages go that no backend has.
type Storage interface {
	// WritePages writes data, a multiple of the page size, at page first.
	WritePages(first uint64, data []byte) error
}

// AreaConfig describes an area to open.
type AreaConfig struct {
	Name    string  // the export's name, for messages
	ID      uint32  // unique among open areas; stored beside each page
	Pages   uint64  // 1 to backends.MaxPages
	Storage Storage // where drains go
	Empty   bool    // storage is all zeros: pages that nobody wrote are holes
	Touch   bool    // take the page map's memory now, not page by page as it is used
	Client  string  // who its pages are charged to; empty is DefaultClient

	// Overcommit claims memory for the page map as pages are written, in a folder: then a
	// write fails when there is none (Area.Reserve). Else all of it is claimed now.
	Overcommit bool

	// Takeover opens the map that an earlier process left, between Restore and
	// Resume. Empty is what it was then.
	Takeover bool
}

// Area is one swap area: the page map of one export, its page locks and its
// counters. The tier owns it and calls it from every request; drains call it
// from theirs. Methods say which lock of the page the caller holds.
type Area struct {
	fs      *Frontswap      // immutable
	name    string          // immutable
	id      uint32          // immutable
	storage Storage         // immutable
	client  *Client         // immutable
	fresh   Owner           // immutable: what OwnerNone means here, none or hole
	locks   *pagelock.Locks // immutable
	touched bool            // immutable: the map's memory is taken before it is used

	overcommit bool // immutable: the map's memory is claimed as it is used
	mapped     mapMemory

	// words is the page map. Each word is guarded by its page's lock, and atomic so
	// that counting may look without. A longer map replaces it when the area grows,
	// see resize.go; it never gets shorter.
	words  atomic.Pointer[[]atomic.Uint64]
	memory *sharedmem.Region // what it is made of
	length atomic.Uint64     // pages, no more than words; changed by Grow and Shrink

	// life is held for reading by whoever walks the map outside a request, and
	// for writing by Close. closed is closed when Close is done.
	life    sync.RWMutex
	closing atomic.Bool
	closed  chan struct{}

	pages    [owners]atomic.Int64 // how many words name each owner (F5)
	counters counters
	adoption *adoption // from a takeover's OpenArea to Resume, else nil
}

// counters count what the kernel's frontswap counted, with its meanings.
type counters struct {
	loads, succStores, failedStores, invalidates, loadErrors atomic.Uint64
}

// Counters is a snapshot of an area's counters.
type Counters struct {
	Loads        uint64 // pages loaded from a backend
	SuccStores   uint64 // stores that a backend took
	FailedStores uint64 // stores that every loaded backend refused; none counted while none is loaded
	Invalidates  uint64 // pages dropped from a backend because the client dropped them
	LoadErrors   uint64 // loads that a backend owed and could not deliver: EIO
}

// asked counts what clients asked for, successes and failures.
func (c *counters) asked() uint64 {
	return c.loads.Load() + c.succStores.Load() + c.failedStores.Load() + c.invalidates.Load() + c.loadErrors.Load()
}

func (c *counters) snapshot() Counters {
	return Counters{
		Loads:        c.loads.Load(),
		SuccStores:   c.succStores.Load(),
		FailedStores: c.failedStores.Load(),
		Invalidates:  c.invalidates.Load(),
		LoadErrors:   c.loadErrors.Load(),
	}
}

func newArea(fs *Frontswap, client *Client, c AreaConfig) (*Area, error) {
	if c.Pages == 0 || c.Pages > backends.MaxPages {
		return nil, fmt.Errorf("open area %s: %d pages is not between 1 and %d", c.Name, c.Pages, uint64(backends.MaxPages))
	}
	open := createMap
	if c.Takeover {
		open = openMap
	}
	memory, fresh, err := open(fs.memory, c)
	if err != nil {
		return nil, fmt.Errorf("open area %s: %w", c.Name, err)
	}
	if c.Touch {
		if err := takeMap(memory, 0, c.Pages); err != nil {
			release := memory.Close
			if c.Takeover {
				release = memory.Leave // nothing is changed before Resume
			}
			return nil, errors.Join(fmt.Errorf("open area %s: %w", c.Name, err), release())
		}
	}
	a := &Area{
		touched: c.Touch, overcommit: c.Overcommit && !c.Touch, fs: fs, client: client, name: c.Name, fresh: fresh, id: c.ID, storage: c.Storage, memory: memory,
		locks: pagelock.New(c.Pages), closed: make(chan struct{}),
	}
	if c.Touch {
		a.locks.Take()
	}
	a.publishWords()
	a.mapped.init()
	a.mapped.grow(a.words64())
	if c.Takeover {
		a.mapTouched()
	}
	if c.Touch || !c.Takeover && !a.overcommit {
		a.mapped.set(0, c.Pages, true)
	}
	a.length.Store(c.Pages)
	a.pages[OwnerNone].Store(int64(c.Pages))
	return a, nil
}

// Pages is the area's length in pages.
func (a *Area) Pages() uint64 { return a.length.Load() }

// RLock locks the page for Load and Owner.
func (a *Area) RLock(page uint64) { a.locks.RLock(page) }

// TryRLock is RLock without waiting; it reports success.
func (a *Area) TryRLock(page uint64) bool { return a.locks.TryRLock(page) }

// RUnlock ends RLock.
func (a *Area) RUnlock(page uint64) { a.locks.RUnlock(page) }

// Lock locks the page for everything.
func (a *Area) Lock(page uint64) { a.locks.Lock(page) }

// TryLock is Lock without waiting; it reports success.
func (a *Area) TryLock(page uint64) bool { return a.locks.TryLock(page) }

// Unlock ends Lock.
func (a *Area) Unlock(page uint64) { a.locks.Unlock(page) }

// LockUpdate locks the page for reading it and for writing its place in
// storage: loads go on, stores wait.
func (a *Area) LockUpdate(page uint64) { a.locks.LockUpdate(page) }

// UnlockUpdate ends LockUpdate.
func (a *Area) UnlockUpdate(page uint64) { a.locks.UnlockUpdate(page) }

// upgrade turns LockUpdate into Lock.
func (a *Area) upgrade(page uint64) { a.locks.Upgrade(page) }

// at is the page's place in the map.
func (a *Area) at(page uint64) *atomic.Uint64 { return &(*a.words.Load())[page] }

func (a *Area) word(page uint64) word {
	if !a.mapped.has(page) {
		return 0
	}
	return word(a.at(page).Load())
}

// publishWords makes the map of the memory that there is.
func (a *Area) publishWords() {
	memory := a.memory.Bytes()
	words := unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/wordSize)
	a.words.Store(&words)
}

// Owner says who has the page. REQUIRES: any lock of the page held; without
// one the answer may be of the past.
func (a *Area) Owner(page uint64) Owner {
	owner := a.word(page).owner()
	if owner == OwnerNone {
		return a.fresh
	}
	return owner
}

// Unsynced says whether a backend has the page and storage has no identical
// copy. REQUIRES: any lock of the page held.
func (a *Area) Unsynced(page uint64) bool {
	w := a.word(page)
	_, held := w.owner().backendSlot()
	return held && w&synced == 0
}

// Synced says whether a backend has the page and storage has an identical copy.
// REQUIRES: any lock of the page held.
func (a *Area) Synced(page uint64) bool { return a.word(page)&synced != 0 }

// SetSynced notes that storage has an identical copy of the page that a backend
// has. REQUIRES: Lock or LockUpdate held since the page was copied.
func (a *Area) SetSynced(page uint64) {
	if a.Unsynced(page) {
		a.at(page).Or(uint64(synced))
	}
}

// ClearSynced notes that storage is about to be overwritten with something
// else than the backend's copy. REQUIRES: Lock held.
func (a *Area) ClearSynced(page uint64) {
	if a.Synced(page) {
		a.at(page).And(uint64(^synced))
	}
}

// SetStorage commits that storage has the page now. REQUIRES: Lock held.
func (a *Area) SetStorage(page uint64) { a.commit(page, makeWord(OwnerStorage, 0)) }

// PinHole makes a page that reads as zeros because nobody wrote it a hole of
// its own: storage may have something there now. REQUIRES: Lock held.
func (a *Area) PinHole(page uint64) {
	if a.word(page) == 0 && a.fresh == OwnerHole {
		a.commit(page, makeWord(OwnerHole, 0))
	}
}

// InvalidatePage commits that the page is a hole: it reads as zeros.
// REQUIRES: Lock held.
func (a *Area) InvalidatePage(page uint64) {
	if a.word(page) == 0 && a.fresh == OwnerHole {
		// Leave the map untouched: a discard of a whole new device costs no memory.
		return
	}
	if _, held := a.Owner(page).backendSlot(); held {
		a.counters.invalidates.Add(1)
	}
	a.commit(page, makeWord(OwnerHole, 0))
}

// commit is the only place that changes a word: the new one is published, then
// the old handle is freed (F1). REQUIRES: Lock held, and Reserve.
func (a *Area) commit(page uint64, next word) {
	old := a.word(page)
	a.at(page).Store(uint64(next))
	a.mapped.set(page, page+1, true) // it has memory now, whether it was reserved or not
	if old.owner() != next.owner() {
		a.pages[old.owner()].Add(-1)
		a.pages[next.owner()].Add(1)
	}
	if index, held := old.owner().backendSlot(); held {
		if s := a.fs.slots[index].Load(); s != nil {
			s.backend.Invalidate(backends.Key{Export: a.id, Page: page}, old.handle())
		}
	}
}

// AreaStats is an area's account of itself.
type AreaStats struct {
	Counters
	None, Storage, Hole int64            // pages by owner
	Client              string           // whom the pages are charged to
	Used                uint64           // bytes of memory that pages take in backends
	Lost                int64            // pages that a takeover did not find; see OwnerLost
	Backends            map[string]int64 // pages by backend, by its name
	Memory              sharedmem.Usage
}

// Stats returns a snapshot. The pages are counted one owner after the other,
// so a page that moves meanwhile may be seen twice or not at all.
func (a *Area) Stats() AreaStats {
	s := AreaStats{
		Counters: a.counters.snapshot(),
		None:     a.pages[OwnerNone].Load(),
		Storage:  a.pages[OwnerStorage].Load(),
		Hole:     a.pages[OwnerHole].Load(),
		Lost:     a.pages[OwnerLost].Load(),
		Backends: map[string]int64{},
		Memory:   a.memory.Usage(),
		Client:   a.client.name,
	}
	for i := range a.fs.slots {
		if b := a.fs.slots[i].Load(); b != nil {
			s.Backends[b.name] = a.pages[b.owner].Load()
			s.Used += b.backend.Used(a.id)
		}
	}
	return s
}

// Touched calls visit for each run of whole blocks of which anything was ever
// committed, in ascending order, until it returns an error. All other pages are
// as they were when the area was opened; a page that is committed for the first
// time meanwhile may be missed. first is not below last if the area was made
// shorter meanwhile.
func (a *Area) Touched(visit func(first, last uint64) error) error {
	for end := int64(0); ; {
		var start int64
		if start, end = a.memory.Touched(end); start == end {
			return nil
		}
		first := uint64(start) / wordSize / BlockPages * BlockPages
		last := min((uint64(end)/wordSize+BlockPages-1)/BlockPages*BlockPages, a.Pages())
		if err := visit(first, last); err != nil {
			return err
		}
	}
}

// invalidateArea drops every page of the area from every backend.
func (a *Area) invalidateArea() {
	_ = a.Touched(func(first, last uint64) error {
		for page := first; page < last; page++ {
			if _, held := a.Owner(page).backendSlot(); held {
				a.Lock(page)
				a.commit(page, makeWord(OwnerNone, 0))
				a.Unlock(page)
			}
		}
		return nil
	})
}
