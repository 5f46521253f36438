package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

// Image is what an overlay is kept in: storage that can say where it was written.
// [tier.File] is one.
type Image interface {
	tier.Storage
	// Allocated returns the first run of pages from page on that were written and not
	// punched since; first is the number of pages if there is none.
	Allocated(page uint64) (first, last uint64, err error)
}

// Overlay is storage over a base: a sparse file with the pages that are its own, and a
// table of a bit for each. Reads are of pages that it has only; its device reads others
// from the base.
//
//	page of the file | what
//	0                | header: see overlayheader.go
//	1 to t           | the table: a bit for each page, lowest first
//	t+1 to the end   | pages, each at its own place
//
// # The order of things
//
// A page is written, then its bit is set in memory; then the write is answered. Sync
// takes a copy of the table's pages that changed, syncs the file, writes the copies, and
// syncs again. So a bit is on the medium only if its page was there before, and a power
// cut leaves the base's content, or the page's, never a hole.
//
// A process that is killed leaves pages whose bits are in no file. The next one finds
// them, if it is in the same boot: what the system knows as written is the overlay's. In
// a later boot such pages may be whole or not; nobody was promised them, and they are
// punched. So a page is punched only if its bit is in the file: else it is written with
// zeros, as nothing would tell the next process of a hole.
type Overlay struct {
	image Image  // immutable
	pages uint64 // immutable
	table uint64 // pages of the table; immutable

	bits []atomic.Uint64 // as many as the table has; set under the page's exclusive lock

	// By page of the table: how often bits were set in it, and how many of these times
	// the file knows of. They differ while it does not know of all.
	changes, noted []atomic.Uint64 // noted is written with syncing held

	syncing sync.Mutex
	header  header // guarded by syncing
}

var _ Image = (*tier.File)(nil)
var _ tier.Storage = (*Overlay)(nil)

const bitsPerPage = pageSize * 8

// tablePages is how many pages the table has for so many pages.
func tablePages(pages uint64) uint64 { return (pages + bitsPerPage - 1) / bitsPerPage }

// OverlayPages is how many pages the file of an overlay has over a base of so many.
func OverlayPages(base uint64) uint64 { return 1 + tablePages(base) + base }

// Has says whether the page is the overlay's own. REQUIRES: any lock of the page held.
func (o *Overlay) Has(page uint64) bool { return o.bits[page/64].Load()>>(page%64)&1 == 1 }

// at is where a page is in the file.
func (o *Overlay) at(page uint64) uint64 { return 1 + o.table + page }

// Pages implements [tier.Storage].
func (o *Overlay) Pages() uint64 { return o.pages }

// Resize implements [tier.Storage]: an overlay is as long as its base.
func (o *Overlay) Resize(uint64) (bool, error) { return false, errors.ErrUnsupported }

// ReadPages implements [tier.Storage], for pages that the overlay has.
func (o *Overlay) ReadPages(first uint64, p []byte) error { return o.image.ReadPages(o.at(first), p) }

// WritePages implements [tier.Storage].
func (o *Overlay) WritePages(first uint64, p []byte) error {
	if err := o.image.WritePages(o.at(first), p); err != nil {
		return err
	}
	o.set(first, first+uint64(len(p)/pageSize))
	return nil
}

// PunchPages implements [tier.Storage].
func (o *Overlay) PunchPages(first, n uint64) error {
	for page := first; page < first+n; {
		mayPunch, end := o.isNoted(page), page+1
		for end < first+n && o.isNoted(end) == mayPunch && end-page < cleancache.BlockPages {
			end++
		}
		var err error
		if mayPunch {
			err = o.image.PunchPages(o.at(page), end-page)
		} else {
			err = o.WritePages(page, zeros[:(end-page)*pageSize])
		}
		if err != nil {
			return err
		}
		page = end
	}
	return nil
}

// set marks the pages as the overlay's: behind their write, and before it is answered.
func (o *Overlay) set(first, last uint64) {
	for page := first; page < last; page++ {
		if !o.Has(page) {
			o.bits[page/64].Or(1 << (page % 64))
			o.changes[page/bitsPerPage].Add(1) // after the bit: a Sync that knows of the change has the bit
		}
	}
}

// isNoted says whether the page is the overlay's and the file has its bit. A no may mean
// that it does not have another one near it.
func (o *Overlay) isNoted(page uint64) bool {
	n := page / bitsPerPage
	return o.Has(page) && o.changes[n].Load() == o.noted[n].Load()
}

// Sync implements [tier.Storage].
func (o *Overlay) Sync() error {
	o.syncing.Lock()
	defer o.syncing.Unlock()
	return o.syncLocked()
}

func (o *Overlay) syncLocked() error {
	type change struct{ page, count uint64 }
	var changed []change
	var copies []byte
	for n := range o.table {
		if count := o.changes[n].Load(); count != o.noted[n].Load() {
			changed = append(changed, change{n, count})
			copies = o.appendTable(copies, n)
		}
	}
	if err := o.image.Sync(); err != nil {
		return fmt.Errorf("sync overlay: %w", err)
	}
	for i, c := range changed {
		if err := o.image.WritePages(1+c.page, copies[i*pageSize:][:pageSize]); err != nil {
			return fmt.Errorf("sync overlay: %w", err)
		}
	}
	if len(changed) > 0 {
		if err := o.image.Sync(); err != nil {
			return fmt.Errorf("sync overlay: %w", err)
		}
	}
	for _, c := range changed {
		o.noted[c.page].Store(c.count)
	}
	return nil
}

// appendTable appends page n of the table, as it is in memory.
func (o *Overlay) appendTable(b []byte, n uint64) []byte {
	for i := range uint64(bitsPerPage / 64) {
		b = binary.LittleEndian.AppendUint64(b, o.bits[n*bitsPerPage/64+i].Load())
	}
	return b
}

// Stats implements [tier.Storage].
func (o *Overlay) Stats() tier.StorageStats { return o.image.Stats() }

// Close implements [tier.Storage]: what was written is synced, and the file says that
// its table is all there is to know.
func (o *Overlay) Close() error {
	o.syncing.Lock()
	defer o.syncing.Unlock()
	err := o.syncLocked()
	if err == nil {
		o.header.clean = true
		err = o.writeHeaderLocked()
	}
	return errors.Join(err, o.image.Close())
}
