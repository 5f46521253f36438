package zcache

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// admission decides about stores before a page is compressed, with zswap's and
// zcache's rules.
type admission struct {
	full     atomic.Bool
	resumeAt atomic.Int64 // with full: bytes in use at which pages are accepted again
}

// filled notes that there was no room for an object. The mark to come down to is
// relative to what was in use at that moment, not to the limit: with chunks of
// many sizes a small pool is full long before every byte of it is in use.
func (c *Cache) filled() {
	percent := int64(c.config.Load().AcceptPercent)
	if percent < 100 && c.pool.full.CompareAndSwap(false, true) {
		c.pool.resumeAt.Store(c.arena.Used() / 100 * percent)
		c.moved[backends.PoolFilled].Add(1)
	}
	c.askRoom()
}

// limitMoved decides anew whether the pool is full. If more is held than the limit
// allows, new pages would only take the slots of those that are on their way out.
func (c *Cache) limitMoved() {
	c.dropToLimit()
	config := c.config.Load()
	if c.arena.Room() < 0 {
		c.pool.resumeAt.Store(config.limit / 100 * int64(config.AcceptPercent))
		c.pool.full.Store(true)
		c.moved[backends.PoolFilled].Add(1)
	} else {
		c.pool.full.Store(false)
	}
	c.askRoom()
}

// isFull says whether pages are refused because the pool was full a while ago.
func (c *Cache) isFull() bool {
	if !c.pool.full.Load() || c.arena.Droppable() > 0 {
		return false // or there will be room as soon as it is needed
	}
	if c.arena.Used() > c.pool.resumeAt.Load() {
		// Who is owed memory gets what there is; others are not let in by the host.
		return c.background.Load() == nil || c.arena.Room() <= 0 || !(hosts{c}).Owed()
	}
	c.pool.full.Store(false)
	return false
}

// isMeanPoor says whether the compressed pages held are above 5/8 of a page on
// average.
func (c *Cache) isMeanPoor() bool {
	pages := c.kept[LZ4].pages.Load() + c.kept[Zstd].pages.Load()
	bytes := c.kept[LZ4].bytes.Load() + c.kept[Zstd].bytes.Load()
	return pages > 0 && bytes > maxMean*pages
}

// keepsIncompressible says whether pages that do not compress are kept.
func (c *Cache) keepsIncompressible() bool {
	return c.config.Load().KeepIncompressible && c.background.Load() != nil
}

// looksRandom guesses from 256 bytes whether a page is not going to compress.
// Random bytes have about 162 different values among 256, pages of programs
// rarely more than 110. Nothing is refused on this guess: such a page is
// compressed in line, where the codec's answer is a refusal and not a page that
// has to be kept.
func looksRandom(page []byte) bool {
	const most = 140
	var seen [4]uint64
	for at := 0; at+8 <= backends.PageSize; at += backends.PageSize / 32 {
		word := binary.LittleEndian.Uint64(page[at:])
		for range 8 {
			seen[word>>6&3] |= 1 << (word & 63)
			word >>= 8
		}
	}
	return bits.OnesCount64(seen[0])+bits.OnesCount64(seen[1])+bits.OnesCount64(seen[2])+bits.OnesCount64(seen[3]) > most
}
