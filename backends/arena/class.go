package arena

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// chunk is the bookkeeping for one chunk. Its fields are guarded by the lock of
// the class that it belongs to, or by the pool's if it belongs to none.
type chunk struct {
	// class is the number of the class, 0 if the chunk is free. Written by the
	// holder of the guarding lock; read without one to check a Ref.
	class atomic.Uint32
	// next and prev are chunk numbers + 1 in the list that the chunk is in.
	next, prev uint32
	free       uint16 // first free slot + 1
	bump       uint16 // slots from here on were never taken
	used       uint16 // slots taken
	touched    uint8  // pages of the system, from the front, that may have memory
	leaving    bool   // Compact is emptying it: it is in no list
}

// full says whether nothing is left to take. A full chunk is in no list.
func (c *chunk) full(slots int64) bool { return c.free == 0 && int64(c.bump) >= slots }

// class is one size of slots and the chunks that are cut up so.
type class struct {
	number uint32 // immutable
	size   int64  // bytes of a slot; immutable
	least  int64  // bytes of the largest object, with header, that is too small for the class; immutable
	slots  int64  // slots in a chunk; immutable

	droppable bool // holds droppable objects only; immutable

	mu        sync.Mutex
	partial   uint32 // first chunk with free slots + 1; guarded by mu
	held      int64  // chunks; guarded by mu
	objects   int64  // guarded by mu
	dataBytes int64  // guarded by mu

	_ [64]byte // keeps neighbouring classes' locks out of one cache line
}

// cuts yields the sizes of slots, from the smallest on, each with the one before it,
// up to the first in which every object fits.
func cuts(yield func(size, least int64) bool) {
	least := int64(0)
	for size := int64(RefUnit); ; size += RefUnit {
		size = ChunkSize / (ChunkSize / size) / RefUnit * RefUnit
		if !yield(size, least) || size >= headerSize+MaxData {
			return
		}
		least = size
	}
}

// HeldFor is what an object with so much data, 1 to MaxData, takes of the system's
// memory in chunks that are full: its slot, and its part of what is left at the end of
// a chunk. It is for those who have no arena.
func HeldFor(length int) float64 {
	for size := range cuts {
		if headerSize+int64(length) <= size {
			return ChunkSize / float64(ChunkSize/size)
		}
	}
	return ChunkSize
}

// makeClasses cuts chunks into each number of slots that makes a difference: of
// two sizes of which as many fit into a chunk, only the larger is a class. Up to
// 1,440 bytes that is every multiple of 32, above it sizes such as 64 KiB / 20.
//
// On pages of real processes steps of 32 bytes leave a third less unused than
// steps of 64, and steps of 16 gain nothing more; unmerged, the sizes above 1,440
// only share out the same chunks among more classes.
func (a *Arena) makeClasses() {
	a.classes = make([]class, 1, 192)
	for size, least := range cuts {
		slots := ChunkSize / size
		number := len(a.classes)
		a.classes = append(a.classes, class{number: uint32(number), size: size, least: least, slots: slots})
		for units := least/RefUnit + 1; units <= size/RefUnit && units < int64(len(a.classFor)); units++ {
			a.classFor[units] = uint8(number)
		}
	}
	// The same once more, for droppable objects.
	a.sizes = len(a.classes) - 1
	for i := range a.sizes {
		c := &a.classes[i+1]
		a.classes = append(a.classes, class{number: uint32(len(a.classes)), size: c.size, least: c.least, slots: c.slots, droppable: true})
	}
}

// classOfObject is the class that the object belongs in.
func (a *Arena) classOfObject(o Object) *class {
	number := int(a.classFor[(headerSize+len(o.Data)+RefUnit-1)/RefUnit])
	if o.Droppable {
		number += a.sizes
	}
	return &a.classes[number]
}

// SlotSize is the bytes of memory that an object with so much data takes, 1 to MaxData.
func (a *Arena) SlotSize(length int) int64 {
	return a.classes[a.classFor[(headerSize+length+RefUnit-1)/RefUnit]].size
}

// fits says whether data of the length belongs in this class and no other.
func (c *class) fits(length int64) bool {
	size := length + headerSize
	return length > 0 && size <= c.size && size > c.least
}

// take finds a slot for data of the length and marks it as filling.
func (a *Arena) take(c *class, length int64) (offset int64, ok bool) {
	offset, ok, spare := a.takeSlot(c, length)
	if spare >= 0 {
		a.pool.put(spare)
	}
	return offset, ok
}

// takeSlot is take, but for a chunk that could not be used after all, which the
// caller puts into the pool, without the class's lock; -1 if there is none.
func (a *Arena) takeSlot(c *class, length int64) (offset int64, ok bool, spare int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.partial == 0 && !a.growLocked(c) {
			return 0, false, -1
		}
		n := int(c.partial - 1)
		chunk := &a.chunks[n]
		offset, ok, err := a.popLocked(c, n)
		if err != nil {
			// The memory folder is full. What other chunks have free is found when
			// something is freed there, which puts them first.
			return 0, false, a.dropUnusedLocked(c, n)
		}
		if chunk.full(c.slots) {
			a.unlinkLocked(c, n)
		}
		if ok {
			chunk.used++
			c.objects++
			c.dataBytes += length
			a.used.Add(c.size)
			atomic.StoreUint64(a.word0(offset), filling)
			return offset, true, -1
		}
		// Only damage gets here: a chunk that had free slots has none now.
	}
}

// dropUnusedLocked takes a chunk without a live slot out of the class (A4), and
// returns its number, or -1 if it has one.
func (a *Arena) dropUnusedLocked(c *class, n int) int {
	if a.chunks[n].used > 0 {
		return -1
	}
	a.unlinkLocked(c, n)
	a.holdLocked(c, -1)
	a.chunks[n].class.Store(0)
	return n
}

// popLocked takes a slot off the chunk's free list, or one never taken, so that
// memory which was not touched yet stays so for as long as possible. An error says
// that there is no memory for it.
func (a *Arena) popLocked(c *class, n int) (offset int64, ok bool, err error) {
	chunk := &a.chunks[n]
	base := int64(n) * ChunkSize
	if chunk.free != 0 {
		offset = base + int64(chunk.free-1)*c.size
		link := binary.LittleEndian.Uint64(a.word1(offset))
		if a.isFree(offset) && link <= uint64(chunk.bump) {
			chunk.free = uint16(link)
			return offset, true, nil
		}
		chunk.free = 0 // A2: the list is damaged
	}
	if int64(chunk.bump) >= c.slots {
		return 0, false, nil
	}
	if err := a.touchLocked(n, int64(chunk.bump+1)*c.size); err != nil {
		return 0, false, err
	}
	offset = base + int64(chunk.bump)*c.size
	chunk.bump++
	return offset, true, nil
}

// touchLocked counts the chunk's first bytes as having memory from now on (A5),
// and claims that memory where it has to be: a system call, for the first touch of
// each page of a chunk only.
func (a *Arena) touchLocked(n int, bytes int64) error {
	chunk := &a.chunks[n]
	pages := uint8((bytes + pageSize - 1) / pageSize)
	if pages <= chunk.touched {
		return nil
	}
	more := int64(pages-chunk.touched) * pageSize
	if err := a.region.Claim(int64(n)*ChunkSize+int64(chunk.touched)*pageSize, more); err != nil {
		return err
	}
	a.touched.Add(more)
	chunk.touched = pages
	return nil
}

// growLocked gives the class a chunk from the pool.
func (a *Arena) growLocked(c *class) bool {
	n, ok := a.pool.take()
	if !ok {
		return false
	}
	chunk := &a.chunks[n]
	chunk.free, chunk.bump, chunk.used, chunk.leaving = 0, 0, 0, false
	// A chunk that has memory was cut up otherwise, and what is a header now was
	// data. The rest reads as zeros and is not to be touched.
	if a.scrubbing.Load() > 0 {
		clear(a.memory[int64(n)*ChunkSize:][:int64(chunk.touched)*pageSize])
	}
	for at := int64(0); at < min(int64(chunk.touched)*pageSize, c.slots*c.size); at += c.size {
		atomic.StoreUint64(a.word0(int64(n)*ChunkSize+at), 0)
	}
	a.holdLocked(c, 1)
	chunk.class.Store(c.number)
	a.linkLocked(c, n)
	return true
}

// holdLocked counts chunks that the class gets, or gives away.
func (a *Arena) holdLocked(c *class, chunks int64) {
	c.held += chunks
	if c.droppable {
		a.droppable.Add(chunks)
	}
}

// release frees the slot. empty says that the chunk left the class and is the
// caller's to put into the pool, without this lock.
func (a *Arena) release(c *class, n int, offset int64) (freed, empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.releaseLocked(c, n, offset)
}

func (a *Arena) releaseLocked(c *class, n int, offset int64) (freed, empty bool) {
	chunk := &a.chunks[n]
	slot := (offset - int64(n)*ChunkSize) / c.size
	if chunk.class.Load() != c.number || slot >= int64(chunk.bump) || chunk.used == 0 || a.isFree(offset) {
		return false, false
	}
	// The length counts only if it belongs here: after damage to a header the
	// total is off by less than the class's span for each damaged object.
	length := lengthOf(atomic.LoadUint64(a.word0(offset)))
	if !c.fits(length) {
		length = c.size - headerSize
	}
	c.dataBytes -= length
	c.objects--
	a.used.Add(-c.size)

	listed := !chunk.full(c.slots) && !chunk.leaving
	atomic.StoreUint64(a.word0(offset), 0)
	binary.LittleEndian.PutUint64(a.word1(offset), uint64(chunk.free))
	chunk.free = uint16(slot + 1)
	chunk.used--

	switch {
	case chunk.used == 0:
		if listed {
			a.unlinkLocked(c, n)
		}
		a.holdLocked(c, -1)
		chunk.leaving = false
		chunk.class.Store(0)
		return true, true
	case !listed && !chunk.leaving:
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
