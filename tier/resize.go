package tier

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ContentError is why a device is not made shorter.
type ContentError struct {
	Pages uint64 // beyond the new end that may have something in them
}

// Error implements error.
func (e *ContentError) Error() string {
	return fmt.Sprintf("%d pages beyond the new end may have content", e.Pages)
}

// Resize changes the device's length to size bytes, a multiple of the page
// size. What it gains reads as zeros.
//
// Growing is safe beside everything but Close. Shrinking, too, is safe beside
// drains and other moves of pages, which it waits for a block at a time; but no
// request for what is beyond the new end may be under way or come. It fails with
// a [ContentError] if anything but holes is there, unless discard is set.
//
// After an error the device is as long as before; what was discarded is gone.
func (d *Device) Resize(size int64, discard bool) error {
	d.resizing.Lock()
	defer d.resizing.Unlock()
	if size <= 0 || size%pageSize != 0 {
		return fmt.Errorf("resize: %d is not a positive multiple of %d: %w", size, pageSize, unix.EINVAL)
	}
	pages, old := uint64(size/pageSize), d.area.Pages()
	var err error
	switch {
	case pages > old:
		err = d.grow(old, pages)
	case pages < old:
		err = d.shrink(old, pages, discard)
	}
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}

// grow goes from below: storage, marks and map are there before a request may
// ask for them. REQUIRES: resizing held.
func (d *Device) grow(old, pages uint64) error {
	zeros, err := d.storage.Resize(pages)
	if err != nil {
		return err
	}
	d.puncher.grow(pages)
	d.syncer.grow(pages)
	if err := d.area.Grow(pages, zeros); err != nil {
		_, undone := d.storage.Resize(old)
		return errors.Join(err, undone)
	}
	d.size.Store(int64(pages) * pageSize)
	return nil
}

// CheckShrink returns a [ContentError] if anything but holes is beyond size bytes.
func (d *Device) CheckShrink(size int64) error {
	if n := d.area.Content(uint64(size / pageSize)); n > 0 {
		return &ContentError{Pages: n}
	}
	return nil
}

// shrink goes from above. REQUIRES: resizing held.
func (d *Device) shrink(old, pages uint64, discard bool) error {
	if !discard {
		if err := d.CheckShrink(int64(pages) * pageSize); err != nil {
			return err
		}
	}
	d.size.Store(int64(pages) * pageSize)
	d.area.Shrink(pages)
	// The puncher holds no page locks. It finds no holes there any more, and what
	// it has found is punched when each of its locks was free once.
	for i := range d.storageLocks {
		d.storageLocks[i].Lock()
		//lint:ignore SA2001 a barrier
		d.storageLocks[i].Unlock()
	}
	if _, err := d.storage.Resize(pages); err != nil {
		undone := d.area.Grow(old, false)
		if undone == nil {
			d.size.Store(int64(old) * pageSize)
		}
		return errors.Join(err, undone)
	}
	return nil
}
