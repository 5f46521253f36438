package tier

import (
	"fmt"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
)

// Writethrough says whether pages that a backend takes go to storage as well.
// A page that storage has too can be dropped by its backend without I/O, and
// read from storage when its backend fails.
type Writethrough int32

// The modes. Off is the zero value.
const (
	WritethroughOff   Writethrough = iota // storage gets what no backend takes
	WritethroughAsync                     // copied to storage soon after the write was answered
	WritethroughSync                      // copied before the write is answered, as long as storage works
)

var writethroughNames = [...]string{"off", "async", "sync"}

// String returns the mode as configuration and the admin API spell it.
func (w Writethrough) String() string { return writethroughNames[w] }

// ParseWritethrough is the inverse of String.
func ParseWritethrough(s string) (Writethrough, error) {
	for i, name := range writethroughNames {
		if name == s {
			return Writethrough(i), nil
		}
	}
	return 0, fmt.Errorf("writethrough %q is none of off, async, sync", s)
}

// SetWritethrough changes the mode for all writes from now on. Turning it on
// also copies the pages that backends have already, behind the requests.
func (d *Device) SetWritethrough(w Writethrough) {
	old := Writethrough(d.writethrough.Swap(int32(w)))
	if (old == WritethroughOff) != (w == WritethroughOff) {
		d.syncer.mark(0, d.area.Pages()) // to copy what backends have, or to end it
	}
}

// Writethrough returns the mode.
func (d *Device) Writethrough() Writethrough { return Writethrough(d.writethrough.Load()) }

// syncer copies pages that backends have to storage, behind the requests.
type syncer struct {
	d *Device
	sweeper

	// buffer is for one block: made when there is something to copy, and given back
	// when the mode is off. Its goroutine's, and Stats looks.
	buffer atomic.Pointer[sharedmem.Region]
}

func newSyncer(d *Device) *syncer {
	s := &syncer{d: d}
	s.visit, s.retry = s.block, true
	s.fault = func(err error) { d.log.Warn("pages are not copied to storage yet", "error", err) }
	s.start(d.area.Pages())
	return s
}

func (s *syncer) stop() error {
	s.sweeper.stop()
	return s.giveBack()
}

func (s *syncer) giveBack() error {
	if buffer := s.buffer.Swap(nil); buffer != nil {
		return buffer.Close()
	}
	return nil
}

func (s *syncer) takeBuffer() error {
	if s.buffer.Load() != nil {
		return nil
	}
	buffer, err := sharedmem.NewPrivate("writethrough buffer", frontswap.BlockPages*pageSize)
	if err != nil {
		return err
	}
	s.buffer.Store(buffer)
	return nil
}

// block copies what the block at first has in backends and not on storage.
// Loads go on meanwhile; writes to these pages wait (T4).
func (s *syncer) block(first uint64) error {
	if s.d.Writethrough() == WritethroughOff {
		return s.giveBack() // the mark is gone: turning it on marks everything
	}
	if err := s.takeBuffer(); err != nil {
		return err
	}
	last := min(first+frontswap.BlockPages, s.d.area.Pages())
	var mine [frontswap.BlockPages]bool
	for page := first; page < last; page++ {
		s.d.area.LockUpdate(page)
		mine[page-first] = s.d.area.Unsynced(page)
		if !mine[page-first] {
			s.d.area.UnlockUpdate(page)
		}
	}
	var failed error
	for page := first; page < last; page++ {
		start := page
		for page < last && mine[page-first] {
			page++
		}
		if page == start {
			continue
		}
		if failed == nil {
			failed = s.run(start, page)
		}
		for locked := start; locked < page; locked++ {
			s.d.area.UnlockUpdate(locked)
		}
	}
	return failed
}

// run copies the pages from start to before end. REQUIRES: LockUpdate held.
func (s *syncer) run(start, end uint64) error {
	run := s.buffer.Load().Bytes()[:(end-start)*pageSize]
	for page := start; page < end; page++ {
		if err := s.d.area.Load(page, run[(page-start)*pageSize:][:pageSize]); err != nil {
			// Its own reads will say so; the others are copied.
			if page > start {
				if err := s.run(start, page); err != nil {
					return err
				}
			}
			if page+1 < end {
				return s.run(page+1, end)
			}
			return nil
		}
	}
	if err := s.d.WritePages(start, run); err != nil {
		return fmt.Errorf("copy pages to storage: %w", err)
	}
	for page := start; page < end; page++ {
		s.d.area.SetSynced(page)
	}
	return nil
}
