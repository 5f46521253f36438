package zcache

import (
	"context"
	"maps"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// managed is an export that was initialised.
type managed struct {
	host      backends.Host // or nil
	ephemeral bool
	charge    *backends.Charge // of its pages, unless they are ephemeral
	dedup     uint32           // backends.Export.Dedup, 0 if it is ephemeral
}

// hosts is the host that the background turns to: that of the export it is about.
// Only pages that are not ephemeral are evicted; the others are dropped.
type hosts struct{ c *Cache }

var _ backends.Host = hosts{}

// Rehandle implements [backends.Host].
func (h hosts) Rehandle(key backends.Key, old backends.Handle, next func() (backends.Handle, bool)) bool {
	host := (*h.c.exports.Load())[key.Export].host
	return host != nil && host.Rehandle(key, old, next)
}

// Evict implements [backends.Host].
func (h hosts) Evict(ctx context.Context, n uint64) (uint64, error) {
	host := h.evictor()
	if host == nil {
		return 0, nil
	}
	return host.Evict(ctx, n)
}

// Refaults implements [backends.Host].
func (h hosts) Refaults() uint64 {
	host := h.evictor()
	if host == nil {
		return 0
	}
	return host.Refaults()
}

// Owed implements [backends.Host].
func (h hosts) Owed() bool {
	host := h.evictor()
	return host != nil && host.Owed()
}

// evictor is the host of all exports that are not ephemeral, or nil.
func (h hosts) evictor() backends.Host {
	for _, m := range *h.c.exports.Load() {
		if !m.ephemeral && m.host != nil {
			return m.host
		}
	}
	return nil
}

// anybody says whether one of the exports has a host.
func anybody(exports map[uint32]managed) bool {
	for _, m := range exports {
		if m.host != nil {
			return true
		}
	}
	return false
}

// ephemeral says whether the export is one of that sort.
func (c *Cache) ephemeral(export uint32) bool { return (*c.exports.Load())[export].ephemeral }

// InvalidateArea forgets the export. With the last one the background work ends,
// and with the last one of its sort it begins anew: nobody asks the host of that sort
// any more.
func (c *Cache) InvalidateArea(export uint32) {
	c.forgetExport(export).stop()
	// Before anybody else gets the memory to see: other exports are other tenants'.
	c.arena.Scrub(func(o arena.Object) bool { return o.Export == export && !isContent(o) })
}

// forgetExport returns the background to be stopped, or nil: without a lock, as
// Init may be called by somebody whom it has to wait for.
func (c *Cache) forgetExport(export uint32) *background {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	exports := maps.Clone(*c.exports.Load())
	gone := exports[export]
	delete(exports, export)
	c.exports.Store(&exports)
	for _, other := range exports {
		if other.ephemeral == gone.ephemeral {
			return nil
		}
	}
	var next *background
	if anybody(exports) {
		next = startBackground(c)
	}
	return c.background.Swap(next)
}

// forgetAll is forgetExport of all that are left.
func (c *Cache) forgetAll() *background {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	c.exports.Store(&map[uint32]managed{})
	return c.background.Swap(nil)
}
