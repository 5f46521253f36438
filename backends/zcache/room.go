package zcache

import (
	"context"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

const (
	// compactChunks is how many chunks are emptied between two looks at the rest.
	compactChunks = 64
	// evictMost is how many pages the host is asked for at once: enough to be
	// written in long runs, few enough to look again.
	evictMost  = 4096
	evictLeast = 32
	// tidyEvery is how often the pool is looked at when nothing happens.
	tidyEvery = time.Second
	tidyPause = 5 * time.Millisecond
)

// askRoom wakes room.
func (c *Cache) askRoom() {
	select {
	case c.roomAsked <- struct{}{}:
	default:
	}
}

// watchRoom wakes room when a store brought the pool near its limit, before
// stores have to be refused.
func (c *Cache) watchRoom() {
	if c.arena.Room() < c.config.Load().lowChunks() {
		c.askRoom()
	}
}

// room keeps a part of the pool free, and the pool dense.
func (b *background) room() {
	pause := tidyEvery
	for b.ctx.Err() == nil {
		timer := time.NewTimer(pause)
		select {
		case <-b.ctx.Done():
		case <-timer.C:
		case <-b.roomAsked:
		}
		timer.Stop()
		b.moved[backends.MovedRefaulted].Store(b.host.Refaults())
		if b.makeRoom() {
			pause = tidyEvery
		} else {
			// The host or its storage is in trouble; asking once more at once
			// would not help.
			pause = min(2*pause, time.Minute)
			if !b.sleep(pause / 8) {
				return
			}
		}
		b.tidy()
		// Not more often than that, however many stores ask.
		if !b.sleep(tidyPause) {
			return
		}
	}
}

// needsRoom says whether stores are being refused or soon will be: less than a
// twentieth of the chunks is free or can be made so.
func (b *background) needsRoom() bool {
	room := b.arena.Room()
	return room < 0 || room+b.arena.Movable() < b.config.Load().lowChunks() || b.pool.full.Load() && b.isFull()
}

// makeRoom has pages evicted, coldest first, until a tenth of what was in use (or
// what AcceptPercent says) is free again. It returns false if that does not work
// out.
//
// While evicted pages come straight back it does nothing, and new pages are
// refused once the pool is full: they take the way to storage instead of pages
// that are needed more. What is above the limit has to go in any case.
func (b *background) makeRoom() bool {
	b.dropEphemeral()
	for b.needsRoom() {
		if b.arena.Room() >= 0 && b.pauses() {
			return true
		}
		if b.arena.Movable() > 0 && b.arena.Room() < 0 {
			b.compact(compactChunks)
		}
		target := b.arena.Used() / 100 * int64(min(b.config.Load().AcceptPercent, 95))
		for b.arena.Used() > target {
			if moved, err := b.evict(b.pagesIn(b.arena.Used() - target)); err != nil || moved == 0 {
				return b.ctx.Err() == nil && !b.needsRoom()
			}
		}
		b.compact(int(b.config.Load().limit / arena.ChunkSize))
		if b.arena.Used() == 0 {
			break
		}
	}
	return true
}

// pauses says whether evicting makes a pause because evicted pages come straight
// back. Not while that would keep memory from who has a right to it.
func (b *background) pauses() bool {
	if b.host.Owed() {
		return false
	}
	before := b.thrash.paused.Load()
	now := b.thrash.pauses(uint64(b.arena.Stats().Objects), flow{
		evicted:  b.moved[backends.MovedEvicted].Load(),
		refused:  b.refused[backends.RefusedFull].Load(),
		refaults: b.host.Refaults(),
	}, time.Now())
	if now && !before {
		b.moved[backends.EvictionPaused].Add(1)
	}
	return now
}

// pagesIn estimates how many pages so many bytes hold.
func (b *background) pagesIn(bytes int64) uint64 {
	s := b.arena.Stats()
	pages := bytes / max(1, s.UsedBytes/max(1, s.Objects))
	return uint64(min(max(pages, evictLeast), evictMost))
}

// evict asks the host. It returns at once when the background ends, see stop.
func (b *background) evict(n uint64) (uint64, error) {
	type result struct {
		moved uint64
		err   error
	}
	done := make(chan result, 1)
	b.evictions.Go(func() {
		moved, err := b.host.Evict(b.ctx, n)
		done <- result{moved, err}
	})
	select {
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	case r := <-done:
		b.moved[backends.MovedEvicted].Add(r.moved)
		if r.err != nil && b.ctx.Err() == nil {
			b.moved[backends.EvictionFailed].Add(1)
			b.log.Warn("pages cannot be evicted", "moved", r.moved, "error", r.err)
		}
		return r.moved, r.err
	}
}

// tidy compacts when more than a hundredth of what is held is not in use. The
// tails of chunks alone can be that; then there is nothing to be found, which
// takes some microseconds.
func (b *background) tidy() {
	s := b.arena.Stats()
	if s.HeldBytes-s.UsedBytes > s.HeldBytes/100 {
		b.compact(compactChunks)
	}
}

// compact empties up to so many chunks.
func (b *background) compact(chunks int) {
	if !b.compacting.TryLock() { // a background that is about to end has it
		return
	}
	defer b.compacting.Unlock()
	b.arena.Compact(chunks, func(ref arena.Ref) bool { return b.ctx.Err() == nil && b.move(ref) })
}

// move gives an object another slot.
func (b *background) move(ref arena.Ref) bool {
	was, ok := b.arena.Snapshot(ref, nil)
	if !ok || Codec(was.Codec) == Raw && was.Flags&flagSettled == 0 {
		return false // the queue of staged pages knows it by this name
	}
	if was.Droppable {
		return b.moveEphemeral(ref, was)
	}
	if isContent(was) {
		moved := b.moveContent(ref, was, nil)
		if moved {
			b.moved[backends.MovedCompacted].Add(1)
		}
		return moved
	}
	var to arena.Ref
	made := false
	ok = b.host.Rehandle(backends.Key{Export: was.Export, Page: was.Page}, backends.Handle(ref), func() (backends.Handle, bool) {
		now, ok := b.arena.Get(ref)
		if !ok || now.Export != was.Export || now.Page != was.Page {
			return 0, false
		}
		to, made = b.arena.Put(now)
		return backends.Handle(to), made
	})
	switch {
	case ok:
		b.arena.Free(ref)
		if isCompressed(was) {
			b.note(b.domainOf(was.Export), was.Sum, to)
		}
		b.moved[backends.MovedCompacted].Add(1)
	case made:
		b.arena.Free(to)
	default:
		b.moved[backends.MovedContended].Add(1)
	}
	return ok
}
