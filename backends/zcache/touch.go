package zcache

// Touch takes all memory that Limit allows now, and keeps it, so that a store
// faults nothing in: for a host that swaps through us. See [arena.Arena.Touch].
func (c *Cache) Touch() error { return c.arena.Touch() }
