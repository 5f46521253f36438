package arena

// Judge decides about a droppable object: the flags that it has from now on, or
// that it is dropped. Its Data is good until it returns. It is called with a lock held and must call
// nothing of the arena.
type Judge func(Object) (flags uint8, drop bool)

// Droppable is how many chunks hold droppable objects, without a lock.
func (a *Arena) Droppable() int { return int(a.droppable.Load()) }

// Reclaim shows judge the droppable objects of up to so many chunks, and drops
// those that it says. It goes on where the last call ended, around and around, so
// that a judge who drops what was not used since the last round is a second
// chance. It returns how many chunks it looked at; 0 means that there are none.
//
// To find the next chunk it looks at the class of each on the way: a nanosecond
// for each, which a list of them would save at the cost of 8 bytes a chunk.
func (a *Arena) Reclaim(chunks int, judge Judge) (visited int) {
	all := uint64(a.Chunks())
	for range all {
		if visited == chunks || a.droppable.Load() == 0 {
			break
		}
		n := int((a.hand.Add(1) - 1) % all)
		if c := a.classOf(n); c != nil && c.droppable {
			visited++
			a.reclaimChunk(c, n, judge)
		}
	}
	return visited
}

func (a *Arena) reclaimChunk(c *class, n int, judge Judge) {
	if a.judgeChunk(c, n, judge) {
		a.pool.put(n)
	}
}

// judgeChunk says whether the chunk became empty.
func (a *Arena) judgeChunk(c *class, n int, judge Judge) (empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	for slot := int64(0); slot < int64(chunk.bump) && chunk.class.Load() == c.number; slot++ {
		offset := int64(n)*ChunkSize + slot*c.size
		o, ok := a.read(offset, c)
		if !ok {
			continue
		}
		flags, drop := judge(o)
		switch {
		case drop:
			_, empty = a.releaseLocked(c, n, offset)
		case flags != o.Flags:
			a.Mark(Ref(offset/RefUnit), flags, ^flags)
		}
	}
	return empty
}

// FreeOf frees the droppable object under ref if it is one of that page, and returns what it
// was; its Data is dead, but for its length. It is for objects that may have been dropped meanwhile, and
// their slots taken by others.
func (a *Arena) FreeOf(ref Ref, export uint32, page uint64) (Object, bool) {
	n, c, offset, ok := a.locate(ref)
	if !ok {
		return Object{}, false
	}
	o, freed, empty := a.freeOf(c, n, offset, export, page)
	if empty {
		a.pool.put(n)
	}
	return o, freed
}

func (a *Arena) freeOf(c *class, n int, offset int64, export uint32, page uint64) (o Object, freed, empty bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunk := &a.chunks[n]
	if chunk.class.Load() != c.number || offset%ChunkSize/c.size >= int64(chunk.bump) {
		return Object{}, false, false
	}
	o, ok := a.read(offset, c)
	if !ok || !c.droppable || o.Export != export || o.Page != page {
		return Object{}, false, false
	}
	freed, empty = a.releaseLocked(c, n, offset)
	return o, freed, empty
}
