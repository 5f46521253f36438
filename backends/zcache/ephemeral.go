package zcache

import (
	"hash/crc32"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// Pages of ephemeral exports are droppable objects of the arena. They are there as
// long as nobody needs the room:
//
//	dropped by          | which                         | how many
//	room (background)   | not used since the last round | until there is room again
//	a store of its sort | the same; then a whole chunk  | a few chunks of them
//	any other store     | all, chunk after chunk        | until the page fits
//	a lower limit       | the same                      | until the limit holds
//
// While room is short, one that was not offered before is refused (RefusedOnce):
// it would only push out what is used, and most pages of a long scan never come
// back. ghost.go remembers which pages were offered, or dropped, lately.

const (
	// What an object that nobody has loaded yet begins with: it is dropped the first
	// time around. One that was offered before, and one that is loaded, has age 0.
	ageProbation = 1
	// reclaimAtOnce is how many chunks a store of an ephemeral page looks through for
	// one that it may displace.
	reclaimAtOnce = 8
	// reclaimBatch is how many chunks the background looks through between two looks
	// at the room.
	reclaimBatch = 16
)

// storeEphemeral is Store for a page of an ephemeral export. It is compressed in
// line: it has just been read from a disk, and nobody waits for that any more.
// Incompressible ones are kept as they come, as reading them again costs no less.
func (c *Cache) storeEphemeral(key backends.Key, data []byte) (arena.Ref, backends.Refusal) {
	if c.isFull() {
		return 0, backends.RefusedFull
	}
	age := uint8(ageProbation)
	if c.ghosts.take(key) {
		age = 0
	} else if c.isTight() {
		c.ghosts.note(key)
		return 0, backends.RefusedOnce
	}
	w := c.compressors.claim()
	if w == nil {
		return 0, backends.RefusedBusy
	}
	defer w.release()
	codec, compressed := c.encode(w, c.config.Load().Codec, data)
	if compressed == nil {
		codec, compressed, age = Raw, data, age|flagSettled
	}
	o := arena.Object{
		Export: key.Export, Page: key.Page, Codec: uint8(codec), Flags: age,
		Sum: crc32.Checksum(data, castagnoli), Data: compressed, Droppable: true,
	}
	ref, ok := c.put(o)
	for chunks := 0; !ok && chunks < reclaimAtOnce && c.arena.Reclaim(1, c.dropCold) > 0; chunks++ {
		ref, ok = c.put(o)
	}
	if !ok && c.arena.Reclaim(1, c.dropAny) > 0 {
		// What was dropped has left slots of other sizes. A whole chunk fits any.
		ref, ok = c.put(o)
	}
	if !ok {
		return 0, backends.RefusedFull
	}
	return ref, backends.Accepted
}

// isTight says whether a new ephemeral page would have to displace others soon.
func (c *Cache) isTight() bool { return c.arena.Room() < 2*c.config.Load().lowChunks() }

// loadEphemeral is load for a page that may be dropped meanwhile: of a copy. An
// error is ErrGone itself, which costs nothing; reason is what is wrong with the
// copy, or "".
func (c *Cache) loadEphemeral(key backends.Key, ref arena.Ref, dst []byte) (reason string, err error) {
	w := c.compressors.claim()
	if w == nil {
		return "", backends.ErrGone
	}
	defer w.release()
	o, ok := c.arena.Snapshot(ref, w.out[:])
	if !ok || !o.Droppable || o.Export != key.Export || o.Page != key.Page {
		return "", backends.ErrGone
	}
	return c.restore(o, ref, dst), nil
}

// forgetEphemeral is Invalidate of a page that may have been dropped, and another
// have taken its slot.
func (c *Cache) forgetEphemeral(key backends.Key, ref arena.Ref) {
	if o, ok := c.arena.FreeOf(ref, key.Export, key.Page); ok {
		c.uncount(o)
	}
}

// judgeCold drops what was not loaded since the last look. It and judgeAny are
// called with a lock of the arena held, see [arena.Judge].
func (c *Cache) judgeCold(o arena.Object) (flags uint8, drop bool) {
	if o.Flags&flagAge == 0 {
		return o.Flags | ageProbation, false
	}
	return c.judgeAny(o)
}

// judgeAny drops everything.
func (c *Cache) judgeAny(o arena.Object) (flags uint8, drop bool) {
	c.uncount(o)
	c.ghosts.note(backends.Key{Export: o.Export, Page: o.Page})
	c.moved[backends.MovedDropped].Add(1)
	return 0, true
}

// dropToLimit drops ephemeral pages until the arena is not above its limit.
func (c *Cache) dropToLimit() {
	for c.arena.Room() < 0 && c.arena.Reclaim(1, c.dropAny) > 0 {
	}
}

// dropEphemeral makes room at the cost of ephemeral pages, as far as there are any.
// The second round finds what the first one gave a second chance.
func (b *background) dropEphemeral() {
	low := b.config.Load().lowChunks()
	if b.arena.Room() >= low {
		return
	}
	enough := 2 * low
	for left := 2 * b.arena.Droppable(); left > 0 && b.ctx.Err() == nil; left -= reclaimBatch {
		if b.arena.Room() >= enough {
			return
		}
		if b.arena.Room()+b.arena.Movable() >= enough {
			// Chunks with a few pages that are used: those move together.
			b.compact(enough)
			if b.arena.Room() >= low {
				return
			}
		}
		b.arena.Reclaim(reclaimBatch, b.dropCold)
	}
	for b.arena.Room() < low && b.ctx.Err() == nil && b.arena.Reclaim(1, b.dropAny) > 0 {
	}
}

// moveEphemeral gives a droppable object another slot, from a copy: it may be
// dropped meanwhile. If its own slot is then the one that the copy takes, the copy
// is forgotten with it, which is one more page dropped.
func (b *background) moveEphemeral(ref arena.Ref, was arena.Object) bool {
	w := b.compressors.claim()
	if w == nil {
		return false
	}
	defer w.release()
	key := backends.Key{Export: was.Export, Page: was.Page}
	var to arena.Ref
	made := false
	ok := b.host.Rehandle(key, backends.Handle(ref), func() (backends.Handle, bool) {
		now, ok := b.arena.Snapshot(ref, w.out[:])
		if !ok || !now.Droppable || now.Export != was.Export || now.Page != was.Page {
			return 0, false
		}
		to, made = b.put(now)
		return backends.Handle(to), made
	})
	switch {
	case ok:
		b.forgetEphemeral(key, ref)
		b.moved[backends.MovedCompacted].Add(1)
	case made:
		b.forgetEphemeral(key, to)
	default:
		b.moved[backends.MovedContended].Add(1)
	}
	return ok
}
