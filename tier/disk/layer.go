package disk

import (
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

// layer is storage with the cache of its pages: a disk, or the base below overlays.
type layer struct {
	pool    *cleancache.Pool // immutable
	storage tier.Storage     // immutable
}

// mergeGap is how many pages that are cached are read from storage again rather than
// asking it twice: more requests cost more than bytes, up to about 64 KiB.
const mergeGap = 16

// readPages fills p, whole pages of one block, under locks of its own.
func (l *layer) readPages(first uint64, p []byte) error {
	last := first + uint64(len(p)/pageSize)
	for page := first; page < last; page++ {
		l.pool.RLock(page)
	}
	err := l.read(first, p)
	for page := first; page < last; page++ {
		l.pool.RUnlock(page)
	}
	return err
}

// read fills p from the cache and from storage. REQUIRES: any lock of each page held;
// they are pages of one block.
func (l *layer) read(first uint64, p []byte) error {
	var missing [cleancache.BlockPages]bool
	n := len(p) / pageSize
	for i := range n {
		missing[i] = !l.pool.GetPage(first+uint64(i), p[i*pageSize:][:pageSize])
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
		if err := l.fill(first+uint64(i), p[i*pageSize:end*pageSize], missing[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// fill reads the pages from storage, and offers those that were missing to the cache.
// REQUIRES: any lock of each page held (D2).
func (l *layer) fill(first uint64, p []byte, missing []bool) error {
	if err := l.storage.ReadPages(first, p); err != nil {
		return err
	}
	for i, m := range missing {
		if m {
			l.pool.PutPage(first+uint64(i), p[i*pageSize:][:pageSize])
		}
	}
	return nil
}

// tryRead fills p with a page that is cached, without waiting.
func (l *layer) tryRead(page uint64, p []byte) bool {
	if !l.pool.TryRLock(page) {
		return false
	}
	hit := l.pool.TryGetPage(page, p)
	l.pool.RUnlock(page)
	return hit
}

// prefetch fills the cache with the pages, unless all of them are there, by way of the
// buffer. They are at most prefetchPages, of one block.
func (l *layer) prefetch(first, last uint64, buffer []byte) error {
	for page := first; page < last; page++ {
		l.pool.RLock(page)
	}
	defer func() {
		for page := first; page < last; page++ {
			l.pool.RUnlock(page)
		}
	}()
	var missing [prefetchPages]bool
	start, end := last, first // of what is missing
	for page := first; page < last; page++ {
		if missing[page-first] = !l.pool.HasPage(page); missing[page-first] {
			start, end = min(start, page), page+1
		}
	}
	if start >= end {
		return nil
	}
	return l.fill(start, buffer[:(end-start)*pageSize], missing[start-first:end-first])
}
