package zcache

import (
	"math/bits"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// ghosts remembers which ephemeral pages were offered or dropped lately, without
// the pages: a table of fingerprints, two for each 4 KiB of the pool, as pages
// compress to about half. A page may take one of eight places that its number leads
// to; if they are taken, one of the others goes. So it is remembered for about as
// many others as the pool holds: what comes back later than that would have been
// pushed out again anyhow.
//
// One place for each page was tried: two pages of a loop that share it push each
// other out for ever, and of a loop that would fit in the pool half never gets in.
// A sketch that counts (as in TinyLFU) tells a page's third touch from its second,
// which the second chance in the arena does too.
type ghosts struct {
	table atomic.Pointer[[]ghostSet] // a power of two of them
	clock atomic.Uint32              // of pages noted: says who goes
}

// ghostSet is the places of the pages that lead there; 0 is a free one.
type ghostSet [8]atomic.Uint32

const (
	ghostsLeast = 1 << 10
	ghostsMost  = 1 << 21 // 8 MiB
)

// make makes the table for a pool of so many bytes, unless there is one.
func (g *ghosts) make(limit int64) {
	places := min(max(2*limit/backends.PageSize, ghostsLeast), ghostsMost)
	table := make([]ghostSet, 1<<bits.Len64(uint64(places/int64(len(ghostSet{}))-1)))
	g.table.CompareAndSwap(nil, &table)
}

// note remembers the page. Who notes in one set at once may forget what the other
// one noted.
func (g *ghosts) note(key backends.Key) {
	set, mark := g.find(key)
	if set == nil {
		return
	}
	// An odd multiplier: neighbours in time go to different places.
	at := &set[g.clock.Add(1)*0x9e3779b1>>29]
	for i := range set {
		if now := set[i].Load(); now == mark {
			return
		} else if now == 0 {
			at = &set[i]
		}
	}
	at.Store(mark)
}

// take says whether the page is remembered, and forgets it: from now on the page
// itself is there. Of another page it says so once in half a billion times.
func (g *ghosts) take(key backends.Key) bool {
	set, mark := g.find(key)
	if set == nil {
		return false
	}
	for i := range set {
		if set[i].Load() == mark {
			set[i].Store(0)
			return true
		}
	}
	return false
}

func (g *ghosts) find(key backends.Key) (set *ghostSet, mark uint32) {
	table := g.table.Load()
	if table == nil {
		return nil, 0
	}
	// The finalizer of MurmurHash3: every bit of the key counts in every bit.
	h := key.Page ^ uint64(key.Export)<<40 ^ uint64(key.Export)>>24
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return &(*table)[h&uint64(len(*table)-1)], uint32(h>>32) | 1
}
