package arena

// scanChunks bounds how many chunks of a class are looked at, with its lock
// held, to find a sparse one.
const scanChunks = 256

// Refs appends the names of the live objects in a chunk, by its number, to refs,
// which is returned. Chunks are numbered from 0; see Chunks.
func (a *Arena) Refs(n int, refs []Ref) []Ref {
	if n < 0 || n >= len(a.chunks) {
		return refs
	}
	number := a.chunks[n].class.Load()
	if number == 0 {
		return refs
	}
	c := &a.classes[number]
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.refsLocked(c, n, refs)
}

func (a *Arena) refsLocked(c *class, n int, refs []Ref) []Ref {
	chunk := &a.chunks[n]
	if chunk.class.Load() != c.number {
		return refs
	}
	for slot := range int64(chunk.bump) {
		offset := int64(n)*ChunkSize + slot*c.size
		if _, ok := a.read(offset, c); ok {
			refs = append(refs, Ref(offset/RefUnit))
		}
	}
	return refs
}

// Snapshot is Get for those who do not know that the object stays: the result is
// a copy, its Data in buffer if that is not nil and has room, else nil. The object
// may be gone when it returns, and another one be there.
func (a *Arena) Snapshot(ref Ref, buffer []byte) (Object, bool) {
	n, c, offset, ok := a.locate(ref)
	if !ok {
		return Object{}, false
	}
	// With the lock, a live slot stays live and as it is: it is filled before it
	// is live (A1), and Free needs the lock.
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	if chunk.class.Load() != c.number || offset%ChunkSize/c.size >= int64(chunk.bump) {
		return Object{}, false // not touched: the memory may be back with the system
	}
	o, ok := a.read(offset, c)
	if !ok || len(buffer) < len(o.Data) {
		o.Data = nil
		return o, ok
	}
	o.Data = buffer[:copy(buffer, o.Data)]
	return o, true
}

// Movable says how many chunks Compact could free if every object lets itself be
// moved.
func (a *Arena) Movable() (chunks int) {
	for i := 1; i < len(a.classes); i++ {
		c := &a.classes[i]
		c.mu.Lock()
		chunks += int((c.held*c.slots - c.objects) / c.slots)
		c.mu.Unlock()
	}
	return chunks
}

// Compact empties up to limit sparse chunks and gives them back, and returns how
// many became empty. For each object in them it calls move, which is to Put the
// object anew, make the copy the one that counts, and Free the first; Put finds a
// slot elsewhere. move returns false if the object has to stay.
//
// The chunk that is taken has the fewest objects. They fit into others of its
// class, or what does not gets to the front of a fresh chunk, and that gives back
// at least two pages of the system.
func (a *Arena) Compact(limit int, move func(Ref) bool) (freed int) {
	a.pool.trim()
	var refs []Ref
	for i := 1; i < len(a.classes) && freed < limit; i++ {
		c := &a.classes[i]
		for freed < limit {
			n, found, ok := a.pick(c, refs[:0])
			if !ok {
				break
			}
			refs = found
			for _, ref := range refs {
				move(ref)
			}
			if !a.left(c, n) {
				break
			}
			freed++
			// Not kept warm: a fresh chunk for packing is one without memory.
			a.pool.trim()
		}
	}
	return freed
}

// pick takes the chunk to be emptied out of the class's list, so that nothing is
// put there, and appends the names of its objects to refs.
func (a *Arena) pick(c *class, refs []Ref) (n int, found []Ref, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.partial == 0 {
		return 0, nil, false
	}
	n = int(c.partial - 1)
	at := a.chunks[n].next
	for range scanChunks {
		if at == 0 {
			break
		}
		if a.chunks[at-1].used < a.chunks[n].used {
			n = int(at - 1)
		}
		at = a.chunks[at-1].next
	}
	chunk := &a.chunks[n]
	used := int64(chunk.used)
	elsewhere := c.held*c.slots - c.objects - (c.slots - used)
	rest := max(0, used-elsewhere) // go to the front of a fresh chunk
	pages := (rest*c.size + pageSize - 1) / pageSize
	if rest > 0 && (int64(chunk.touched) < pages+2 || a.pool.room() <= 0) {
		return 0, nil, false
	}
	a.unlinkLocked(c, n)
	chunk.leaving = true
	return n, a.refsLocked(c, n, refs), true
}

// left ends what pick began, and says whether the chunk became empty.
func (a *Arena) left(c *class, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	if chunk.class.Load() != c.number || !chunk.leaving {
		return true
	}
	chunk.leaving = false
	if !chunk.full(c.slots) {
		a.linkLocked(c, n)
	}
	return false
}

// Chunks is the number of chunks, from 0 on, that were ever in use.
func (a *Arena) Chunks() int {
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	return a.pool.bump
}
