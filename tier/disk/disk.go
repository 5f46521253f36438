package disk

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

const pageSize = backends.PageSize

// Config says what a device is made of.
type Config struct {
	Name     string           // the disk's name
	Storage  tier.Storage     // owned by the device from Open on
	Pool     *cleancache.Pool // owned likewise; as long as storage
	ReadOnly bool

	// Base is what Storage, an Overlay, lies over, or nil.
	Base *Base
}

// Device is one disk. All methods but Close are safe for concurrent use. It satisfies
// the NBD server's device and go-nbd's backend.Backend.
type Device struct {
	name     string   // immutable
	own      layer    // immutable
	base     *Base    // below an overlay, or nil; immutable
	overlay  *Overlay // own.storage, if there is a base; immutable
	readOnly bool     // immutable
	pages    uint64   // immutable

	scratch sync.Pool // *[pageSize]byte, for requests smaller than a page

	prefetching sync.Mutex        // one Prefetch at a time; others have nothing to add
	buffer      *sharedmem.Region // where it reads to; guarded by prefetching
}

var _ backend.Backend = (*Device)(nil)

// ErrReadOnly is what a write to a read-only device fails with. The NBD server asks for
// none.
var ErrReadOnly = fmt.Errorf("the disk is read only: %w", unix.EPERM)

// Open makes a device. On an error storage and pool are still the caller's.
func Open(c Config) (*Device, error) {
	if c.Storage.Pages() != c.Pool.Pages() {
		return nil, fmt.Errorf("open disk %s: storage has %d pages, the cache is for %d", c.Name, c.Storage.Pages(), c.Pool.Pages())
	}
	overlay, isOverlay := c.Storage.(*Overlay)
	if isOverlay != (c.Base != nil) || isOverlay && c.Base.storage.Pages() != c.Storage.Pages() {
		return nil, fmt.Errorf("open disk %s: an overlay and its base belong together", c.Name)
	}
	buffer, err := sharedmem.NewPrivate("prefetch buffer", prefetchPages*pageSize)
	if err != nil {
		return nil, fmt.Errorf("open disk %s: %w", c.Name, err)
	}
	d := &Device{
		name: c.Name, own: layer{c.Pool, c.Storage}, base: c.Base, overlay: overlay,
		readOnly: c.ReadOnly, pages: c.Storage.Pages(), buffer: buffer,
	}
	d.scratch.New = func() any { return new([pageSize]byte) }
	return d, nil
}

// ID is the number that backends know its own pages by.
func (d *Device) ID() uint32 { return d.own.pool.ID() }

// Size is the length in bytes. The error is always nil.
func (d *Device) Size() (int64, error) { return d.size(), nil }

func (d *Device) size() int64 { return int64(d.pages) * pageSize }

// Sync returns when everything that was written is on storage's medium.
func (d *Device) Sync() error {
	if d.readOnly {
		return nil
	}
	return d.own.storage.Sync()
}

// ReadAt fills p from offset off.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	// io.ReaderAt's rule at the end; the NBD server never asks that far.
	if off == d.size() && len(p) > 0 {
		return 0, io.EOF
	}
	if err := d.walk(p, off, d.readPages, d.readPart); err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	return len(p), nil
}

// WriteAt stores p at offset off. On an error any of its pages may have been written,
// in whole or in part: what storage does.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	if d.readOnly {
		return 0, ErrReadOnly
	}
	if err := d.walk(p, off, d.writePages, d.writePart); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return len(p), nil
}

// TryWriteAt stores nothing: a write waits for storage.
func (d *Device) TryWriteAt([]byte, int64) int { return 0 }

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
			n = int(min(uint64(len(p)/pageSize), blockEnd(page)-page)) * pageSize
			err = pages(page, p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// blockEnd is the first page behind the page's block.
func blockEnd(page uint64) uint64 {
	return (page/cleancache.BlockPages + 1) * cleancache.BlockPages
}

func (d *Device) check(off, length int64) error {
	if size := d.size(); off < 0 || length < 0 || off > size || length > size-off {
		return tier.ErrRange
	}
	return nil
}

// Trim declares the range to be of no interest: its whole pages read as zeros
// afterwards, if storage can punch, and are as they were otherwise.
func (d *Device) Trim(off, length int64) error {
	if d.readOnly {
		return ErrReadOnly
	}
	if err := d.check(off, length); err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	first, last := uint64((off+pageSize-1)/pageSize), uint64((off+length)/pageSize)
	if err := d.punch(first, last); err != nil && !errors.Is(err, tier.ErrNoPunch) {
		return fmt.Errorf("trim: %w", err)
	}
	return nil
}

// WriteZeroes makes the range read as zero. With punch storage may give the space back,
// if it can.
func (d *Device) WriteZeroes(off, length int64, punch bool) error {
	if d.readOnly {
		return ErrReadOnly
	}
	if err := d.check(off, length); err != nil {
		return fmt.Errorf("write zeroes: %w", err)
	}
	first, last := uint64((off+pageSize-1)/pageSize), uint64((off+length)/pageSize)
	if punch && first < last {
		err := d.punch(first, last)
		if err != nil && !errors.Is(err, tier.ErrNoPunch) {
			return fmt.Errorf("write zeroes: %w", err)
		}
		if err == nil {
			// What is left is parts of pages, before and behind.
			head, tail := int64(first)*pageSize-off, off+length-int64(last)*pageSize
			if err := d.writeZeros(off, head); err != nil {
				return err
			}
			return d.writeZeros(int64(last)*pageSize, tail)
		}
	}
	return d.writeZeros(off, length)
}

// zeros are what is written where storage cannot punch, a block at a time. They are
// never written to.
var zeros [cleancache.BlockPages * pageSize]byte

func (d *Device) writeZeros(off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if err := d.walk(zeros[:n], off, d.writePages, d.writePart); err != nil {
			return fmt.Errorf("write zeroes: %w", err)
		}
		off, length = off+n, length-n
	}
	return nil
}

// Extents says that storage has everything. It does not know of storage's holes.
func (d *Device) Extents(off, length int64, report func(length int64, hole bool, owner uint32) bool) error {
	if err := d.check(off, length); err != nil {
		return err
	}
	const storageOwner = 1 // as of a swap device
	report(length, false, storageOwner)
	return nil
}

// Stats is a device's account of itself.
type Stats struct {
	Cache    cleancache.Stats // of its own pages; the base has its own
	Storage  tier.StorageStats
	ReadOnly bool
	Memory   []sharedmem.Usage // all of its memory outside the Go heap
}

// Stats returns a snapshot.
func (d *Device) Stats() Stats {
	s := Stats{Cache: d.own.pool.Stats(), Storage: d.own.storage.Stats(), ReadOnly: d.readOnly}
	if s.Cache.Users == 1 { // else it is the base's
		s.Memory = append(s.Memory, s.Cache.Memory)
	}
	s.Memory = append(s.Memory, d.buffer.Usage())
	s.Memory = append(s.Memory, s.Storage.Memory...)
	return s
}

// Mode says what becomes of a page that a client read.
func (d *Device) Mode() cleancache.Mode { return d.own.pool.Mode() }

// SetMode changes it, from the next read on.
func (d *Device) SetMode(m cleancache.Mode) { d.own.pool.SetMode(m) }

// Close ends the device, its cache and its storage, which is synced before. No request
// is or will be under way.
func (d *Device) Close() error {
	return errors.Join(d.Sync(), d.own.pool.InvalidateFS(), d.own.storage.Close(), d.buffer.Close())
}
