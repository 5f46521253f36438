package frontswap

import "github.com/tmemd/tmemd/backends"

// A shadow is what an evicted page leaves behind, as in the kernel's
// mm/workingset.c: in the word of a page on storage, in the place of a handle,
//
//	bit  0–39  the backend's count of evicted pages when it was evicted, modulo 2^40
//	bit 40–44  the backend, as an owner; 0 if there is no shadow
//
// A page that is loaded from storage while fewer pages were evicted since than half
// of what the backend has came straight back: with half as much memory again it
// would still be there. Whoever evicts is told how many do
// ([backends.Host]) and slows down. A shadow counts once; it is a hint, and a
// backend that took the place of another may see a few that are not its own.
const (
	shadowOwnerShift = 40
	shadowClockMask  = 1<<shadowOwnerShift - 1
	refaultWindow    = 2 // half
)

// shadowWord is the word of a page that is being evicted from s to storage.
func (s *slot) shadowWord() word {
	clock := s.evicted.Load() & shadowClockMask
	return makeWord(OwnerStorage, backends.Handle(uint64(s.owner)<<shadowOwnerShift|clock))
}

// FromStorage notes that the pages from first to before last, which storage has,
// were read from there. REQUIRES: any lock of each page held.
func (a *Area) FromStorage(first, last uint64) {
	for page := first; page < last; page++ {
		w := a.word(page)
		if w.owner() == OwnerStorage && w.handle() != 0 {
			a.refault(page, w)
		}
	}
}

// refault counts a shadow and takes it away. Others who read the page may be here
// too; one of them counts it.
func (a *Area) refault(page uint64, w word) {
	owner := Owner(w.handle() >> shadowOwnerShift)
	index, ok := owner.backendSlot()
	if !a.at(page).CompareAndSwap(uint64(w), uint64(makeWord(OwnerStorage, 0))) || !ok {
		return
	}
	s := a.fs.slots[index].Load()
	if s == nil {
		return
	}
	distance := (s.evicted.Load() - uint64(w.handle())) & shadowClockMask
	if distance < uint64(max(a.pages[owner].Load(), 0))/refaultWindow {
		s.refaults.Add(1)
	}
}
