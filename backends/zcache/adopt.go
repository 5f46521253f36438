package zcache

import (
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Open opens a cache that an earlier process left in Config.Memory, however it
// ended. Its pages are there to be adopted; Capacity is what it was.
func Open(config Config) (*Cache, error) {
	config.Capacity = max(config.Limit, arena.ChunkSize) // until the arena says what it is
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("open zcache: %w", err)
	}
	a, err := arena.Open(config.Memory, arenaPurpose, config.Limit)
	if err != nil {
		return nil, fmt.Errorf("open zcache: %w", err)
	}
	config.Capacity = a.Capacity()
	c := assemble(a, config)
	c.config.Store(&settings{config, config.Limit})
	c.adopting, c.adopted = &adopting{}, map[uint32]*backends.Charge{}
	return c, nil
}

// adopting is what a cache knows between Open and Adopted.
type adopting struct {
	raw  []staged // pages that were staged, to be compressed behind
	zstd bool     // there are pages to be decompressed with it
	seen bool     // contents were looked for
}

// Adopt implements [backends.Backend]. What the object holds is not looked at: the
// checksum of the page says so at each Load.
func (c *Cache) Adopt(key backends.Key, handle backends.Handle) bool {
	if samefilled.Is(handle) {
		if _, ok := samefilled.Value(key, handle); !ok {
			return false
		}
		c.same.Add(1)
		return true
	}
	if c.adopting == nil {
		return false
	}
	ref := arena.Ref(handle)
	o, ok := c.arena.Claim(ref, key.Export, key.Page)
	if !ok {
		return false
	}
	if isContent(o) {
		c.adoptContent(ref, o) // by mistake: kept, as nobody knows for whom
		return false
	}
	switch {
	case Codec(o.Codec) == shared:
		c.adoptReference(o)
	case o.Codec < codecs:
		c.countKept(o, 1)
	}
	if isIncompressible(o) {
		c.settled.Add(1)
	}
	if c.adopted[key.Export] == nil {
		c.adopted[key.Export] = &backends.Charge{}
	}
	c.adopted[key.Export].Add(c.chargeOf(o, ref))
	switch {
	case Codec(o.Codec) == Raw && o.Flags&flagSettled == 0:
		c.adopting.raw = append(c.adopting.raw, staged{key, ref})
	case Codec(o.Codec) == Zstd:
		c.adoptZstd()
	}
	return true
}

// adoptZstd makes ready for pages that are to be decompressed with it. Its error is
// that of the pages, when they are loaded.
func (c *Cache) adoptZstd() {
	if !c.adopting.zstd {
		_, _ = c.zstd.get()
		c.adopting.zstd = true
	}
}

// Adopted implements [backends.Backend].
func (c *Cache) Adopted() (orphans uint64, err error) {
	if c.adopting == nil {
		return 0, nil
	}
	freed, err := c.arena.Settle()
	if s := c.sharing.Load(); s != nil {
		s.settle()
	}
	if err != nil {
		return 0, fmt.Errorf("take zcache over: %w", err)
	}
	for _, s := range c.adopting.raw {
		select {
		case c.staged <- s:
		default: // more than any share: an operator made it smaller
			if c.arena.Mark(s.ref, flagSettled, 0) {
				c.settled.Add(1)
			}
		}
	}
	c.adopting = nil
	config := c.Config()
	if err := c.applyLocked(&settings{config, config.Limit}); err != nil {
		return uint64(freed), fmt.Errorf("take zcache over: %w", err)
	}
	return uint64(freed), nil
}

// Orphans counts the copies that nobody has adopted so far. REQUIRES: between Open
// and Adopted.
func (c *Cache) Orphans() int64 { return c.arena.Unclaimed() }
