package tier

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/frontswap"
)

// puncher gives the space of holes back to storage, behind the requests: trim
// only marks. What is left to do is one bit for each block in which pages have
// become holes; the pages themselves say whether they still are.
//
// Its goroutine runs from newPuncher to stop.
type puncher struct {
	d     *Device
	marks []atomic.Uint64 // a bit for each block
	wake  chan struct{}   // holds a token if there may be marks
	quit  chan struct{}
	done  sync.WaitGroup

	unable atomic.Bool // storage cannot punch
}

func newPuncher(d *Device) *puncher {
	blocks := (d.area.Pages() + frontswap.BlockPages - 1) / frontswap.BlockPages
	p := &puncher{
		d: d, marks: make([]atomic.Uint64, (blocks+63)/64),
		wake: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	p.done.Go(p.run)
	return p
}

func (p *puncher) stop() {
	close(p.quit)
	p.done.Wait()
}

// mark notes that pages from first to before last have become holes.
func (p *puncher) mark(first, last uint64) {
	if p.unable.Load() {
		return
	}
	for block := first / frontswap.BlockPages; block <= (last-1)/frontswap.BlockPages; block++ {
		p.marks[block/64].Or(1 << (block % 64))
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *puncher) run() {
	for {
		select {
		case <-p.quit:
			return
		case <-p.wake:
		}
		if err := p.sweep(p.quit); err != nil {
			p.d.log.Warn("space of discarded pages is not given back", "error", err)
		}
	}
}

// sweep punches the holes of every marked block, until quit is closed. A block
// that fails is forgotten: its holes are dead space, not wrong data.
func (p *puncher) sweep(quit <-chan struct{}) error {
	var failed error
	for i := range p.marks {
		for set := p.marks[i].Swap(0); set != 0; set &= set - 1 {
			select {
			case <-quit:
				return failed
			default:
			}
			block := uint64(i*64 + bits.TrailingZeros64(set))
			err := p.holes(block*frontswap.BlockPages, p.d.storage.PunchPages)
			if errors.Is(err, ErrNoPunch) {
				p.unable.Store(true)
				return err
			}
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// holes calls do for each run of holes of the block at first. The pages stay
// holes meanwhile: they read as zeros without storage, and writes wait.
func (p *puncher) holes(first uint64, do func(first, n uint64) error) error {
	last := min(first+frontswap.BlockPages, p.d.area.Pages())
	var hole [frontswap.BlockPages]bool
	for page := first; page < last; page++ {
		p.d.area.LockUpdate(page)
		hole[page-first] = p.d.area.Owner(page) == frontswap.OwnerHole
		if !hole[page-first] {
			p.d.area.UnlockUpdate(page)
		}
	}
	var failed error
	for page := first; page < last; page++ {
		start := page
		for page < last && hole[page-first] {
			page++
		}
		if page == start {
			continue
		}
		if failed == nil {
			failed = do(start, page-start)
		}
		for locked := start; locked < page; locked++ {
			p.d.area.UnlockUpdate(locked)
		}
	}
	return failed
}

// settle makes every hole of the device zero on storage: punched, or written
// where storage cannot punch.
func (p *puncher) settle() error {
	for first := uint64(0); first < p.d.area.Pages(); first += frontswap.BlockPages {
		err := p.holes(first, p.d.storage.PunchPages)
		if errors.Is(err, ErrNoPunch) {
			err = p.holes(first, p.writeZeroes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *puncher) writeZeroes(first, n uint64) error {
	return p.d.storage.WritePages(first, make([]byte, n*pageSize))
}
