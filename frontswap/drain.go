package frontswap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tmemd/tmemd/backends"
)

// Errors that callers tell apart.
var (
	ErrExists    = errors.New("a backend of that name is loaded")
	ErrNotLoaded = errors.New("no backend of that name is loaded")
	ErrDraining  = errors.New("the backend is being unloaded already")
	ErrBusy      = errors.New("pages of the backend are being moved already")
	ErrCancelled = errors.New("cancelled")
)

// Unregister unloads a backend: it gets no more stores, every page it has moves
// to a backend that is asked later than it, or to storage, while requests go
// on; then it is told to forget the areas and closed. If storage or the backend
// errs, or ctx is done, or Cancel is called, it stays: frozen, with every page
// that was not moved, and Unregister may be called again.
//
// Pages that are being moved by Shrink or Migrate are not an obstacle: that
// move is cancelled first.
//
// The drain's final numbers are returned in either case.
func (f *Frontswap) Unregister(ctx context.Context, name string) (Drain, error) {
	return f.unload(ctx, name, nil)
}

// Replace unloads a backend and loads another one in its place, under a name of
// its own: new pages go to b at once, and the old backend's pages move to it,
// from memory to memory. What b refuses goes on to the backends after it, then
// to storage. If the move stops, the old backend stays, frozen, beside b;
// Unregister goes on from there. If b cannot be loaded, nothing has changed.
func (f *Frontswap) Replace(ctx context.Context, name, newName string, b backends.Backend) (Drain, error) {
	var undo []uint32
	drained, err := f.unload(ctx, name, func(old *slot) (err error) {
		undo, err = f.registerLocked(newName, b, old.order)
		return err
	})
	for _, id := range undo {
		b.InvalidateArea(id)
	}
	return drained, err
}

// unload drains and closes a backend. first, if not nil, is called when the
// backend is known to be there and nothing has changed yet.
// REQUIRES of first: mu is held when it is called.
func (f *Frontswap) unload(ctx context.Context, name string, first func(*slot) error) (Drain, error) {
	m, err := f.beginUnload(ctx, name, first)
	if err != nil {
		return Drain{}, fmt.Errorf("unload backend %s: %w", name, err)
	}
	f.log.Info("backend draining", "backend", name, "pages", m.total)
	m.barrier()
	err = m.run()
	// A page that the walk found gone from the backend may have somebody on the
	// way to tell it so: word first, handle second (F1).
	m.barrier()
	s := m.from

	drained, err := f.endUnload(m, err)
	if err != nil {
		return drained, err
	}
	// Nobody but this call knows the backend any more, save for loads that found
	// its slot and have no page of it. It may have work of its own to wait for
	// that needs mu, so mu is not held.
	f.follow.Leave(s.backend)
	for _, id := range f.forgetAreas(s) {
		s.backend.InvalidateArea(id)
	}
	f.mu.Lock()
	s.leaving = true
	f.recordLocked()
	f.mu.Unlock()
	err = s.backend.Close()

	f.mu.Lock()
	defer f.mu.Unlock()
	if err := s.moveLocked(StateGone, ""); err != nil {
		return drained, err
	}
	f.slots[int(s.owner-firstBackendOwner)].Store(nil)
	f.log.Info("backend unloaded", "backend", name, "moved", m.moved.Load(), "took", time.Since(m.started).Round(time.Millisecond))
	if err != nil {
		return drained, fmt.Errorf("unload backend %s: it is empty and gone, but did not close cleanly: %w", name, err)
	}
	return drained, nil
}

// endUnload ends the drain, and freezes the backend if it did not get through.
func (f *Frontswap) endUnload(m *move, err error) (Drain, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.endLocked()
	s := m.from
	left := f.pagesLocked(s)
	drained := m.snapshot(left)
	if err == nil {
		return drained, nil
	}
	if e := s.moveLocked(StateFrozen, "drain stopped: "+err.Error()); e != nil {
		return drained, e
	}
	f.recordLocked()
	f.log.Error("backend keeps its pages", "backend", s.name, "left", left, "error", err)
	return drained, fmt.Errorf("unload backend %s: it stays loaded, frozen, with %d pages: %w", s.name, left, err)
}

// beginUnload closes the gate: when it returns, only stores that had read the
// old set while holding a page's lock can still reach the backend (F3).
func (f *Frontswap) beginUnload(ctx context.Context, name string, first func(*slot) error) (*move, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.findLocked(name)
	if s == nil {
		return nil, ErrNotLoaded
	}
	if s.state == StateDraining {
		return nil, ErrDraining
	}
	if first != nil {
		if err := first(s); err != nil {
			return nil, err
		}
	}
	if err := s.moveLocked(StateDraining, ""); err != nil {
		return nil, err
	}
	f.publishLocked()
	f.recordLocked()
	// Draining now, so no other move can begin; one that runs is on its way out.
	for s.move != nil && s.move.running.Load() {
		running := s.move
		running.cancel(ErrCancelled)
		f.mu.Unlock()
		<-running.ended
		f.mu.Lock()
	}
	return f.newMoveLocked(ctx, s, func(*move) {}), nil
}
