package ramster

import "github.com/tmemd/tmemd/backends/arena"

// An export is charged the slots that its handles name: of staged pages, those at
// home, and stubs. Not what donors have: that is their memory.

// Used implements [backends.Backend].
func (c *Cache) Used(id uint32) uint64 {
	if e := (*c.exports.Load())[id]; e != nil {
		return e.charge.Bytes()
	}
	return 0
}

// charge changes what an export is charged. REQUIRES: the page's lock.
func (c *Cache) charge(id uint32, bytes int64) {
	if e := (*c.exports.Load())[id]; e != nil {
		e.charge.Add(bytes)
	}
}

// Room implements [backends.Backend].
func (c *Cache) Room() uint64 {
	if c.stubs.Load() >= c.config.Pages {
		return 0
	}
	limit := int64(c.arena.Room()+c.arena.Droppable()) * arena.ChunkSize
	return uint64(max(min(c.config.Staging*15/16-c.stagedBytes.Load(), limit-c.config.arenaLimit()/32), 0))
}
