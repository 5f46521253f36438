package ramster

import (
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pressure"
)

// flagHome is the flag of a page that came home: it is here as a staged page is, but
// not to be sent.
const flagHome = 1

// home is the pages that came home because this host has memory to spare, up to a limit
// that follows its memory pressure between 0 and Config.Home: what the kernel called
// frontswap_selfshrinking did so to lose less with a host, and to load faster.
type home struct {
	limit atomic.Int64  // of the arena, for pages at home
	bytes atomic.Int64  // that they take
	came  atomic.Uint64 // pages that came home
	left  atomic.Uint64 // pages that were sent out again

	// Where the walks go on. The keeper's.
	export uint32
	page   uint64
	chunk  int
}

// follow keeps the limit as the host's memory pressure has it.
func (b *background) follow() {
	if b.config.Home == 0 {
		return
	}
	b.sizer.Run(b.ctx, b, func(err error) {
		b.config.Log.Warn("pages do not come home, nor go out, as the host's memory pressure has it", "error", err)
	})
}

// Size implements [pressure.Pool].
func (b *background) Size() (pressure.Size, bool) {
	return pressure.Size{Held: b.home.bytes.Load(), Target: b.home.limit.Load(), Max: b.config.Home}, true
}

// Resize implements [pressure.Pool].
func (b *background) Resize(target int64) {
	b.home.limit.Store(min(max(target, 0), b.config.Home))
	b.wakeKeeper()
}

// Thrashing implements [pressure.Pool]: a page that goes out is loaded as before.
func (b *background) Thrashing() bool { return false }

// commute brings pages home while there is room for them, or sends them out. It
// returns in time for the keeper's other duties.
func (k *keeper) commute() {
	until := time.Now().Add(keepEvery / 2)
	switch limit := k.home.limit.Load(); {
	case k.home.bytes.Load() > limit:
		k.sendOut(limit, until)
	case k.home.bytes.Load() < limit-limit/pressure.Hysteresis && k.stubs.Load() > 0:
		k.bringHome(limit, until)
	}
}

// bringHome goes on through the pages that donors have, one round at most.
func (k *keeper) bringHome(limit int64, until time.Time) {
	for id, e := range *k.exports.Load() {
		if e.ephemeral {
			continue
		}
		from := uint64(0)
		if id == k.home.export {
			from = k.home.page
		}
		e.life.RLock()
		e.pages.Range(from, func(page, _ uint64) bool {
			if k.ctx.Err() != nil || e.closed.Load() || k.home.bytes.Load() >= limit || time.Now().After(until) {
				k.home.export, k.home.page = id, page
				return false
			}
			k.home.page = 0
			k.bringPage(e, backends.Key{Export: id, Page: page})
			return true
		})
		e.life.RUnlock()
	}
}

// bringPage fetches a page and keeps it here, compressed as it was sent.
func (k *keeper) bringPage(e *export, key backends.Key) {
	s, o, ref, ok := k.stubOf(e, key)
	if !ok {
		return
	}
	if !k.fetchFrom(k.plan(s).sources, key, s, o.Sum) {
		return
	}
	length := k.waiter.length
	next := o
	next.Codec, next.Flags = k.waiter.plain[0], flagHome
	next.Data = k.waiter.plain[sealedHeader : length-sealOverhead+sealedHeader]
	if k.replaceByPage(e, ref, next, s) {
		k.home.came.Add(1)
		k.flush(key, s)
	}
	k.pace(length)
}

// replaceByPage makes a page that came home the copy that counts, if was is still its
// stub.
func (k *keeper) replaceByPage(e *export, ref arena.Ref, next arena.Object, was stub) bool {
	size := stagedSlot(len(next.Data))
	return k.replace(e, ref, next, was,
		func(arena.Object) (arena.Ref, bool) {
			to, made := k.arena.Put(next)
			if made && int64(k.arena.Room()) < k.config.stubChunks() { // without stubs no staged page leaves
				k.arena.Free(to)
				made = false
			}
			if made {
				k.home.bytes.Add(size)
				e.pages.Delete(next.Page)
			}
			return to, made
		},
		func(to arena.Ref) {
			k.arena.Free(to)
			k.home.bytes.Add(-size)
		})
}

// sendOut makes staged pages of pages at home, as far as the staging area has room.
func (k *keeper) sendOut(limit int64, until time.Time) {
	for range k.arena.Chunks() {
		k.home.chunk++
		if k.home.chunk >= k.arena.Chunks() {
			k.home.chunk = 0
		}
		k.refs = k.arena.Refs(k.home.chunk, k.refs[:0])
		for _, ref := range k.refs {
			if k.ctx.Err() != nil || k.home.bytes.Load() <= limit || k.stagedBytes.Load() > k.config.Staging/2 || time.Now().After(until) {
				return
			}
			if o, ok := k.arena.Snapshot(ref, nil); ok && isHome(o) {
				k.sendPage(staged{backends.Key{Export: o.Export, Page: o.Page}, ref})
			}
		}
	}
}

func (k *keeper) sendPage(page staged) {
	sent := false
	k.host.Rehandle(page.key, backends.Handle(page.ref), func() (backends.Handle, bool) {
		o, ok := k.arena.Get(page.ref)
		if ok && isHome(o) && o.Export == page.key.Export && o.Page == page.key.Page && k.arena.Mark(page.ref, 0, flagHome) {
			size := stagedSlot(len(o.Data))
			k.stagedBytes.Add(size)
			k.home.bytes.Add(-size)
			sent = true
		}
		return 0, false // the handle stays
	})
	if sent {
		k.home.left.Add(1)
		k.restage(page)
	}
}

// isHome says whether an object is a page that came home.
func isHome(o arena.Object) bool {
	return (o.Codec == codecLZ4 || o.Codec == codecRaw) && o.Flags&flagHome != 0
}
