package tier

import (
	"github.com/tmemd/tmemd/frontswap"
)

// TryReadAt is ReadAt for callers that must not wait: true if p was filled
// from memory. Anything else, and any error, is left to ReadAt.
func (d *Device) TryReadAt(p []byte, off int64) bool {
	if !d.whole(p, off) {
		return false
	}
	loads := uint64(0)
	for page := uint64(off / pageSize); len(p) > 0; page++ {
		if !d.area.TryRLock(page) {
			return false
		}
		hole := d.area.Owner(page) == frontswap.OwnerHole
		ok := d.admitRead() == nil && (hole || !d.onStorage(page) && d.area.TryLoad(page, p[:pageSize]))
		d.area.RUnlock(page)
		if !ok {
			return false
		}
		if hole {
			clear(p[:pageSize])
		} else {
			loads++
		}
		p = p[pageSize:]
	}
	if loads > 0 {
		d.area.CountLoads(loads)
	}
	return true
}

// TryWriteAt is WriteAt for callers that must not wait: it returns how many
// bytes, whole pages from the start of p, backends in local memory took. The
// first page that one of them refused, or that is in use, is left to WriteAt
// with all that follow.
func (d *Device) TryWriteAt(p []byte, off int64) (n int) {
	mode := d.Writethrough()
	if !d.whole(p, off) || mode == WritethroughSync {
		return 0
	}
	for page := uint64(off / pageSize); n < len(p) && d.area.TryLock(page); page++ {
		ok := d.area.Reserved(page) && d.admitChange(page, page+1) == nil && d.area.TryStore(page, p[n:n+pageSize])
		d.area.Unlock(page)
		if !ok {
			break
		}
		if mode == WritethroughAsync {
			d.syncer.mark(page, page+1)
		}
		n += pageSize
	}
	return n
}

// whole reports whether the request is for whole pages within the device.
func (d *Device) whole(p []byte, off int64) bool {
	return (off|int64(len(p)))%pageSize == 0 && d.check(off, int64(len(p))) == nil
}

// readPages fills p, whole pages of one block. Neighbours on storage are read
// in one piece, which is why their locks are held together.
func (d *Device) readPages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	for {
		for page := first; page < last; page++ {
			d.area.RLock(page)
		}
		held := d.admitRead()
		if held == nil {
			break
		}
		for page := first; page < last; page++ {
			d.area.RUnlock(page)
		}
		if err := held.wait(); err != nil {
			return err
		}
	}
	var err error
	for page := first; page < last && err == nil; {
		page, err = d.readRun(first, page, last, p)
	}
	for page := first; page < last; page++ {
		d.area.RUnlock(page)
	}
	return err
}

// readRun reads the page, or the run of pages on storage that starts there, and
// returns the page that follows. REQUIRES: RLock held for page to last.
func (d *Device) readRun(first, page, last uint64, p []byte) (next uint64, err error) {
	dst := p[(page-first)*pageSize:]
	switch {
	case d.area.Owner(page) == frontswap.OwnerHole:
		clear(dst[:pageSize])
		return page + 1, nil
	case !d.onStorage(page):
		return page + 1, d.load(page, dst[:pageSize])
	}
	for next = page + 1; next < last && d.onStorage(next); {
		next++
	}
	if err := d.storage.ReadPages(page, dst[:(next-page)*pageSize]); err != nil {
		return next, err
	}
	d.area.FromStorage(page, next)
	return next, nil
}

// load reads a page that a backend has: from storage, if the backend fails and
// storage has the same. REQUIRES: any lock of the page held.
func (d *Device) load(page uint64, dst []byte) error {
	err := d.area.Load(page, dst)
	if err == nil || !d.area.Synced(page) {
		return err
	}
	d.rescued.Add(1)
	return d.storage.ReadPages(page, dst)
}

// onStorage REQUIRES: any lock of the page held.
func (d *Device) onStorage(page uint64) bool {
	owner := d.area.Owner(page)
	return owner == frontswap.OwnerNone || owner == frontswap.OwnerStorage
}

// writePages stores p, whole pages of one block. What no backend takes goes to
// storage, neighbours in one piece.
func (d *Device) writePages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	if err := d.area.Reserve(first, last); err != nil {
		return err
	}
	for {
		for page := first; page < last; page++ {
			d.area.Lock(page)
		}
		held := d.admitChange(first, last)
		if held == nil {
			break
		}
		for page := first; page < last; page++ {
			d.area.Unlock(page)
		}
		if err := held.wait(); err != nil {
			return err
		}
	}
	var err error
	if d.area.Offers() {
		err = d.storePages(first, last, p)
	} else {
		err = d.writeStorage(first, p) // in any mode of writethrough: nothing is to be copied
	}
	for page := first; page < last; page++ {
		d.area.Unlock(page)
	}
	return err
}

// storePages REQUIRES: Lock held from first to before last.
func (d *Device) storePages(first, last uint64, p []byte) error {
	mode := d.Writethrough()
	if mode == WritethroughSync {
		if d.writeStorage(first, p) == nil {
			d.storeCopies(first, p)
			return nil
		}
		// A backend may take what storage cannot; the copy follows when it can.
		mode = WritethroughAsync
	}
	for page := first; page < last; {
		start := page
		for page < last && !d.area.Store(page, p[(page-first)*pageSize:][:pageSize]) {
			page++
		}
		if err := d.writeStorage(start, p[(start-first)*pageSize:(page-first)*pageSize]); err != nil {
			return err
		}
		page++ // the one that ended the run was stored
	}
	if mode == WritethroughAsync {
		d.syncer.mark(first, last)
	}
	return nil
}

// storeCopies offers pages to backends that storage has already. REQUIRES: Lock
// held.
func (d *Device) storeCopies(first uint64, p []byte) {
	for page := first; len(p) > 0; page++ {
		if d.area.Store(page, p[:pageSize]) {
			d.area.SetSynced(page)
		}
		p = p[pageSize:]
	}
}

// writeStorage writes whole pages of one block to storage and commits them. If storage
// fails, the pages are as they were, and any copy that a backend had of them
// is still the newest that was acknowledged (T3). REQUIRES: Lock held.
func (d *Device) writeStorage(first uint64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	// Until the commit: the puncher must not take a page for a hole that has
	// just been written.
	lock := d.storageLock(first)
	lock.RLock()
	defer lock.RUnlock()
	for i := range uint64(len(p) / pageSize) {
		d.area.ClearSynced(first + i)
		// Before, not after an error: a process that dies in between must leave a word
		// that says that storage may have something there.
		d.area.PinHole(first + i)
	}
	if err := d.storage.WritePages(first, p); err != nil {
		return err
	}
	for i := range uint64(len(p) / pageSize) {
		d.area.SetStorage(first + i)
	}
	return nil
}

// readPart fills p with a part of one page.
func (d *Device) readPart(page uint64, start int, p []byte) error {
	scratch := d.scratch.Get().(*[pageSize]byte)
	defer d.scratch.Put(scratch)
	d.area.RLock(page)
	for held := d.admitRead(); held != nil; held = d.admitRead() {
		d.area.RUnlock(page)
		if err := held.wait(); err != nil {
			return err
		}
		d.area.RLock(page)
	}
	_, err := d.readRun(page, page, page+1, scratch[:])
	d.area.RUnlock(page)
	if err != nil {
		return err
	}
	copy(p, scratch[start:])
	return nil
}

// writePart merges p into one page: its newest content is read, changed and
// stored as a whole under one lock, so that two writers of one page both count.
func (d *Device) writePart(page uint64, start int, p []byte) error {
	if err := d.area.Reserve(page, page+1); err != nil {
		return err
	}
	scratch := d.scratch.Get().(*[pageSize]byte)
	defer d.scratch.Put(scratch)
	d.area.Lock(page)
	defer d.area.Unlock(page)
	for held := d.admitChange(page, page+1); held != nil; held = d.admitChange(page, page+1) {
		d.area.Unlock(page)
		err := held.wait()
		d.area.Lock(page)
		if err != nil {
			return err
		}
	}
	if _, err := d.readRun(page, page, page+1, scratch[:]); err != nil {
		return err
	}
	copy(scratch[start:], p)
	return d.storePages(page, page+1, scratch[:])
}
