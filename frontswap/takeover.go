package frontswap

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// A takeover makes a registry of what an earlier process left in memory, however
// it ended:
//
//	Restore    the backends, at the owner numbers that words name them by
//	OpenArea   each area, with Takeover: words are checked and counted, backends asked
//	           for each page (Backend.Adopt); nothing in the memory is changed
//	Resume     what nobody named is freed, words of pages that are gone are
//	           changed, and the backends take stores again
//
// Whoever gives up before Resume closes the areas and backends, which leaves
// everything as it was found.

// Registered is what a process that takes over has to know of a backend.
type Registered struct {
	Name   string
	Owner  Owner // its number in words
	Order  int
	State  State
	Reason string // why it is not simply active

	Backend backends.Backend
}

func (s *slot) registered() Registered {
	return Registered{Name: s.name, Owner: s.owner, Order: s.order, State: s.state, Reason: s.reason, Backend: s.backend}
}

// registeredLocked lists what words may name. REQUIRES: mu held.
func (f *Frontswap) registeredLocked() (list []Registered) {
	for _, s := range f.slotsLocked() {
		if !s.leaving {
			list = append(list, s.registered())
		}
	}
	return list
}

// recordLocked has the backends recorded as they are now. REQUIRES: mu held.
func (f *Frontswap) recordLocked() {
	if err := f.record(f.registeredLocked()); err != nil {
		f.log.Error("a process that takes over would find the backends as they were before", "error", err)
	}
}

// RecordAgain has the backends recorded, for their settings.
func (f *Frontswap) RecordAgain() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.record(f.registeredLocked())
}

// Restore registers the backends of an earlier process, which takes no stores
// before Resume. REQUIRES: no area is open, and no backend registered.
func (f *Frontswap) Restore(list []Registered) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range list {
		_, ok := r.Owner.backendSlot()
		same := func(other Registered) bool { return other.Owner == r.Owner || other.Name == r.Name }
		if !ok || slices.ContainsFunc(list[:i], same) {
			return fmt.Errorf("restore backend %s: its place %d is none or taken, or its name is", r.Name, r.Owner)
		}
	}
	for _, r := range list {
		index, _ := r.Owner.backendSlot()
		s := &slot{
			name: r.Name, owner: r.Owner, backend: r.Backend, local: r.Backend.Local(), order: r.Order,
			state: StateRegistered, restored: r, inited: map[uint32]bool{},
		}
		// Shadows of the earlier process are of another count, and must look old.
		s.evicted.Store(rand.Uint64() & shadowClockMask)
		f.slots[index].Store(s)
	}
	return nil
}

// Find returns the backend of that name, or nil, for who knows its kind.
func (f *Frontswap) Find(name string) backends.Backend {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.findLocked(name); s != nil {
		return s.backend
	}
	return nil
}

// Takeover is what was found.
type Takeover struct {
	Pages   uint64 // pages that backends have
	Lost    uint64 // pages that the maps said they have and they have not: I/O errors from now on
	Rescued uint64 // of such pages, those that storage has too
	Orphans uint64 // copies in backends that no map names, freed
}

// Resume ends a takeover. A backend that was draining is frozen: unloading it
// goes on from where it was. After an error the registry is of no use, and the
// memory is as good as after the process that left it.
func (f *Frontswap) Resume() (t Takeover, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slotsLocked() {
		orphans, err := s.backend.Adopted()
		if err != nil {
			return t, fmt.Errorf("backend %s: %w", s.name, err)
		}
		t.Orphans += orphans
	}
	for _, a := range f.areas {
		if a.adoption != nil {
			a.settle(&t)
		}
	}
	for _, s := range f.slotsLocked() {
		for _, a := range f.areas {
			if err := s.backend.Init(a.describe(s)); err != nil {
				f.log.Warn("backend cannot serve the export", "backend", s.name, "export", a.name, "error", err)
				continue
			}
			s.inited[a.id] = true
		}
		state, reason := s.restored.State, s.restored.Reason
		if state == StateDraining {
			state, reason = StateFrozen, "it was draining when another process took over"
		}
		if err := s.moveLocked(state, reason); err != nil {
			return t, err
		}
	}
	f.duesLocked()
	f.publishLocked()
	return t, f.record(f.registeredLocked())
}

// Quiesce holds off everything that changes a word or a handle without a request:
// backends that tidy up, and moves, which it waits for. What it returns lets them
// go on. REQUIRES: no request is or will be under way in the meantime, nor is an
// area opened or closed.
func (f *Frontswap) Quiesce() (resume func()) {
	f.mu.Lock()
	areas := slices.Collect(maps.Values(f.areas))
	f.mu.Unlock()
	for _, a := range areas {
		a.life.Lock()
	}
	return func() {
		for _, a := range areas {
			a.life.Unlock()
		}
	}
}

// Abandon closes the backends without moving their pages: after a takeover that was
// given up, or when another process is to take over. REQUIRES: no area is open.
func (f *Frontswap) Abandon() error {
	f.mu.Lock()
	slots := f.slotsLocked()
	f.mu.Unlock()
	var errs []error
	for _, s := range slots {
		errs = append(errs, s.backend.Close())
		f.slots[int(s.owner-firstBackendOwner)].Store(nil)
	}
	return errors.Join(errs...)
}

// MapName is the name of an area's map among the memory files.
func MapName(id uint32) string { return fmt.Sprintf("map-%d", id) }

const mapPurpose = "page map"

// createMap makes a new map. Its memory is claimed as a whole, where it has to be:
// reading a word takes memory too, and has no way to say that there is none.
func createMap(folder *sharedmem.Folder, c AreaConfig) (*sharedmem.Region, Owner, error) {
	fresh := OwnerNone
	if c.Empty {
		fresh = OwnerHole
	}
	memory, err := folder.Create(MapName(c.ID), mapPurpose, int64(c.Pages)*wordSize, uint64(fresh))
	if err != nil {
		return nil, 0, err
	}
	if !c.Overcommit || c.Touch {
		if err := memory.Claim(0, int64(c.Pages)*wordSize); err != nil {
			return nil, 0, errors.Join(err, memory.Close())
		}
	}
	return memory, fresh, nil
}

// openMap opens a map that an earlier process left. Its note says what words of
// pages that nobody wrote mean.
func openMap(folder *sharedmem.Folder, c AreaConfig) (*sharedmem.Region, Owner, error) {
	memory, note, err := folder.Open(MapName(c.ID), mapPurpose)
	if err != nil {
		return nil, 0, err
	}
	fresh := Owner(note)
	// A map that is longer is one of an area that was, or was about to be.
	if len(memory.Bytes()) < int(c.Pages)*wordSize || note != uint64(OwnerNone) && note != uint64(OwnerHole) {
		err := fmt.Errorf("the page map has %d bytes for %d, and the note %d: %w", len(memory.Bytes()), c.Pages*wordSize, note, sharedmem.ErrDamaged)
		return nil, 0, errors.Join(err, memory.Leave())
	}
	return memory, fresh, nil
}

// adoption is what an area knows between a takeover's OpenArea and Resume.
type adoption struct {
	lost []uint64 // pages that their backend does not have
}

// adopt checks and counts every word of a map that an earlier process left, and
// asks the backends for their pages. REQUIRES: Frontswap.mu held.
func (a *Area) adopt() error {
	a.adoption = &adoption{}
	var slots [owners]*slot
	for _, s := range a.fs.slotsLocked() {
		slots[s.owner] = s
	}
	var pages [owners]int64
	err := a.Touched(func(first, last uint64) error {
		for page := first; page < last; page++ {
			w := a.word(page)
			if !w.isWord() {
				return fmt.Errorf("page %d of the page map is %#x, which is no word: %w", page, uint64(w), sharedmem.ErrDamaged)
			}
			owner := w.owner()
			pages[owner]++
			if _, held := owner.backendSlot(); !held {
				continue
			}
			s := slots[owner]
			if s == nil {
				return fmt.Errorf("page %d of the page map names backend %d, and there is none: %w", page, owner, sharedmem.ErrDamaged)
			}
			if !s.backend.Adopt(backends.Key{Export: a.id, Page: page}, w.handle()) {
				a.adoption.lost = append(a.adoption.lost, page)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	touched := int64(0)
	for owner, n := range pages {
		a.pages[owner].Store(n)
		touched += n
	}
	a.pages[OwnerNone].Add(int64(a.Pages()) - touched)
	return nil
}

// settle changes the words of pages that their backend does not have, and clears
// those behind the end: of an area that was being resized, words may be left there,
// and one that grows again takes them for words of pages that nobody wrote.
func (a *Area) settle(t *Takeover) {
	a.clearBehind()
	lost := a.adoption.lost
	a.adoption = nil
	for _, page := range lost {
		w := a.word(page)
		next := makeWord(OwnerLost, 0)
		if w&synced != 0 {
			next = makeWord(OwnerStorage, 0)
			t.Rescued++
		} else {
			t.Lost++
		}
		// Not commit: the handle in the word is nobody's.
		a.at(page).Store(uint64(next))
		a.pages[w.owner()].Add(-1)
		a.pages[next.owner()].Add(1)
	}
	for owner := range a.pages {
		if _, held := Owner(owner).backendSlot(); held {
			t.Pages += uint64(a.pages[owner].Load())
		}
	}
}

// clearBehind clears the words behind the area's end.
func (a *Area) clearBehind() {
	bytes := a.memory.Bytes()
	for end := int64(a.Pages()) * wordSize; ; {
		var start int64
		if start, end = a.memory.Touched(end); start == end {
			return
		}
		clear(bytes[start:end])
	}
}

// Examination is what was found out about an area without changing anything.
type Examination struct {
	None, Storage, Hole, Lost int64
	Backends                  map[string]int64 // pages that words say backends have
	Missing                   []uint64         // pages that their backend does not have
	Damaged                   []uint64         // pages that their backend has and cannot deliver
	Elsewhere                 int64            // pages that only another host could deliver, which is not asked before Resume
}

// Examine loads every page that the area's backends have. REQUIRES: a takeover
// that has not been resumed, and no other use of the area.
func (a *Area) Examine() Examination {
	s := a.Stats()
	e := Examination{None: s.None, Storage: s.Storage, Hole: s.Hole, Lost: s.Lost, Backends: s.Backends, Missing: a.adoption.lost}
	page := make([]byte, backends.PageSize)
	_ = a.Touched(func(first, last uint64) error {
		for n := first; n < last; n++ {
			w := a.word(n)
			index, held := w.owner().backendSlot()
			if _, missing := slices.BinarySearchFunc(e.Missing, n, cmp.Compare[uint64]); !held || missing {
				continue
			}
			err := a.fs.slots[index].Load().backend.Load(backends.Key{Export: a.id, Page: n}, w.handle(), page)
			switch {
			case errors.Is(err, backends.ErrTransient):
				e.Elsewhere++
			case err != nil:
				e.Damaged = append(e.Damaged, n)
			}
		}
		return nil
	})
	return e
}
