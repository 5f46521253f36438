package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

// header is page 0 of an overlay's file:
//
//	bytes 0–15   the magic
//	bytes 16–31  the UUID of the base
//	bytes 32–39  pages of the base
//	byte  40     1 if the overlay was closed in order
//	bytes 41–76  the boot in which it was opened last, as the system writes it
//	the last 4   CRC-32C of all before
type header struct {
	base  cleancache.UUID
	pages uint64
	clean bool
	boot  string
}

const (
	overlayMagic = "tmemd overlay 1\n"
	bootLength   = 36
)

// Errors of [OpenOverlay].
var (
	ErrNoOverlay = errors.New("it is no overlay, or a damaged one")
	ErrOtherBase = errors.New("it lies over another base")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h header) encode() []byte {
	b := make([]byte, pageSize)
	copy(b, overlayMagic)
	copy(b[16:], h.base[:])
	binary.LittleEndian.PutUint64(b[32:], h.pages)
	if h.clean {
		b[40] = 1
	}
	copy(b[41:41+bootLength], h.boot)
	binary.LittleEndian.PutUint32(b[pageSize-4:], crc32.Checksum(b[:pageSize-4], castagnoli))
	return b
}

func decodeHeader(b []byte) (h header, err error) {
	if string(b[:16]) != overlayMagic || binary.LittleEndian.Uint32(b[pageSize-4:]) != crc32.Checksum(b[:pageSize-4], castagnoli) {
		return h, ErrNoOverlay
	}
	copy(h.base[:], b[16:])
	h.pages = binary.LittleEndian.Uint64(b[32:])
	h.clean = b[40] == 1
	h.boot = string(bytes.TrimRight(b[41:41+bootLength], "\x00"))
	return h, nil
}

// FormatOverlay makes an overlay of an image that reads as zeros: one that has no page
// of its own yet.
func FormatOverlay(image Image, base cleancache.UUID, pages uint64) error {
	if image.Pages() != OverlayPages(pages) {
		return fmt.Errorf("format overlay: %d pages are not the %d for a base of %d", image.Pages(), OverlayPages(pages), pages)
	}
	h := header{base: base, pages: pages, clean: true}
	if err := errors.Join(image.WritePages(0, h.encode()), image.Sync()); err != nil {
		return fmt.Errorf("format overlay: %w", err)
	}
	return nil
}

// CreateOverlay makes the file of an overlay without a page of its own. It has its name
// when it is whole.
func CreateOverlay(path string, base cleancache.UUID, pages uint64) error {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("create overlay: %w", err)
	}
	if err := tier.CreateImage(unfinished, OverlayPages(pages)); err != nil {
		return fmt.Errorf("create overlay: %w", err)
	}
	image, err := tier.OpenImage(unfinished, false)
	if err == nil {
		err = errors.Join(FormatOverlay(image, base, pages), image.Close())
	}
	if err == nil {
		err = os.Rename(unfinished, path)
	}
	if err == nil {
		err = tier.SyncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("create overlay %s: %w", path, err)
	}
	return nil
}

// OpenOverlay opens an overlay over the base of that name and length. boot is that of
// the machine now: what a process that was killed left counts only in the same one. On
// an error the image is still the caller's.
func OpenOverlay(image Image, base cleancache.UUID, pages uint64, boot string) (*Overlay, error) {
	o, err := openOverlay(image, base, pages, boot)
	if err != nil {
		return nil, fmt.Errorf("open overlay: %w", err)
	}
	return o, nil
}

func openOverlay(image Image, base cleancache.UUID, pages uint64, boot string) (*Overlay, error) {
	page := make([]byte, pageSize)
	if err := image.ReadPages(0, page); err != nil {
		return nil, err
	}
	h, err := decodeHeader(page)
	if err != nil {
		return nil, err
	}
	if h.base != base || h.pages != pages {
		return nil, fmt.Errorf("%w: %v, of %d pages", ErrOtherBase, h.base, h.pages)
	}
	if image.Pages() != OverlayPages(pages) {
		return nil, fmt.Errorf("%w: the file has %d pages instead of %d", ErrNoOverlay, image.Pages(), OverlayPages(pages))
	}
	// Not only when it is needed: an image that cannot say is found out before it counts.
	if _, _, err := image.Allocated(0); err != nil {
		return nil, err
	}
	o := &Overlay{image: image, pages: pages, table: tablePages(pages)}
	o.bits = make([]atomic.Uint64, o.table*bitsPerPage/64)
	o.changes, o.noted = make([]atomic.Uint64, o.table), make([]atomic.Uint64, o.table)
	if err := o.readTable(); err != nil {
		return nil, err
	}
	if !h.clean {
		if err := o.recover(h.boot == boot); err != nil {
			return nil, err
		}
	}
	h.clean, h.boot = false, boot
	o.header = h
	// Only now, with everything else on the medium, does the file say that this boot
	// counts: a power cut before that is the same once more.
	return o, errors.Join(o.syncLocked(), o.writeHeaderLocked())
}

func (o *Overlay) writeHeaderLocked() error {
	return errors.Join(o.image.WritePages(0, o.header.encode()), o.image.Sync())
}

func (o *Overlay) readTable() error {
	page := make([]byte, pageSize)
	for n := range o.table {
		if err := o.image.ReadPages(1+n, page); err != nil {
			return err
		}
		for i := range uint64(bitsPerPage / 64) {
			o.bits[n*bitsPerPage/64+i].Store(binary.LittleEndian.Uint64(page[i*8:]))
		}
	}
	return nil
}

// recover deals with pages that were written and have no bit: they are the overlay's if
// this is the boot in which they were written, and are nobody's otherwise.
func (o *Overlay) recover(sameBoot bool) error {
	end := o.at(o.pages)
	for at := o.at(0); at < end; {
		first, last, err := o.image.Allocated(at)
		if err != nil {
			return fmt.Errorf("find what was written: %w", err)
		}
		last = min(last, end)
		for page := first; page < last; page++ {
			switch own := page - o.at(0); {
			case o.Has(own):
			case sameBoot:
				o.set(own, own+1)
			default:
				if err := o.image.PunchPages(page, 1); err != nil {
					return fmt.Errorf("drop what was not flushed: %w", err)
				}
			}
		}
		at = max(last, first, at+1)
	}
	return nil
}
