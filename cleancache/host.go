package cleancache

import (
	"context"

	"github.com/tmemd/tmemd/backends"
)

// host is what one backend may ask about pages of disks. See [backends.Host].
type host struct {
	c *Cleancache
	s *slot
}

var _ backends.Host = host{}

// Rehandle implements [backends.Host]. It tries every lock and waits for none.
func (h host) Rehandle(key backends.Key, old backends.Handle, next func() (backends.Handle, bool)) bool {
	found, ok := h.c.byID.Load(key.Export)
	if !ok {
		return false
	}
	p := found.(*Pool)
	if !p.life.TryRLock() {
		return false
	}
	defer p.life.RUnlock()
	if key.Page >= p.length || p.index.memory.Bytes() == nil {
		return false
	}
	at := p.index.find(key.Page)
	if at == nil || !p.TryLock(key.Page) {
		return false
	}
	defer p.Unlock(key.Page)
	w := makeWord(h.s.owner, old)
	if word(at.Load()) != w {
		return false
	}
	handle, ok := next()
	if !ok {
		return false
	}
	at.Store(uint64(makeWord(h.s.owner, handle)))
	return true
}

// Evict implements [backends.Host]. There is nothing to be evicted: the backend may
// forget what it likes.
func (h host) Evict(context.Context, uint64) (uint64, error) { return 0, nil }

// Refaults implements [backends.Host].
func (h host) Refaults() uint64 { return 0 }

// Owed implements [backends.Host].
func (h host) Owed() bool { return false }
