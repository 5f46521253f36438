package arena

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// survey is what an arena that was opened knows before it is settled: which
// objects somebody claimed. It is beside the memory, which stays as it was found.
type survey struct {
	resident []uint16 // for each chunk: a bit for each page of the system that was touched
	first    []uint32 // for each chunk: the place of its slot 0 in claimed
	claimed  []uint64 // a bit for each slot that there can be
}

// Open opens an arena that an earlier process left at a place, however it ended.
// Until Settle, Get and Claim are all that may be called but Stats, Usage and
// Close, and nothing in the memory is changed. limit is as in New; the capacity is
// what it was.
func Open(at Place, purpose string, limit int64) (*Arena, error) {
	region, _, err := at.Folder.Open(at.Name+regionName, purpose)
	if err != nil {
		return nil, err
	}
	table, _, err := at.Folder.Open(at.Name+tableName, tablePurpose(purpose))
	if err != nil {
		return nil, errors.Join(err, region.Leave())
	}
	capacity := int64(len(region.Bytes()))
	err = checkLimit(purpose, limit, capacity)
	if capacity%ChunkSize != 0 || int64(len(table.Bytes())) != tableSize(capacity/ChunkSize) {
		err = fmt.Errorf("the %s has %d bytes, its chunk table %d: %w", purpose, capacity, len(table.Bytes()), sharedmem.ErrDamaged)
	}
	if err != nil {
		return nil, errors.Join(err, region.Leave(), table.Leave())
	}
	a := assemble(region, table, limit)
	a.survey = a.newSurvey()
	return a, nil
}

func (a *Arena) newSurvey() *survey {
	s := &survey{resident: make([]uint16, len(a.chunks)), first: make([]uint32, len(a.chunks))}
	for start, end := a.region.Touched(0); start < end; start, end = a.region.Touched(end) {
		for n := start / ChunkSize; n*ChunkSize < end; n++ {
			from, to := max(0, start-n*ChunkSize), min(end-n*ChunkSize, ChunkSize)
			s.resident[n] |= pagesOf(from, to)
		}
	}
	slots := uint32(0)
	for n := range a.chunks {
		s.first[n] = slots
		if c := a.classOf(n); c != nil && s.resident[n] > 0 {
			slots += uint32(c.slots)
		}
	}
	s.claimed = make([]uint64, (slots+63)/64)
	return s
}

// classOf is the class of a chunk, or nil if it has none, or none that there is.
func (a *Arena) classOf(n int) *class {
	number := a.chunks[n].class.Load()
	if number == 0 || number >= uint32(len(a.classes)) {
		return nil
	}
	return &a.classes[number]
}

// bit is the place of a slot's bit in claimed.
func (s *survey) bit(n int, slot int64) (word *uint64, mask uint64) {
	at := int64(s.first[n]) + slot
	return &s.claimed[at/64], 1 << (at % 64)
}

// pagesOf has a bit for each page of the system in bytes from to before to of a
// chunk.
func pagesOf(from, to int64) uint16 {
	first, last := from/pageSize, (to+pageSize-1)/pageSize
	return uint16(1<<last - 1<<first)
}

// has says whether so many bytes at offset are in memory that was touched. To look
// elsewhere would take memory, or fault where there is none to be had.
func (s *survey) has(n int, offset, length int64) bool {
	pages := pagesOf(offset%ChunkSize, offset%ChunkSize+length)
	return s.resident[n]&pages == pages
}

// read is Arena.read, of a slot that may not be there.
func (s *survey) read(a *Arena, n int, offset int64, c *class) (Object, bool) {
	if !s.has(n, offset, headerSize) {
		return Object{}, false
	}
	o, ok := a.read(offset, c)
	return o, ok && s.has(n, offset, headerSize+int64(len(o.Data)))
}

// Claim keeps the object under ref, and returns it: its Data is the arena's. It
// returns false if there is none, none of that page, if it was claimed before, or
// if it is droppable: nobody remembers those (A9).
// For one goroutine. REQUIRES: between Open and Settle.
func (a *Arena) Claim(ref Ref, export uint32, page uint64) (Object, bool) {
	n, c, offset, ok := a.locate(ref)
	if !ok || c.droppable {
		return Object{}, false
	}
	o, ok := a.survey.read(a, n, offset, c)
	if !ok || o.Export != export || o.Page != page {
		return Object{}, false
	}
	word, mask := a.survey.bit(n, offset%ChunkSize/c.size)
	if *word&mask != 0 {
		return Object{}, false
	}
	*word |= mask
	return o, true
}

// Unclaimed counts the live objects that nobody claimed, but for droppable ones.
// REQUIRES: between Open and Settle.
func (a *Arena) Unclaimed() (n int64) {
	a.Left(func(Ref, Object) { n++ })
	return n
}

// Left calls visit for each live object that nobody claimed so far, in no order: for
// those whose names of objects went with the process.
// REQUIRES: between Open and Settle; visit may Claim.
func (a *Arena) Left(visit func(Ref, Object)) {
	for chunk := range a.chunks {
		c := a.classOf(chunk)
		if c == nil || c.droppable || a.survey.resident[chunk] == 0 {
			continue
		}
		for slot := range c.slots {
			offset := int64(chunk)*ChunkSize + slot*c.size
			o, live := a.survey.read(a, chunk, offset, c)
			if word, mask := a.survey.bit(chunk, slot); live && *word&mask == 0 {
				visit(Ref(offset/RefUnit), o)
			}
		}
	}
}

// Settle ends what Open began: objects that were not claimed are freed, everything
// but the headers is made anew from them, and memory behind the last object of
// each chunk goes back to the system. It returns how many objects were freed;
// slots that were being filled and droppable objects are not counted.
func (a *Arena) Settle() (freed int64, err error) {
	if err := a.table.Claim(0, int64(len(a.table.Bytes()))); err != nil {
		return 0, err
	}
	s := a.survey
	empty := int64(0) // what lies from here to the next object is not in use
	var cold []int
	for n := range a.chunks {
		more, err := a.settleChunk(s, n, a.classOf(n))
		freed += more
		if err != nil {
			return freed, err
		}
		base := int64(n) * ChunkSize
		if a.chunks[n].used == 0 {
			cold = append(cold, n)
			continue
		}
		if err := a.punch(empty, base); err != nil {
			return freed, err
		}
		a.pool.bump, a.pool.heldCount = n+1, a.pool.heldCount+1
		empty = base + int64(a.chunks[n].touched)*pageSize
	}
	if err := a.punch(empty, int64(len(a.memory))); err != nil {
		return freed, err
	}
	// The lowest first, as they were handed out.
	for i := len(cold) - 1; i >= 0; i-- {
		if n := cold[i]; n < a.pool.bump {
			a.chunks[n].next = a.pool.cold
			a.pool.cold = uint32(n + 1)
		}
	}
	a.pool.mu.Lock()
	a.pool.countLocked()
	a.pool.mu.Unlock()
	a.survey = nil
	return freed, nil
}

func (a *Arena) punch(from, to int64) error {
	if from >= to {
		return nil
	}
	return a.region.Punch(from, to-from)
}

// settleChunk makes the bookkeeping of one chunk anew, of class c or none. If no
// object in it is live, it has no class any more.
func (a *Arena) settleChunk(s *survey, n int, c *class) (freed int64, err error) {
	chunk := &a.chunks[n]
	chunk.next, chunk.prev, chunk.free, chunk.bump, chunk.used, chunk.touched, chunk.leaving = 0, 0, 0, 0, 0, 0, false
	if c == nil || s.resident[n] == 0 {
		chunk.class.Store(0)
		return 0, nil
	}
	base := int64(n) * ChunkSize
	for slot := range c.slots {
		offset := base + slot*c.size
		if word, mask := s.bit(n, slot); *word&mask != 0 {
			c.objects++
			c.dataBytes += lengthOf(atomic.LoadUint64(a.word0(offset)))
			chunk.used++
			chunk.bump = uint16(slot + 1)
			continue
		}
		if _, live := s.read(a, n, offset, c); live && !c.droppable {
			freed++
		}
		// Live, being filled, free or damaged: it is free now.
		if s.has(n, offset, headerSize) && !a.isFree(offset) {
			atomic.StoreUint64(a.word0(offset), 0)
		}
	}
	if chunk.used == 0 {
		chunk.class.Store(0)
		return freed, nil
	}
	length := int64(chunk.bump) * c.size
	chunk.touched = uint8((length + pageSize - 1) / pageSize)
	if !s.has(n, base, length) {
		// Slots whose filling never began. Their memory is there, claimed and
		// untouched, as far as nothing is damaged.
		if err := a.region.Claim(base, int64(chunk.touched)*pageSize); err != nil {
			return freed, err
		}
	}
	for slot := int64(chunk.bump) - 1; slot >= 0; slot-- {
		if word, mask := s.bit(n, slot); *word&mask == 0 {
			binary.LittleEndian.PutUint64(a.word1(base+slot*c.size), uint64(chunk.free))
			chunk.free = uint16(slot + 1)
		}
	}
	c.held++
	a.used.Add(int64(chunk.used) * c.size)
	a.touched.Add(int64(chunk.touched) * pageSize)
	if !chunk.full(c.slots) {
		a.linkLocked(c, n)
	}
	return freed, nil
}
