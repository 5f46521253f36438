package arena

import "sync/atomic"

// Scrub overwrites what objects of an export that is gone have left, and with it what
// all others have: the data in slots that are free, and of the objects that gone is true for,
// which somebody is about to free. Free chunks are given back to the system, or overwritten
// too if they are kept. When it returns, nothing of the export is in the memory.
// REQUIRES: the export's objects were freed, or will not be used any more. gone is called
// with a lock held and must call nothing of the arena.
//
// Put leaves nothing of an earlier object beside or behind the new one (A10), so slots in use
// need no look. A chunk that leaves the pool meanwhile is overwritten by who takes it.
func (a *Arena) Scrub(gone func(Object) bool) {
	if a.survey != nil {
		return
	}
	a.scrubbing.Add(1)
	defer a.scrubbing.Add(-1)
	for n := range a.Chunks() {
		if c := a.classOf(n); c != nil {
			a.scrubChunk(c, n, gone)
		}
	}
	a.pool.scrub(a.memory)
}

func (a *Arena) scrubChunk(c *class, n int, gone func(Object) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	if chunk.class.Load() != c.number {
		return // in the pool by now, or with another class, who was told
	}
	base := int64(n) * ChunkSize
	for slot := range int64(chunk.bump) {
		offset := base + slot*c.size
		switch o, live := a.read(offset, c); {
		case live && gone(o):
			clear(o.Data)
		case !live && atomic.LoadUint64(a.word0(offset)) == 0: // not one that is being filled
			clear(a.memory[offset+headerSize : offset+c.size])
		}
	}
	if rest := base + int64(chunk.bump)*c.size; rest < base+int64(chunk.touched)*pageSize {
		clear(a.memory[rest : base+int64(chunk.touched)*pageSize])
	}
}

// scrub gives free chunks back to the system, or overwrites them if they are kept: one
// after the other, so that there is always one to be had.
func (p *pool) scrub(memory []byte) {
	p.trim()
	p.mu.Lock()
	count := p.warmCount
	p.mu.Unlock()
	for range count {
		p.mu.Lock()
		if p.warm == 0 {
			p.mu.Unlock()
			return
		}
		n := p.takeWarmLocked()
		p.countLocked()
		touched := int64(p.chunks[n].touched) * pageSize
		p.mu.Unlock()
		clear(memory[int64(n)*ChunkSize:][:touched])
		p.mu.Lock()
		p.chunks[n].next = p.clean
		p.clean = uint32(n + 1)
		p.warmCount++
		p.countLocked()
		p.mu.Unlock()
	}
}

// Wipe is Free that overwrites the object's data first, for what may be freed after the
// Scrub that was meant for it.
func (a *Arena) Wipe(ref Ref) bool {
	n, c, offset, ok := a.locate(ref)
	if !ok {
		return false
	}
	freed, empty := a.wipe(c, n, offset)
	if empty {
		a.pool.put(n)
	}
	return freed
}

func (a *Arena) wipe(c *class, n int, offset int64) (freed, empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if chunk := &a.chunks[n]; chunk.class.Load() == c.number && offset%ChunkSize/c.size < int64(chunk.bump) {
		if o, ok := a.read(offset, c); ok {
			clear(o.Data)
		}
	}
	return a.releaseLocked(c, n, offset)
}
