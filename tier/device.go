package tier

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
)

// Config says what a device is made of.
type Config struct {
	Name    string  // the export's name
	ID      uint32  // unique among the daemon's exports, stable over its life
	Storage Storage // owned by the device from Open on
	Empty   bool    // storage is all zeros, so what nobody wrote needs no reading
	Touch   bool    // take the page map's memory now: for serving the host's own swap

	// Overcommit takes memory for the page map as pages are written, not now: for many
	// exports of which few are full. A write fails with ENOSPC if there is none left.
	Overcommit bool
	Client     string               // of the registry: whom its pages are charged to; empty is the default
	Takeover   bool                 // the page map is what an earlier process left; Resume comes before the first request
	Frontswap  *frontswap.Frontswap // the registry it offers pages to
	Log        *slog.Logger
}

// Device is one export: a range of bytes whose pages live in backends or on
// storage. All methods but Close are safe for concurrent use. It satisfies the
// NBD server's device and go-nbd's backend.Backend.
type Device struct {
	area    *frontswap.Area // immutable
	storage Storage         // immutable
	log     *slog.Logger    // immutable
	puncher *puncher        // immutable
	syncer  *syncer         // immutable
	empty   bool            // immutable: storage had nothing when it was opened

	size     atomic.Int64 // bytes; written under resizing
	resizing sync.Mutex   // one Resize at a time

	changes      atomic.Pointer[Changes] // nil unless the device is being copied elsewhere
	writethrough atomic.Int32            // a Writethrough
	rescued      atomic.Uint64           // pages read from storage because their backend failed
	scratch      sync.Pool               // *[pageSize]byte, for requests smaller than a page

	// storageLocks keep the puncher off pages that are being written to storage:
	// held for reading during such a write, and for writing by the puncher, which
	// holds no page lock. Taken after page locks.
	storageLocks [64]sync.RWMutex
}

var _ backend.Backend = (*Device)(nil)

// ErrRange is what a request beyond the end of the device gets.
var ErrRange = fmt.Errorf("beyond the end of the export: %w", unix.EINVAL)

// Open makes a device of the storage and starts its puncher. On an error the
// storage is still the caller's.
func Open(c Config) (*Device, error) {
	d := &Device{storage: c.Storage, log: c.Log, empty: c.Empty}
	d.size.Store(int64(c.Storage.Pages()) * pageSize)
	d.scratch.New = func() any { return new([pageSize]byte) }
	var err error
	d.area, err = c.Frontswap.OpenArea(frontswap.AreaConfig{
		Name: c.Name, ID: c.ID, Pages: c.Storage.Pages(), Storage: d, Empty: c.Empty, Touch: c.Touch, Overcommit: c.Overcommit, Takeover: c.Takeover, Client: c.Client,
	})
	if err != nil {
		return nil, err
	}
	d.syncer = newSyncer(d)
	d.puncher = newPuncher(d)
	return d, nil
}

// Resume goes on with what an earlier process left to be done behind requests,
// after frontswap's Resume: holes whose space is not given back yet.
func (d *Device) Resume() {
	_ = d.area.Touched(func(first, last uint64) error {
		for page := first; page < last; page++ {
			if d.area.Owner(page) == frontswap.OwnerHole {
				d.puncher.discarded(page, page+1)
				page |= frontswap.BlockPages - 1 // the whole block is looked at
			}
		}
		return nil
	})
}

// Examine loads every page that backends have, and changes nothing; see
// [frontswap.Area]. REQUIRES: a takeover that was not resumed.
func (d *Device) Examine() frontswap.Examination { return d.area.Examine() }

// Size is the length in bytes, a multiple of the page size. Only Resize changes
// it. The error is always nil.
func (d *Device) Size() (int64, error) { return d.size.Load(), nil }

// Sync returns when what is on storage is on its medium. Pages that backends
// hold are as durable as the host's memory, which is what a swap export
// promises: they outlive no power cut.
func (d *Device) Sync() error { return d.storage.Sync() }

// ReadAt fills p from offset off.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	// io.ReaderAt's rule at the end; the NBD server never asks that far.
	if off == d.size.Load() && len(p) > 0 {
		return 0, io.EOF
	}
	err := d.walk(p, off, d.readPages, d.readPart)
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	return len(p), nil
}

// WriteAt stores p at offset off. On an error any of its pages may have been
// written, each of them whole.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	err := d.walk(p, off, d.writePages, d.writePart)
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return len(p), nil
}

// walk cuts p at off into whole pages, a block at a time, and parts of pages.
func (d *Device) walk(p []byte, off int64, pages func(first uint64, p []byte) error, part func(page uint64, start int, p []byte) error) error {
	if err := d.check(off, int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		page, start := uint64(off/pageSize), int(off%pageSize)
		n := min(pageSize-start, len(p))
		var err error
		if n < pageSize {
			err = part(page, start, p[:n])
		} else {
			n = blockLength(page, uint64(len(p)/pageSize)) * pageSize
			err = pages(page, p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// blockLength is how many of the n pages from first on lie in first's block.
func blockLength(first, n uint64) int {
	return int(min(n, frontswap.BlockPages-first%frontswap.BlockPages))
}

func (d *Device) check(off, length int64) error {
	if size := d.size.Load(); off < 0 || length < 0 || off > size || length > size-off {
		return ErrRange
	}
	return nil
}

// Trim declares the range to be of no interest: its whole pages are holes
// afterwards, its parts of pages are as they were. The space on storage is
// given back later, so that a kernel that trims from inside reclaim never waits
// for a disk.
func (d *Device) Trim(off, length int64) error {
	if err := d.check(off, length); err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	first := uint64((off + pageSize - 1) / pageSize)
	last := uint64((off + length) / pageSize)
	if err := d.makeHoles(first, last, true); err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	return nil
}

// Prefetch does nothing: what is in memory is fast, and what is not would take room
// there from pages that were used.
func (d *Device) Prefetch(off, length int64) error {
	if err := d.check(off, length); err != nil {
		return fmt.Errorf("prefetch: %w", err)
	}
	return nil
}

// WriteZeroes makes the range read as zero. punch lets go of the space too.
func (d *Device) WriteZeroes(off, length int64, punch bool) error {
	if err := d.check(off, length); err != nil {
		return fmt.Errorf("write zeroes: %w", err)
	}
	end := off + length
	if head := -off & (pageSize - 1); head > 0 {
		head = min(head, length)
		if err := d.zeroPart(off, int(head)); err != nil {
			return fmt.Errorf("write zeroes: %w", err)
		}
		off += head
	}
	if tail := end & (pageSize - 1); tail > 0 && end > off {
		if err := d.zeroPart(end-tail, int(tail)); err != nil {
			return fmt.Errorf("write zeroes: %w", err)
		}
		end -= tail
	}
	if end > off {
		if err := d.makeHoles(uint64(off/pageSize), uint64(end/pageSize), punch); err != nil {
			return fmt.Errorf("write zeroes: %w", err)
		}
	}
	return nil
}

var zeroes [pageSize]byte

func (d *Device) zeroPart(off int64, n int) error {
	return d.writePart(uint64(off/pageSize), int(off%pageSize), zeroes[:n])
}

// makeHoles makes holes of the pages. On storage that was empty, those that nobody
// ever wrote are holes already, and there is nothing to punch below them: the map
// of a new export stays untouched when all of it is discarded.
func (d *Device) makeHoles(first, last uint64, punch bool) error {
	for first < last {
		end := last
		if d.area.Fresh() == frontswap.OwnerHole {
			first, end = d.area.NextTouched(first)
			first, end = min(first, last), min(end, last)
		}
		if err := d.makeHolesTouched(first, end, punch); err != nil {
			return err
		}
		first = end
	}
	return nil
}

func (d *Device) makeHolesTouched(first, last uint64, punch bool) error {
	if err := d.area.Reserve(first, last); err != nil {
		return err
	}
	for page := first; page < last; {
		if d.area.Owner(page) == frontswap.OwnerHole {
			page++
			continue // at this instant it was one, which is all that was asked
		}
		d.area.Lock(page)
		held := d.admitChange(page, page+1)
		if held == nil {
			d.area.InvalidatePage(page)
		}
		d.area.Unlock(page)
		if held == nil {
			page++
		} else if err := held.wait(); err != nil {
			return err
		}
	}
	if punch && first < last {
		d.puncher.discarded(first, last)
	}
	return nil
}

// storageLock is the lock for the block that the page lies in.
func (d *Device) storageLock(page uint64) *sync.RWMutex {
	return &d.storageLocks[page/frontswap.BlockPages%uint64(len(d.storageLocks))]
}

// WritePages is how frontswap moves pages of one block to storage, and how they
// are copied there. REQUIRES: Lock or LockUpdate held, and none of them a hole.
func (d *Device) WritePages(first uint64, p []byte) error {
	lock := d.storageLock(first)
	lock.RLock()
	defer lock.RUnlock()
	return d.storage.WritePages(first, p)
}

// Stats is a device's account of itself.
type Stats struct {
	Area    frontswap.AreaStats
	Storage StorageStats

	Writethrough Writethrough
	SyncBlocks   int64  // blocks of 1 MiB that wait to be copied to storage
	Rescued      uint64 // pages read from storage because their backend failed
	PunchBlocks  int64  // blocks of 1 MiB that wait to be looked at for space to give back

	// What of storage's allocated bytes is of use, and what is not: holes whose space is not
	// given back, and what was there before a backend took the page over. After a restart
	// a page that nobody asked for yet is taken to be on storage, so there may be more of the
	// latter than is known.
	LiveSize, StaleSize int64

	Memory []sharedmem.Usage // all of its memory outside the Go heap
}

// Stats returns a snapshot.
func (d *Device) Stats() Stats {
	s := Stats{
		Area: d.area.Stats(), Storage: d.storage.Stats(),
		Writethrough: d.Writethrough(), SyncBlocks: d.syncer.left.Load(), Rescued: d.rescued.Load(),
	}
	s.PunchBlocks = d.puncher.left.Load()
	s.LiveSize = min(d.needed(&s)*pageSize, s.Storage.AllocatedSize)
	s.StaleSize = s.Storage.AllocatedSize - s.LiveSize
	s.Memory = append(s.Memory, s.Area.Memory)
	if buffer := d.syncer.buffer.Load(); buffer != nil {
		s.Memory = append(s.Memory, buffer.Usage())
	}
	s.Memory = append(s.Memory, s.Storage.Memory...)
	return s
}

// Settle brings storage into the state in which it alone is the export: holes
// read as zeros there, and all is on the medium. The caller has unloaded every
// backend, and no request is under way.
func (d *Device) Settle() error {
	if err := d.puncher.settle(); err != nil {
		return fmt.Errorf("settle storage: %w", err)
	}
	return d.storage.Sync()
}

// Close ends the device and its storage. No request is or will be under way.
// Pages that backends hold are dropped.
func (d *Device) Close() error {
	d.puncher.stop()
	return errors.Join(d.syncer.stop(), d.area.Close(), d.storage.Close())
}
