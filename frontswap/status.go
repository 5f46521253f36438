package frontswap

import (
	"cmp"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
)

// BackendStatus is a snapshot of one registered backend.
type BackendStatus struct {
	Name       string
	Kind       string
	State      State
	Reason     string // why it is frozen or failed
	Pages      uint64 // pages that the page maps say it has
	LoadErrors uint64 // pages that it owed and could not deliver
	Drain      Drain  // the latest drain; zero if there was none

	// Backend is the backend itself, for who knows its kind and changes settings
	// of that. It may be closed at any time.
	Backend backends.Backend

	Stats backends.Stats

	Loads, Stores latency.Snapshot // how long they took, failures and refusals too; of the pages that latency.Sampled picks
}

// Backends returns the registered backends in the order in which stores ask
// them.
func (f *Frontswap) Backends() []BackendStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	slots := f.slotsLocked()
	status := make([]BackendStatus, 0, len(slots))
	for _, s := range slots {
		b := BackendStatus{
			Name: s.name, Backend: s.backend, Kind: s.backend.Kind(), State: s.state, Reason: s.reason,
			Pages: f.pagesLocked(s), LoadErrors: s.loadErrors.Load(), Stats: s.backend.Stats(),
			Loads: s.loads.Snapshot(), Stores: s.stores.Snapshot(),
		}
		if m := s.move; m != nil {
			b.Drain = m.snapshot(b.Pages)
		}
		status = append(status, b)
	}
	return status
}

// slotsLocked lists the backends in the order in which stores ask them.
// REQUIRES: mu held.
func (f *Frontswap) slotsLocked() []*slot {
	var slots []*slot
	for i := range f.slots {
		if s := f.slots[i].Load(); s != nil {
			slots = append(slots, s)
		}
	}
	// One that drains comes before one that replaces it.
	slices.SortStableFunc(slots, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(a.order, b.order), -cmp.Compare(a.state, b.state))
	})
	return slots
}

// pagesLocked counts the pages that the open areas' maps say s has.
// REQUIRES: mu held.
func (f *Frontswap) pagesLocked(s *slot) uint64 {
	total := int64(0)
	for _, a := range f.areas {
		total += a.pages[s.owner].Load()
	}
	return uint64(max(total, 0))
}

func (f *Frontswap) findLocked(name string) *slot {
	for i := range f.slots {
		if s := f.slots[i].Load(); s != nil && s.name == name {
			return s
		}
	}
	return nil
}
