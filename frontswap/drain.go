package frontswap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Errors that callers tell apart.
var (
	ErrExists    = errors.New("a backend of that name is loaded")
	ErrNotLoaded = errors.New("no backend of that name is loaded")
	ErrDraining  = errors.New("the backend is being unloaded already")
)

// drain is one run of Unregister over all areas.
type drain struct {
	started time.Time
	total   uint64 // pages to move when it started
	moved   atomic.Uint64
	running atomic.Bool
}

// Drain is a snapshot of a drain.
type Drain struct {
	Running bool
	Started time.Time
	Total   uint64 // pages that the backend had when the drain started
	Moved   uint64 // pages written to storage so far
	Left    uint64 // pages that the backend still has
}

// Unregister unloads a backend: it gets no more stores, every page it has is
// written to storage while requests go on, then it is told to forget the areas
// and closed. If storage or the backend errs, or ctx is done, it stays: frozen,
// with every page that was not moved, and Unregister may be called again.
func (f *Frontswap) Unregister(ctx context.Context, name string) error {
	s, areas, err := f.beginDrain(name)
	if err != nil {
		return fmt.Errorf("unload backend %s: %w", name, err)
	}
	f.log.Info("backend draining", "backend", name, "pages", s.drain.total)
	err = f.drainAreas(ctx, s, areas)

	f.mu.Lock()
	defer f.mu.Unlock()
	s.drain.running.Store(false)
	if err != nil {
		if e := s.moveLocked(StateFrozen, "drain stopped: "+err.Error()); e != nil {
			return e
		}
		f.log.Error("backend keeps its pages", "backend", name, "left", f.pagesLocked(s), "error", err)
		return fmt.Errorf("unload backend %s: it stays loaded, frozen, with %d pages: %w", name, f.pagesLocked(s), err)
	}
	f.forgetAreasLocked(s)
	if err := s.moveLocked(StateGone, ""); err != nil {
		return err
	}
	f.slots[int(s.owner-firstBackendOwner)].Store(nil)
	f.log.Info("backend unloaded", "backend", name, "moved", s.drain.moved.Load(), "took", time.Since(s.drain.started).Round(time.Millisecond))
	if err := s.backend.Close(); err != nil {
		return fmt.Errorf("unload backend %s: it is empty and gone, but did not close cleanly: %w", name, err)
	}
	return nil
}

// beginDrain closes the gate: when it returns, only stores that had read the
// old set while holding a page's lock can still reach the backend (F3).
func (f *Frontswap) beginDrain(name string) (*slot, []*Area, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.findLocked(name)
	if s == nil {
		return nil, nil, ErrNotLoaded
	}
	if s.state == StateDraining {
		return nil, nil, ErrDraining
	}
	if err := s.moveLocked(StateDraining, ""); err != nil {
		return nil, nil, err
	}
	s.drain = &drain{started: time.Now(), total: f.pagesLocked(s)}
	s.drain.running.Store(true)
	f.publishLocked()
	var areas []*Area
	for _, a := range f.areas {
		areas = append(areas, a)
	}
	slices.SortFunc(areas, func(a, b *Area) int { return int(a.id) - int(b.id) })
	return s, areas, nil
}

func (f *Frontswap) drainAreas(ctx context.Context, s *slot, areas []*Area) error {
	buffer, err := sharedmem.NewPrivate("drain buffer", BlockPages*backends.PageSize)
	if err != nil {
		return err
	}
	defer buffer.Close()
	for _, a := range areas {
		if err := a.drain(ctx, s, buffer.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// drain moves the pages that s has of this area to storage, in ascending order
// and pieces of up to one block. An area that is being closed gives its pages
// up itself; the drain waits for that, as s must not be closed under it.
func (a *Area) drain(ctx context.Context, s *slot, buffer []byte) error {
	if err := a.drainBlocks(ctx, s, buffer); err != nil {
		return err
	}
	if a.closing.Load() {
		<-a.closed
	}
	return nil
}

func (a *Area) drainBlocks(ctx context.Context, s *slot, buffer []byte) error {
	a.life.RLock()
	defer a.life.RUnlock()
	for first := uint64(0); first < a.Pages() && !a.closing.Load(); first += BlockPages {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := a.drainBlock(s, first, buffer); err != nil {
			return err
		}
	}
	return nil
}

// drainBlock takes the lock of every page of the block once, which is also
// what makes unloading exact (F3), and moves the pages that s has.
func (a *Area) drainBlock(s *slot, first uint64, buffer []byte) error {
	var mine [BlockPages]bool
	last := min(first+BlockPages, a.Pages())
	for page := first; page < last; page++ {
		a.LockUpdate(page)
		mine[page-first] = a.Owner(page) == s.owner
		if !mine[page-first] {
			a.UnlockUpdate(page)
		}
	}
	// Descending, as pageLocks wants it. On an error the rest is only unlocked.
	moved := uint64(0)
	err := a.copyOut(s, first, mine[:last-first], buffer)
	for page := last; page > first; {
		page--
		switch {
		case !mine[page-first]:
		case err != nil:
			a.UnlockUpdate(page)
		default:
			a.upgrade(page)
			a.SetStorage(page)
			a.Unlock(page)
			moved++
		}
	}
	s.drain.moved.Add(moved)
	return err
}

// copyOut writes the pages of a block that are marked in mine to storage, runs
// of neighbours in one piece. REQUIRES: LockUpdate held for each of them.
func (a *Area) copyOut(s *slot, first uint64, mine []bool, buffer []byte) error {
	for i := 0; i < len(mine); i++ {
		if !mine[i] {
			continue
		}
		start := i
		for ; i < len(mine) && mine[i]; i++ {
			page := first + uint64(i)
			dst := buffer[(i-start)*backends.PageSize:][:backends.PageSize]
			if err := a.loadFrom(s, page, a.word(page), dst); err != nil {
				return err
			}
		}
		run := buffer[:(i-start)*backends.PageSize]
		if err := a.storage.WritePages(first+uint64(start), run); err != nil {
			return fmt.Errorf("write %d pages of %s from page %d to storage: %w", i-start, a.name, first+uint64(start), err)
		}
	}
	return nil
}
