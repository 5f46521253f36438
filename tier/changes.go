package tier

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/frontswap"
)

// Changes is a log of the pages that clients change, for somebody who copies a device
// while it is in use: one bit for each page, which is set when the page has changed since
// it was copied last. In the end it holds requests back, so that the rest can be copied,
// and lets them go on or never.
//
// Everything about it rests on page locks. A request asks for the log after it has the
// page's lock, and sets the bit before it gives the lock back; whoever copies takes the bit
// away first, and reads the page under its lock afterwards. So of a request and a copy
// of the same page one comes first, as a whole:
//
//	the request   its change is in the copy, or its bit is there for the next one
//	the copy      the request sees the log, and sets the bit
//
// The same is true of the log's beginning (the bits begin set, and every page is copied
// once after that) and of Hold, which takes every lock once: whoever did not see it has
// ended. Without a log, a request pays for one load of a pointer.
type Changes struct {
	d     *Device
	pages uint64
	bits  []atomic.Uint64
	held  atomic.Pointer[hold] // not nil: requests wait, or fail
}

// hold is what requests wait for.
type hold struct {
	over chan struct{} // closed when they go on, or never will
	err  error         // that they fail with; written before over is closed
}

func (h *hold) wait() error {
	<-h.over
	return h.err
}

// ErrMoved is what requests fail with, as ESHUTDOWN, on a device that is elsewhere now.
var ErrMoved = fmt.Errorf("the export has moved: %w", unix.ESHUTDOWN)

// ErrLogged says that there is a log already.
var ErrLogged = fmt.Errorf("the device is being copied already: %w", unix.EBUSY)

// LogChanges begins a log in which every page has changed. The device must not be resized
// until Stop.
func (d *Device) LogChanges() (*Changes, error) {
	l := &Changes{d: d, pages: d.area.Pages()}
	l.bits = make([]atomic.Uint64, (l.pages+63)/64)
	for i := range l.bits {
		l.bits[i].Store(1<<min(64, l.pages-uint64(i)*64) - 1)
	}
	if !d.changes.CompareAndSwap(nil, l) {
		return nil, ErrLogged
	}
	return l, nil
}

// admitChange notes in the log, if there is one, that pages change. If that has to wait,
// it returns what for. REQUIRES: Lock held from first to before last, since before the call.
func (d *Device) admitChange(first, last uint64) *hold {
	l := d.changes.Load()
	if l == nil {
		return nil
	}
	if h := l.held.Load(); h != nil {
		return h
	}
	l.mark(first, last)
	return nil
}

// admitRead is admitChange for requests that change nothing. REQUIRES: RLock held.
func (d *Device) admitRead() *hold {
	if l := d.changes.Load(); l != nil {
		return l.held.Load()
	}
	return nil
}

func (l *Changes) mark(first, last uint64) {
	for page := first; page < last; page++ {
		word, bit := &l.bits[page/64], uint64(1)<<(page%64)
		if word.Load()&bit == 0 {
			word.Or(bit)
		}
	}
}

// Pages is how many pages the device has.
func (l *Changes) Pages() uint64 { return l.pages }

// Left counts the pages that have to be copied.
func (l *Changes) Left() (n uint64) {
	for i := range l.bits {
		n += uint64(bits.OnesCount64(l.bits[i].Load()))
	}
	return n
}

// WordPages is how many pages Take takes at a time.
const WordPages = 64

// Take takes the bits of the 64 pages from first on, a multiple of 64: bit 0 is first's.
// Each has to be copied then.
func (l *Changes) Take(first uint64) uint64 {
	word := &l.bits[first/64]
	if word.Load() == 0 {
		return 0
	}
	return word.Swap(0)
}

// Read reads pages for the copy, from first to before last of one block: n of them, which
// are holes, or are in p. It is not held back.
func (l *Changes) Read(first, last uint64, p []byte) (n uint64, hole bool, err error) {
	area := l.d.area
	for page := first; page < last; page++ {
		area.RLock(page)
	}
	defer func() {
		for page := first; page < last; page++ {
			area.RUnlock(page)
		}
	}()
	end := first
	if area.Fresh() == frontswap.OwnerHole {
		end, _ = area.NextTouched(first) // looking at those before would take memory for the map
		end = min(end, last)
	}
	for end < last && area.Owner(end) == frontswap.OwnerHole {
		end++
	}
	if end > first {
		return end - first, true, nil
	}
	for end < last && area.Owner(end) != frontswap.OwnerHole {
		end++
	}
	for page := first; page < end && err == nil; {
		page, err = l.d.readRun(first, page, end, p)
	}
	return end - first, false, err
}

// Hold holds requests back. When it returns, none is being carried out that reads or
// changes pages, and none will be before Release.
func (l *Changes) Hold() {
	l.held.Store(&hold{over: make(chan struct{})})
	l.d.area.Quiesce()
}

// Release lets requests go on that Hold holds back.
func (l *Changes) Release() {
	if h := l.held.Swap(nil); h != nil {
		close(h.over)
	}
}

// Leave lets requests that Hold holds back fail with ErrMoved, and every later one.
// Nothing but Close may be done with the device afterwards.
func (l *Changes) Leave() {
	h := l.held.Load()
	h.err = ErrMoved
	close(h.over)
}

// Stop ends the log, if requests are not held back.
func (l *Changes) Stop() {
	if l.held.Load() == nil {
		l.d.changes.CompareAndSwap(l, nil)
	}
}
