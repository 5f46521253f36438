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

// Offers says whether there is a backend that Store would ask. REQUIRES: Lock
// held for the pages that it is asked about (F3).
func (a *Area) Offers() bool { return len(a.fs.active.Load().slots) > 0 }

// Store offers the page to each backend in turn and reports whether one took
// it. If not, the page is as it was: the caller writes storage and then calls
// SetStorage. REQUIRES: Lock held.
func (a *Area) Store(page uint64, data []byte) bool {
	// After the lock, never before: F3 rests on it.
	active := a.fs.active.Load()
	if len(active.slots) == 0 {
		return false
	}
	stored, reason := a.storeIn(active, page, data)
	if stored {
		return true
	}
	a.counters.failedStores.Add(1)
	if reason < ClientRefusals {
		a.client.refused[reason].Add(1)
	}
	return false
}

// TryStore is Store for callers that must not wait: false if a backend would,
// or if none takes the page. A refusal is not counted, as Store follows.
// REQUIRES: Lock held.
func (a *Area) TryStore(page uint64, data []byte) bool {
	active := a.fs.active.Load()
	if !active.local {
		return false
	}
	stored, _ := a.storeIn(active, page, data)
	return stored
}

// storeIn offers the page to those of the backends that its client may use. If none
// was found, reason says whether that is why; else it is ClientRefusals.
func (a *Area) storeIn(active *activeSet, page uint64, data []byte) (stored bool, reason ClientRefusal) {
	reason = ClientRefusals
	gate := a.client.gate.Load()
	if gate != 0 {
		if why, stops := a.client.stops(gate); stops {
			return false, why
		}
	}
	var handle backends.Handle
	var s *slot
	if gate&gateShare == 0 {
		handle, s = a.offer(active.slots, page, data)
	} else {
		for i := 0; i < len(active.slots) && s == nil; i++ {
			if a.client.yields(active.slots[i]) {
				reason = RefusedShare
				continue
			}
			handle, s = a.offer(active.slots[i:i+1], page, data)
		}
	}
	if s == nil {
		return false, reason
	}
	a.commit(page, makeWord(s.owner, handle)|referenced)
	a.counters.succStores.Add(1)
	return true, reason
}

// offer asks the backends in turn to take the page. The one that did is
// returned with its handle, or nil. REQUIRES: Lock or LockUpdate held.
func (a *Area) offer(to []*slot, page uint64, data []byte) (backends.Handle, *slot) {
	key := backends.Key{Export: a.id, Page: page}
	for _, s := range to {
		handle, refusal, err := s.store(key, data)
		if err != nil {
			if !errors.Is(err, backends.ErrTransient) {
				a.fs.fail(s, err)
			}
			continue
		}
		if refusal == backends.Accepted {
			return handle, s
		}
	}
	return 0, nil
}

// Load fills dst with the page. It waits if the backend does. An error is EIO
// for this page: no older copy may stand in for it (promise 2).
// REQUIRES: RLock held, and Owner is a backend or OwnerLost.
func (a *Area) Load(page uint64, dst []byte) error {
	w := a.word(page)
	index, ok := w.owner().backendSlot()
	if !ok {
		a.counters.loadErrors.Add(1)
		return fmt.Errorf("load page %d of %s: %w", page, a.name, errLost)
	}
	if err := a.loadFrom(a.fs.slots[index].Load(), page, w, dst); err != nil {
		return err
	}
	a.touch(page, w)
	a.counters.loads.Add(1)
	return nil
}

// touch notes that the page was used. Shared lines stay shared: the bit is
// written once for each look at it.
func (a *Area) touch(page uint64, w word) {
	if w&referenced == 0 {
		a.at(page).Or(uint64(referenced))
	}
}

// TryLoad is Load for callers that must not wait; false also if the backend
// failed, so that Load reports it. It does not count: a request of which one
// page would wait is served again, whole, by Load. CountLoads says when it is
// done. REQUIRES: as Load.
func (a *Area) TryLoad(page uint64, dst []byte) bool {
	w := a.word(page)
	index, ok := w.owner().backendSlot()
	if !ok {
		return false
	}
	s := a.fs.slots[index].Load()
	if s == nil || !s.local {
		return false
	}
	if s.load(backends.Key{Export: a.id, Page: page}, w.handle(), dst) != nil {
		return false
	}
	a.touch(page, w)
	return true
}

// CountLoads counts n pages that TryLoad delivered.
func (a *Area) CountLoads(n uint64) { a.counters.loads.Add(n) }

func (a *Area) loadFrom(s *slot, page uint64, w word, dst []byte) error {
	err := errOwnerGone
	if s != nil {
		err = s.load(backends.Key{Export: a.id, Page: page}, w.handle(), dst)
	}
	if err != nil {
		a.counters.loadErrors.Add(1)
		a.fs.loadFailed(a, page, s, err)
		return fmt.Errorf("load page %d of %s: %w", page, a.name, err)
	}
	return nil
}

var (
	errOwnerGone = errors.New("the page map names a backend that is not loaded")
	errLost      = errors.New("no backend has it any more since the last takeover")
)

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
