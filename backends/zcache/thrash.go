package zcache

import (
	"sync/atomic"
	"time"
)

const (
	// Between two judgements a quarter of the pool's pages is evicted, at least
	// thrashLeast: evictions come in batches, and what comes back while none is
	// under way says little.
	thrashLeast = 256
	thrashShare = 4
	// thrashPart: evicting pauses if more than one of so many pages that went to
	// storage came straight back.
	thrashPart = 3
	// The pause doubles as long as that goes on.
	thrashFirst = time.Second
	thrashMost  = 32 * time.Second
)

// flow counts, from the beginning, what is judged.
type flow struct {
	evicted  uint64
	refused  uint64 // stores refused for want of room: these pages went to storage too
	refaults uint64
}

// thrash watches whether evicted pages come straight back, as zswap's shrinker
// does by counting swap-ins from disk, and slows eviction down then. The one
// goroutine that makes room owns all but paused.
type thrash struct {
	judged flow // as of the last judgement
	pause  time.Duration
	until  time.Time // of the pause
	paused atomic.Bool
}

// pauses says whether nothing is to be evicted now, from a pool of so many pages.
func (t *thrash) pauses(pages uint64, f flow, now time.Time) bool {
	if t.paused.Load() {
		if now.Before(t.until) {
			return true
		}
		// What came back meanwhile says nothing about the next pages.
		t.paused.Store(false)
		t.judged = f
		return false
	}
	evicted := f.evicted - t.judged.evicted
	if evicted < max(thrashLeast, pages/thrashShare) {
		return false
	}
	gone, back := evicted+f.refused-t.judged.refused, f.refaults-t.judged.refaults
	t.judged = f
	if back <= gone/thrashPart {
		t.pause = 0
		return false
	}
	t.pause = min(max(thrashFirst, 2*t.pause), thrashMost)
	t.until = now.Add(t.pause)
	t.paused.Store(true)
	return true
}
