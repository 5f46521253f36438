package arena

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// chunk is the bookkeeping for one chunk. Its fields are guarded by the lock of
// the class that it belongs to, or by the pool's if it belongs to none.
type chunk struct {
	// class is the slot size in steps, 0 if the chunk is free. Written by the
	// holder of the guarding lock; read without one to check a Ref.
	class atomic.Uint32
	// next and prev are chunk numbers + 1 in the list that the chunk is in.
	next, prev uint32
	free       uint16 // first free slot + 1
	bump       uint16 // slots from here on were never taken
	used       uint16 // slots taken
}

// full says whether nothing is left to take. A full chunk is in no list.
func (c *chunk) full(slots int64) bool { return c.free == 0 && int64(c.bump) >= slots }

// class is one size of slots and the chunks that are cut up so.
type class struct {
	size  int64 // bytes of a slot; immutable
	slots int64 // slots in a chunk; immutable

	mu        sync.Mutex
	partial   uint32 // first chunk with free slots + 1; guarded by mu
	objects   int64  // guarded by mu
	dataBytes int64  // guarded by mu

	_ [64]byte // keeps neighbouring classes' locks out of one cache line
}

// fits says whether data of the length belongs in this class and no other.
func (c *class) fits(length int64) bool {
	size := length + headerSize
	return length > 0 && size <= c.size && size > c.size-classStep
}

// take finds a slot for data of the length and marks it as filling.
func (a *Arena) take(c *class, length int64) (offset int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.partial == 0 && !a.growLocked(c) {
			return 0, false
		}
		n := int(c.partial - 1)
		chunk := &a.chunks[n]
		offset, ok := a.popLocked(c, n)
		if chunk.full(c.slots) {
			a.unlinkLocked(c, n)
		}
		if ok {
			chunk.used++
			c.objects++
			c.dataBytes += length
			atomic.StoreUint64(a.word0(offset), filling)
			return offset, true
		}
		// Only damage gets here: a chunk that had free slots has none now.
	}
}

// popLocked takes a slot off the chunk's free list, or one never taken, so that
// memory which was not touched yet stays so for as long as possible.
func (a *Arena) popLocked(c *class, n int) (offset int64, ok bool) {
	chunk := &a.chunks[n]
	base := int64(n) * ChunkSize
	if chunk.free != 0 {
		offset = base + int64(chunk.free-1)*c.size
		link := binary.LittleEndian.Uint64(a.word1(offset))
		if a.isFree(offset) && link <= uint64(chunk.bump) {
			chunk.free = uint16(link)
			return offset, true
		}
		chunk.free = 0 // A2: the list is damaged
	}
	if int64(chunk.bump) >= c.slots {
		return 0, false
	}
	offset = base + int64(chunk.bump)*c.size
	chunk.bump++
	return offset, true
}

// growLocked gives the class a chunk from the pool.
func (a *Arena) growLocked(c *class) bool {
	n, warm, ok := a.pool.take()
	if !ok {
		return false
	}
	chunk := &a.chunks[n]
	chunk.free, chunk.bump, chunk.used = 0, 0, 0
	if warm {
		// It was cut up otherwise, and what is a header now was data. A cold
		// chunk reads as zeros and is not to be touched.
		for slot := range c.slots {
			atomic.StoreUint64(a.word0(int64(n)*ChunkSize+slot*c.size), 0)
		}
	}
	chunk.class.Store(uint32(c.size / classStep))
	a.linkLocked(c, n)
	return true
}

// release frees the slot. empty says that the chunk left the class and is the
// caller's to put into the pool, without this lock.
func (a *Arena) release(c *class, n int, offset int64) (freed, empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	slot := (offset - int64(n)*ChunkSize) / c.size
	if int64(chunk.class.Load())*classStep != c.size || slot >= int64(chunk.bump) || chunk.used == 0 || a.isFree(offset) {
		return false, false
	}
	// The length counts only if it belongs here: after damage to a header the
	// total is off by less than a step for each damaged object.
	length := lengthOf(atomic.LoadUint64(a.word0(offset)))
	if !c.fits(length) {
		length = c.size - headerSize
	}
	c.dataBytes -= length
	c.objects--

	wasFull := chunk.full(c.slots)
	atomic.StoreUint64(a.word0(offset), 0)
	binary.LittleEndian.PutUint64(a.word1(offset), uint64(chunk.free))
	chunk.free = uint16(slot + 1)
	chunk.used--

	switch {
	case chunk.used == 0:
		if !wasFull {
			a.unlinkLocked(c, n)
		}
		chunk.class.Store(0)
		return true, true
	case wasFull:
		a.linkLocked(c, n)
	}
	return true, false
}

// linkLocked puts the chunk at the head of the class's list.
func (a *Arena) linkLocked(c *class, n int) {
	chunk := &a.chunks[n]
	chunk.prev, chunk.next = 0, c.partial
	if chunk.next != 0 {
		a.chunks[chunk.next-1].prev = uint32(n + 1)
	}
	c.partial = uint32(n + 1)
}

// unlinkLocked takes the chunk out of the class's list.
func (a *Arena) unlinkLocked(c *class, n int) {
	chunk := &a.chunks[n]
	if chunk.prev != 0 {
		a.chunks[chunk.prev-1].next = chunk.next
	} else {
		c.partial = chunk.next
	}
	if chunk.next != 0 {
		a.chunks[chunk.next-1].prev = chunk.prev
	}
	chunk.next, chunk.prev = 0, 0
}
