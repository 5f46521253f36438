package frontswap

import (
	"errors"
	"fmt"

	"github.com/tmemd/tmemd/backends"
)

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
