package zcache

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pressure"
)

// The flags of an object.
const (
	flagAge     = 3 // rounds that the object was seen in and not loaded, up to 3
	flagSettled = 4 // compressing it further gains nothing
	flagBad     = 8 // the scrubber found it damaged, and said so
)

// background is the goroutines that a cache has while there is a host to ask:
//
//	behind (one for two processors)  compress staged pages
//	room                             compacts, and has pages evicted
//	size                             follows the host's memory pressure
//	cold                             counts ages, recompresses idle pages
//	scrub                            verifies pages
//
// None of them calls the host with a lock held.
type background struct {
	*Cache
	host   backends.Host
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	sizer  pressure.Sizer // run by size
	thrash thrash         // owned by room
}

func startBackground(c *Cache) *background {
	b := &background{Cache: c, host: hosts{c}}
	b.sizer.Source = c.config.Load().Pressure
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		b.wg.Go(b.behind)
	}
	b.wg.Go(b.room)
	b.wg.Go(b.size)
	b.wg.Go(b.cold)
	b.wg.Go(b.scrub)
	return b
}

// stop ends the goroutines and waits for them; b may be nil. It does not wait for
// a call of Host.Evict, whose host may be waiting for whoever called this. Such a
// call ends by itself, with pages invalidated as usual; Close waits for it.
func (b *background) stop() {
	if b == nil {
		return
	}
	b.cancel()
	b.wg.Wait()
}

// sleep returns false if the background ends meanwhile.
func (b *background) sleep(d time.Duration) bool {
	if d <= 0 {
		return b.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

func sameObject(a, b arena.Object) bool {
	return a.Export == b.Export && a.Page == b.Page && a.Codec == b.Codec && a.Sum == b.Sum && string(a.Data) == string(b.Data)
}

// walk calls visit for each object, round after round, with one round in the time
// that every returns; while that is not above 0, it waits. Objects that come
// behind the walk are found in the next round.
func (b *background) walk(every func() time.Duration, visit func(arena.Ref)) {
	const patience = time.Second // to see a change of every
	var refs []arena.Ref
	for {
		start, chunks := time.Now(), b.arena.Chunks()
		for n := range chunks {
			refs = b.arena.Refs(n, refs[:0])
			for _, ref := range refs {
				if b.ctx.Err() != nil {
					return
				}
				visit(ref)
			}
			for {
				ahead := time.Until(start.Add(every() * time.Duration(n+1) / time.Duration(chunks)))
				if every() > 0 && ahead < time.Millisecond {
					break
				}
				if every() <= 0 {
					ahead = patience
				}
				if !b.sleep(min(ahead, patience)) {
					return
				}
			}
		}
		if chunks == 0 && !b.sleep(patience) {
			return
		}
		if rest := every() - time.Since(start); rest > 0 && rest < patience && !b.sleep(rest) {
			return
		}
	}
}
