package disk

import "github.com/tmemd/tmemd/cleancache"

// TryReadAt is ReadAt for callers that must not wait: true if p was filled from memory.
// Anything else, and any error, is left to ReadAt.
func (d *Device) TryReadAt(p []byte, off int64) bool {
	if (off|int64(len(p)))%pageSize != 0 || d.check(off, int64(len(p))) != nil {
		return false
	}
	first := uint64(off / pageSize)
	page := first
	for ; len(p) > 0; page++ {
		if !d.pool.TryRLock(page) {
			return false
		}
		hit := d.pool.TryGetPage(page, p[:pageSize])
		d.pool.RUnlock(page)
		if !hit {
			return false
		}
		p = p[pageSize:]
	}
	d.pool.GotPages(first, page-first)
	return true
}

// mergeGap is how many pages that are cached are read from storage again rather than
// asking it twice: more requests cost more than bytes, up to about 64 KiB.
const mergeGap = 16

// readPages fills p, whole pages of one block.
func (d *Device) readPages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	for page := first; page < last; page++ {
		d.pool.RLock(page)
	}
	err := d.read(first, p)
	for page := first; page < last; page++ {
		d.pool.RUnlock(page)
	}
	return err
}

// read fills p from the cache and from storage. REQUIRES: any lock of each page held;
// they are pages of one block.
func (d *Device) read(first uint64, p []byte) error {
	var missing [cleancache.BlockPages]bool
	n := len(p) / pageSize
	for i := range n {
		missing[i] = !d.pool.GetPage(first+uint64(i), p[i*pageSize:][:pageSize])
	}
	for i := 0; i < n; {
		if !missing[i] {
			i++
			continue
		}
		// What lies between is as it is on storage, and may be read again (D3).
		end, gap := i+1, 0
		for next := end; next < n && gap <= mergeGap; next++ {
			if missing[next] {
				end, gap = next+1, 0
			} else {
				gap++
			}
		}
		if err := d.fill(first+uint64(i), p[i*pageSize:end*pageSize], missing[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// fill reads the pages from storage, and offers those that were missing to the cache.
// REQUIRES: any lock of each page held (D2).
func (d *Device) fill(first uint64, p []byte, missing []bool) error {
	if err := d.storage.ReadPages(first, p); err != nil {
		return err
	}
	for i, m := range missing {
		if m {
			d.pool.PutPage(first+uint64(i), p[i*pageSize:][:pageSize])
		}
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
		d.pool.Lock(page)
	}
}

func (d *Device) unlock(first, last uint64) {
	for page := first; page < last; page++ {
		d.pool.Unlock(page)
	}
}

// invalidate comes before any change of storage. REQUIRES: Lock held until storage has
// answered (D2).
func (d *Device) invalidate(first, last uint64) {
	for page := first; page < last; page++ {
		d.pool.InvalidatePage(page)
	}
}

// write REQUIRES: Lock held for each page.
func (d *Device) write(first uint64, p []byte) error {
	d.invalidate(first, first+uint64(len(p)/pageSize))
	return d.storage.WritePages(first, p)
}

// writePart merges p into one page: its content is read, changed and written as a whole
// under one lock, so that two writers of one page both count.
func (d *Device) writePart(page uint64, start int, p []byte) error {
	scratch := d.scratch.Get().(*[pageSize]byte)
	defer d.scratch.Put(scratch)
	d.lock(page, page+1)
	defer d.unlock(page, page+1)
	if !d.pool.GetPage(page, scratch[:]) {
		if err := d.storage.ReadPages(page, scratch[:]); err != nil {
			return err
		}
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
	return d.storage.PunchPages(first, last-first)
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
	last := uint64((off + length + pageSize - 1) / pageSize)
	for first := uint64(off / pageSize); first < min(last, uint64(off/pageSize)+prefetchMost); {
		end := min(last, blockEnd(first), first+prefetchPages)
		if err := d.prefetch(first, end); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// prefetch fills the cache with the pages, unless all of them are there.
func (d *Device) prefetch(first, last uint64) error {
	var missing [prefetchPages]bool
	for page := first; page < last; page++ {
		d.pool.RLock(page)
	}
	defer func() {
		for page := first; page < last; page++ {
			d.pool.RUnlock(page)
		}
	}()
	start, end := last, first // of what is missing
	for page := first; page < last; page++ {
		if missing[page-first] = !d.pool.HasPage(page); missing[page-first] {
			start, end = min(start, page), page+1
		}
	}
	if start >= end {
		return nil
	}
	return d.fill(start, d.buffer.Bytes()[:(end-start)*pageSize], missing[start-first:end-first])
}
