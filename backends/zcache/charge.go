package zcache

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// What an export is charged is the slots of the copies that its handles name: it
// changes with Store, Invalidate, and a new handle, under the page's lock. So the
// old copy of a page that was compressed behind is free of charge from then on,
// although it is freed a moment later; compaction gives a page a slot of the same size.

// Used implements [backends.Backend].
func (c *Cache) Used(export uint32) uint64 {
	if e, ok := (*c.exports.Load())[export]; ok {
		return e.charge.Bytes()
	}
	return 0
}

// charge changes what an export is charged.
func (c *Cache) charge(export uint32, bytes int64) {
	if e, ok := (*c.exports.Load())[export]; ok {
		e.charge.Add(bytes)
	}
}

// takeAdopted returns what an export is charged to begin with. REQUIRES: exportsMu held.
func (c *Cache) takeAdopted(export uint32) *backends.Charge {
	charge := c.adopted[export]
	if charge == nil {
		return &backends.Charge{}
	}
	delete(c.adopted, export)
	return charge
}

// Room implements [backends.Backend].
func (c *Cache) Room() uint64 {
	if c.isFull() {
		return 0
	}
	return uint64(max(c.arena.Room()+c.arena.Droppable(), 0)) * arena.ChunkSize
}
