package frontswap

import (
	"context"

	"github.com/tmemd/tmemd/backends"
)

// host is what one backend may ask of frontswap. See [backends.Host].
type host struct {
	f *Frontswap
	s *slot
}

var _ backends.Host = host{}

// Rehandle implements [backends.Host]. It tries every lock and waits for none:
// a backend that asks is tidying up and can come back.
func (h host) Rehandle(key backends.Key, old backends.Handle, next func() (backends.Handle, bool)) bool {
	found, ok := h.f.byID.Load(key.Export)
	if !ok {
		return false
	}
	a := found.(*Area)
	if !a.life.TryRLock() {
		return false
	}
	defer a.life.RUnlock()
	if key.Page >= a.Pages() || !a.TryLock(key.Page) {
		return false
	}
	defer a.Unlock(key.Page)
	w := a.word(key.Page)
	if w.owner() != h.s.owner || w.handle() != old {
		return false
	}
	handle, ok := next()
	if !ok {
		return false
	}
	a.at(key.Page).Store(uint64(makeWord(h.s.owner, handle) | w&(synced|referenced)))
	return true
}

// Evict implements [backends.Host]. If several clients share the backend, share.go
// says whose pages go.
func (h host) Evict(ctx context.Context, n uint64) (uint64, error) {
	return h.f.moveColdest(ctx, "evict from", h.s.name, n, func(m *move) { m.evicts = true })
}

// Refaults implements [backends.Host].
func (h host) Refaults() uint64 { return h.s.refaults.Load() }

// Owed implements [backends.Host].
func (h host) Owed() bool { return h.s.owed.Load() }
