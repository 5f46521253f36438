package tier

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tmemd/tmemd/frontswap"
)

// puncher gives the space of holes back to storage, behind the requests: trim
// only marks.
type puncher struct {
	d *Device
	sweeper
	unable atomic.Bool // storage cannot punch
}

func newPuncher(d *Device) *puncher {
	p := &puncher{d: d}
	p.visit = p.block
	p.fault = func(err error) { d.log.Warn("space of discarded pages is not given back", "error", err) }
	p.start(d.area.Pages())
	return p
}

// discarded notes that pages from first to before last have become holes.
func (p *puncher) discarded(first, last uint64) {
	if !p.unable.Load() {
		p.mark(first, last)
	}
}

// block punches the holes of the block at first. One that fails is forgotten:
// its holes are dead space, not wrong data.
func (p *puncher) block(first uint64) error {
	err := p.holes(first, p.d.storage.PunchPages)
	if errors.Is(err, ErrNoPunch) {
		p.unable.Store(true)
		return fmt.Errorf("%w: %w", errStopSweeping, err)
	}
	return err
}

// holes calls do for each run of holes of the block at first.
//
// It takes no page lock: a trim, or a store that a backend takes, must not wait
// for a disk that punches. Only writes to storage do, see storageLocks: a page
// that stops being a hole meanwhile has its data elsewhere until such a write.
func (p *puncher) holes(first uint64, do func(first, n uint64) error) error {
	lock := p.d.storageLock(first)
	lock.Lock()
	defer lock.Unlock()
	last := min(first+frontswap.BlockPages, p.d.area.Pages())
	for page := first; page < last; page++ {
		start := page
		for page < last && p.d.area.Owner(page) == frontswap.OwnerHole {
			page++
		}
		if page == start {
			continue
		}
		if err := do(start, page-start); err != nil {
			return err
		}
	}
	return nil
}

// settle makes every hole of the device zero on storage: punched, or written
// where storage cannot punch. Pages that nobody wrote are what storage has.
func (p *puncher) settle() error {
	return p.d.area.Touched(func(first, last uint64) error {
		for ; first < last; first += frontswap.BlockPages {
			err := p.holes(first, p.d.storage.PunchPages)
			if errors.Is(err, ErrNoPunch) {
				err = p.holes(first, p.writeZeroes)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *puncher) writeZeroes(first, n uint64) error {
	return p.d.storage.WritePages(first, make([]byte, n*pageSize))
}
