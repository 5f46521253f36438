package frontswap

import (
	"errors"
	"fmt"

	"github.com/tmemd/tmemd/backends"
)

// Pack returns the page as the backend that has it keeps it, in dst, of PageSize
// bytes, and leaves it as it is: not even as used. REQUIRES: RLock held, and Owner is
// a backend or OwnerLost.
func (a *Area) Pack(page uint64, dst []byte) (backends.Packed, error) {
	w := a.word(page)
	index, ok := w.owner().backendSlot()
	if !ok {
		return backends.Packed{}, fmt.Errorf("pack page %d of %s: %w", page, a.name, errLost)
	}
	s := a.fs.slots[index].Load()
	if s == nil {
		return backends.Packed{}, fmt.Errorf("pack page %d of %s: %w", page, a.name, errOwnerGone)
	}
	p, err := s.backend.Pack(backends.Key{Export: a.id, Page: page}, w.handle(), dst)
	if err != nil {
		return backends.Packed{}, fmt.Errorf("pack page %d of %s: %w", page, a.name, err)
	}
	return p, nil
}

// Unpack offers a packed page to each backend in turn, as Store does, and reports
// whether one took it. The error is that it is not a page; the others count as
// refusals. REQUIRES: Lock held.
func (a *Area) Unpack(page uint64, p backends.Packed) (bool, error) {
	key := backends.Key{Export: a.id, Page: page}
	for _, s := range a.fs.active.Load().slots { // after the lock (F3)
		handle, refusal, err := s.backend.Unpack(key, p)
		switch {
		case errors.Is(err, backends.ErrCorrupt):
			return false, fmt.Errorf("unpack page %d of %s: %w", page, a.name, err)
		case err != nil:
			if !errors.Is(err, backends.ErrTransient) {
				a.fs.fail(s, err)
			}
		case refusal == backends.Accepted:
			a.commit(page, makeWord(s.owner, handle)) // not used: it is as cold as any
			return true, nil
		}
	}
	return false, nil
}

// Quiesce returns when every holder of a page's lock of any sort at the time of the
// call has released it.
func (a *Area) Quiesce() { a.locks.Quiesce() }
