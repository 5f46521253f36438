package zcache

import (
	"sync/atomic"
	"time"
)

const (
	// thrashSample is how many pages are evicted between two judgements.
	thrashSample = 256
	// thrashPart: evicting pauses if one of so many evicted pages came straight back.
	thrashPart = 3
	// The pause doubles as long as that goes on.
	thrashFirst = time.Second
	thrashMost  = 32 * time.Second
)

// thrash watches whether evicted pages come straight back, as zswap's shrinker
// does by counting swap-ins from disk, and slows eviction down then. The one
// goroutine that makes room owns all but paused.
type thrash struct {
	recent   uint64 // pages evicted since the last judgement
	refaults uint64 // what the host counted up to then
	pause    time.Duration
	until    time.Time // of the pause
	paused   atomic.Bool
}

func (t *thrash) evicted(pages uint64) { t.recent += pages }

// pauses says whether nothing is to be evicted now. refaults is the host's count.
func (t *thrash) pauses(refaults uint64, now time.Time) bool {
	if t.paused.Load() {
		if now.Before(t.until) {
			return true
		}
		// What came back meanwhile says nothing about the next pages.
		t.paused.Store(false)
		t.recent, t.refaults = 0, refaults
		return false
	}
	if t.recent < thrashSample {
		return false
	}
	back := refaults - t.refaults
	thrashing := back > t.recent/thrashPart
	t.recent, t.refaults = 0, refaults
	if !thrashing {
		t.pause = 0
		return false
	}
	t.pause = min(max(thrashFirst, 2*t.pause), thrashMost)
	t.until = now.Add(t.pause)
	t.paused.Store(true)
	return true
}
