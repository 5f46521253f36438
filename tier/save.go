package tier

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/packed"
	"github.com/tmemd/tmemd/frontswap"
)

// Save calls emit for each page that does not read as zeros, in ascending order, with
// the page as a backend keeps it, or as it is on storage. Every page was decoded before:
// what is emitted is right. The data is valid until emit returns.
//
// Pages may be moved and copied meanwhile. What clients write meanwhile may be in it or
// not: the caller keeps them away, if the picture is to be of one moment.
func (d *Device) Save(ctx context.Context, emit func(page uint64, p backends.Packed) error) error {
	decoder, err := packed.NewDecoder()
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	s := &saver{d: d, decoder: decoder, memory: make([]byte, frontswap.BlockPages*pageSize)}
	pages := d.area.Pages()
	for first := uint64(0); first < pages; {
		if d.area.Fresh() == frontswap.OwnerHole {
			if first, _ = d.area.NextTouched(first); first >= pages {
				break
			}
			first -= first % frontswap.BlockPages
		}
		last := min(first+frontswap.BlockPages, pages)
		if err := s.block(first, last); err != nil {
			return fmt.Errorf("save: %w", err)
		}
		for _, page := range s.found {
			if err := emit(page.number, page.Packed); err != nil {
				return fmt.Errorf("save: %w", err)
			}
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("save: %w", err)
		}
		first = last
	}
	return nil
}

// saver packs the pages of one block at a time: their locks are not held while
// somebody takes what was found, however slowly.
type saver struct {
	d       *Device
	decoder *packed.Decoder
	memory  []byte // the pages of a block, packed
	plain   [pageSize]byte
	filled  [frontswap.BlockPages][4]byte
	found   []savedPage
}

type savedPage struct {
	number uint64
	backends.Packed
}

func (s *saver) block(first, last uint64) error {
	s.found = s.found[:0]
	for page := first; page < last; page++ {
		s.d.area.RLock(page)
	}
	defer func() {
		for page := first; page < last; page++ {
			s.d.area.RUnlock(page)
		}
	}()
	for page := first; page < last; {
		switch {
		case s.d.area.Owner(page) == frontswap.OwnerHole:
			page++
		case s.d.onStorage(page):
			start := page
			for page < last && s.d.onStorage(page) {
				page++
			}
			if err := s.storage(first, start, page); err != nil {
				return err
			}
		default:
			if err := s.page(first, page); err != nil {
				return err
			}
			page++
		}
	}
	return nil
}

// room is the place of a page of the block at first.
func (s *saver) room(first, page uint64) []byte { return s.memory[(page-first)*pageSize:][:pageSize] }

// storage finds a run of pages on storage.
func (s *saver) storage(first, start, end uint64) error {
	if err := s.d.storage.ReadPages(start, s.memory[(start-first)*pageSize:(end-first)*pageSize]); err != nil {
		return err
	}
	for page := start; page < end; page++ {
		if data := s.room(first, page); !bytes.Equal(data, zeroes[:]) {
			s.found = append(s.found, savedPage{page, packed.Raw(data, &s.filled[page-first])})
		}
	}
	return nil
}

// page finds a page that a backend has. If it cannot deliver and storage has the same,
// that is taken.
func (s *saver) page(first, page uint64) error {
	p, err := s.d.area.Pack(page, s.room(first, page))
	if err == nil {
		err = s.decoder.Decode(p, s.plain[:])
	}
	if err == nil {
		s.found = append(s.found, savedPage{page, p})
		return nil
	}
	if !s.d.area.Synced(page) {
		return fmt.Errorf("page %d: %w", page, err)
	}
	s.d.rescued.Add(1)
	return s.storage(first, page, page+1)
}

// Restorer fills a device with pages that were saved. It is for one goroutine.
type Restorer struct {
	d       *Device
	decoder *packed.Decoder
	plain   [pageSize]byte
}

// NewRestorer returns what fills the device.
func (d *Device) NewRestorer() (*Restorer, error) {
	decoder, err := packed.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return &Restorer{d: d, decoder: decoder}, nil
}

// Page puts a page in its place: into the first backend that takes it, else, decoded,
// on storage. ErrCorrupt is in the error's chain if it is none.
func (r *Restorer) Page(page uint64, p backends.Packed) error {
	if page >= r.d.area.Pages() {
		return fmt.Errorf("restore page %d: %w", page, ErrRange)
	}
	if err := r.page(page, p); err != nil {
		return fmt.Errorf("restore page %d: %w", page, err)
	}
	return nil
}

func (r *Restorer) page(page uint64, p backends.Packed) error {
	if err := r.d.area.Reserve(page, page+1); err != nil {
		return err
	}
	r.d.area.Lock(page)
	defer r.d.area.Unlock(page)
	taken, err := r.d.area.Unpack(page, p)
	if taken || err != nil {
		if taken && r.d.Writethrough() != WritethroughOff {
			r.d.syncer.mark(page, page+1)
		}
		return err
	}
	if err := r.decoder.Decode(p, r.plain[:]); err != nil {
		return err
	}
	return r.d.writeStorage(page, r.plain[:])
}

// Empty makes every page a hole.
// REQUIRES: no log of changes. The error is that the page map gets no memory.
func (d *Device) Empty() error { return d.makeHoles(0, d.area.Pages(), true) }

// Contents counts the pages that may have something in them: all but holes.
func (d *Device) Contents() uint64 { return d.area.Content(0) }
