package disk

// TryReadAt is ReadAt for callers that must not wait: true if p was filled from memory.
// Anything else, and any error, is left to ReadAt.
func (d *Device) TryReadAt(p []byte, off int64) bool {
	if (off|int64(len(p)))%pageSize != 0 || d.check(off, int64(len(p))) != nil {
		return false
	}
	first, n := uint64(off/pageSize), uint64(len(p)/pageSize)
	for page := first; page < first+n; page++ {
		if !d.tryPage(page, p[(page-first)*pageSize:][:pageSize]) {
			return false
		}
	}
	if d.base == nil {
		d.own.pool.GotPages(first, n)
		return true
	}
	for page := first; page < first+n; page++ {
		d.layerOf(page).pool.GotPages(page, 1)
	}
	return true
}

// tryPage fills p with a page. The lock of the overlay's page is held over the look at
// the base: a write of it is wholly before or behind.
func (d *Device) tryPage(page uint64, p []byte) bool {
	if !d.own.pool.TryRLock(page) {
		return false
	}
	defer d.own.pool.RUnlock(page)
	if d.owns(page) {
		return d.own.pool.TryGetPage(page, p)
	}
	return d.base.tryRead(page, p)
}

// owns says whether the page is the disk's own, and not its base's. REQUIRES: any lock
// of the page held.
func (d *Device) owns(page uint64) bool { return d.overlay == nil || d.overlay.Has(page) }

// layerOf is where the page is. Without a lock of it the answer may be of the past.
func (d *Device) layerOf(page uint64) *layer {
	if d.owns(page) {
		return &d.own
	}
	return &d.base.layer
}

// readPages fills p, whole pages of one block.
func (d *Device) readPages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	for page := first; page < last; page++ {
		d.own.pool.RLock(page)
	}
	err := d.read(first, p)
	for page := first; page < last; page++ {
		d.own.pool.RUnlock(page)
	}
	return err
}

// read fills p, layer by layer. REQUIRES: any lock of each page held; they are pages of
// one block.
func (d *Device) read(first uint64, p []byte) error {
	if d.base == nil {
		return d.own.read(first, p)
	}
	last := first + uint64(len(p)/pageSize)
	for page := first; page < last; {
		owned, end := d.owns(page), page+1
		for end < last && d.owns(end) == owned {
			end++
		}
		part := p[(page-first)*pageSize : (end-first)*pageSize]
		var err error
		if owned {
			err = d.own.read(page, part)
		} else {
			err = d.base.readPages(page, part)
		}
		if err != nil {
			return err
		}
		page = end
	}
	return nil
}

// readPart fills p with a part of one page.
func (d *Device) readPart(page uint64, start int, p []byte) error {
	scratch := d.scratch.Get().(*[pageSize]byte)
	defer d.scratch.Put(scratch)
	if err := d.readPages(page, scratch[:]); err != nil {
		return err
	}
	copy(p, scratch[start:])
	return nil
}

// writePages writes p, whole pages of one block.
func (d *Device) writePages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	d.lock(first, last)
	defer d.unlock(first, last)
	return d.write(first, p)
}

// lock locks pages of one block for writing.
func (d *Device) lock(first, last uint64) {
	for page := first; page < last; page++ {
		d.own.pool.Lock(page)
	}
}

func (d *Device) unlock(first, last uint64) {
	for page := first; page < last; page++ {
		d.own.pool.Unlock(page)
	}
}

// invalidate comes before any change of storage. REQUIRES: Lock held until storage has
// answered (D2).
func (d *Device) invalidate(first, last uint64) {
	for page := first; page < last; page++ {
		d.own.pool.InvalidatePage(page)
	}
}

// write REQUIRES: Lock held for each page.
func (d *Device) write(first uint64, p []byte) error {
	d.invalidate(first, first+uint64(len(p)/pageSize))
	return d.own.storage.WritePages(first, p)
}

// writePart merges p into one page: its content is read, changed and written as a whole
// under one lock, so that two writers of one page both count.
func (d *Device) writePart(page uint64, start int, p []byte) error {
	scratch := d.scratch.Get().(*[pageSize]byte)
	defer d.scratch.Put(scratch)
	d.lock(page, page+1)
	defer d.unlock(page, page+1)
	if err := d.read(page, scratch[:]); err != nil {
		return err
	}
	copy(scratch[start:], p)
	return d.write(page, scratch[:])
}

// punch makes the pages read as zeros, a block at a time.
func (d *Device) punch(first, last uint64) error {
	for first < last {
		end := min(last, blockEnd(first))
		if err := d.punchBlock(first, end); err != nil {
			return err
		}
		first = end
	}
	return nil
}

func (d *Device) punchBlock(first, last uint64) error {
	d.lock(first, last)
	defer d.unlock(first, last)
	d.invalidate(first, last)
	return d.own.storage.PunchPages(first, last-first)
}

const (
	prefetchPages = 64
	// prefetchMost bounds what one request has a worker do: 64 MiB.
	prefetchMost = 16384
)

// Prefetch reads what of the range is not cached, up to 64 MiB of it. While another one
// is under way it does nothing.
func (d *Device) Prefetch(off, length int64) error {
	if err := d.check(off, length); err != nil {
		return err
	}
	if !d.prefetching.TryLock() {
		return nil
	}
	defer d.prefetching.Unlock()
	first, last := uint64(off/pageSize), uint64((off+length+pageSize-1)/pageSize)
	for last = min(last, first+prefetchMost); first < last; {
		from, end := d.layerOf(first), min(last, blockEnd(first), first+prefetchPages)
		for page := first + 1; page < end; page++ {
			if d.layerOf(page) != from {
				end = page
			}
		}
		// If a page moves to the overlay meanwhile, the base's cache gets what the base
		// has, which is true too.
		if err := from.prefetch(first, end, d.buffer.Bytes()); err != nil {
			return err
		}
		first = end
	}
	return nil
}
