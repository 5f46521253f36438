package frontswap

import (
	"context"
	"fmt"
	"slices"
)

// Freeze stops a backend's stores; its pages stay, are loaded and invalidated.
// Until Thaw its set of pages can only shrink.
func (f *Frontswap) Freeze(name, reason string) error {
	return f.change("freeze", name, StateFrozen, reason)
}

// Thaw lets a frozen backend take stores again.
func (f *Frontswap) Thaw(name string) error {
	return f.change("thaw", name, StateActive, "")
}

func (f *Frontswap) change(verb, name string, to State, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.findLocked(name)
	if s == nil {
		return fmt.Errorf("%s backend %s: %w", verb, name, ErrNotLoaded)
	}
	if s.state == StateDraining {
		return fmt.Errorf("%s backend %s: %w", verb, name, ErrDraining)
	}
	if err := s.moveLocked(to, reason); err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	f.publishLocked()
	f.recordLocked()
	f.log.Info("backend "+to.String(), "backend", name)
	return nil
}

// Order makes stores ask the backends in the order of names; those that are not
// named keep their order, after them. It moves no page.
func (f *Frontswap) Order(names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, name := range names {
		if f.findLocked(name) == nil {
			return fmt.Errorf("order backends: %s: %w", name, ErrNotLoaded)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("order backends: %s is named twice", name)
		}
	}
	rest := slices.DeleteFunc(f.slotsLocked(), func(s *slot) bool { return slices.Contains(names, s.name) })
	for i, name := range names {
		f.findLocked(name).order = i
	}
	for i, s := range rest {
		s.order = len(names) + i
	}
	f.publishLocked()
	f.recordLocked()
	return nil
}

// Shrink moves up to n of a backend's coldest pages to storage while it goes
// on, and returns how many it moved.
func (f *Frontswap) Shrink(ctx context.Context, name string, n uint64) (uint64, error) {
	return f.moveColdest(ctx, "shrink", name, n, func(m *move) { m.toStorage = true })
}

// Migrate moves up to n of a backend's coldest pages to the backends that are
// asked after it, while it goes on, and returns how many it moved. Pages that
// none of them takes stay.
func (f *Frontswap) Migrate(ctx context.Context, name string, n uint64) (uint64, error) {
	return f.moveColdest(ctx, "migrate", name, n, func(m *move) { m.keepRefused = true })
}

func (f *Frontswap) moveColdest(ctx context.Context, verb, name string, n uint64, to func(*move)) (uint64, error) {
	m, err := f.beginMove(ctx, name, func(m *move) {
		m.most, m.cold = n, true
		to(m)
	})
	if err != nil {
		return 0, fmt.Errorf("%s backend %s: %w", verb, name, err)
	}
	if m.evicts && m.shared {
		err = m.evictShares(n)
	} else {
		err = m.look()
	}
	f.mu.Lock()
	m.endLocked()
	f.mu.Unlock()
	if err != nil {
		return m.moved.Load(), fmt.Errorf("%s backend %s: stopped after %d pages: %w", verb, name, m.moved.Load(), err)
	}
	return m.moved.Load(), nil
}

// look makes up to three passes: the first finds pages that were cold already, the
// second those that it made cold and nobody touched since. The third is for pages that
// arrived behind the second.
func (m *move) look() error {
	for pass := 0; pass < 3 && m.moved.Load() < m.most; pass++ {
		if err := m.run(); err != nil {
			return err
		}
	}
	return nil
}

// beginMove begins a move that is not an unload; set says what it is to do,
// before anybody else sees it.
func (f *Frontswap) beginMove(ctx context.Context, name string, set func(*move)) (*move, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.findLocked(name)
	switch {
	case s == nil:
		return nil, ErrNotLoaded
	case s.state == StateDraining:
		return nil, ErrDraining
	case s.move != nil && s.move.running.Load():
		return nil, ErrBusy
	}
	return f.newMoveLocked(ctx, s, set), nil
}

// Cancel ends the move of a backend's pages that runs: an unload leaves the
// backend frozen, a shrink or migration leaves it as it was. The move may take
// another moment to end.
func (f *Frontswap) Cancel(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.findLocked(name)
	if s == nil {
		return fmt.Errorf("cancel: backend %s: %w", name, ErrNotLoaded)
	}
	if s.move == nil || !s.move.running.Load() {
		return fmt.Errorf("cancel: no pages of backend %s are being moved", name)
	}
	s.move.cancel(ErrCancelled)
	return nil
}
