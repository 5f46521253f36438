package tier

import (
	"errors"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/frontswap"
)

// sweeper does work on blocks behind the requests: requests mark a block, its
// goroutine visits each marked one. What is to be done there, the pages' words
// say when it comes; a mark only says that a look is due.
//
// Its goroutine runs from start to stop.
type sweeper struct {
	visit func(first uint64) error // immutable; called with the first page of a block
	retry bool                     // immutable: a block that failed is marked again, and visited after a pause
	fault func(error)              // immutable; told of each sweep that failed

	marks []atomic.Uint64 // a bit for each block
	left  atomic.Int64    // bits set, roughly
	wake  chan struct{}   // holds a token if there may be marks
	quit  chan struct{}
	done  sync.WaitGroup
}

// sweepPause is how long a sweep waits after a failure, before it tries again.
const sweepPause = time.Second

// errStopSweeping ends a sweep and drops its marks.
var errStopSweeping = errors.New("nothing more to do")

func (s *sweeper) start(pages uint64) {
	blocks := (pages + frontswap.BlockPages - 1) / frontswap.BlockPages
	s.marks = make([]atomic.Uint64, (blocks+63)/64)
	s.wake, s.quit = make(chan struct{}, 1), make(chan struct{})
	s.done.Go(s.run)
}

func (s *sweeper) stop() {
	close(s.quit)
	s.done.Wait()
}

// mark says that the blocks of pages from first to before last want a visit.
func (s *sweeper) mark(first, last uint64) {
	for block := first / frontswap.BlockPages; block <= (last-1)/frontswap.BlockPages; block++ {
		bit := uint64(1) << (block % 64)
		// Looked at first: a burst of writes marks one block again and again.
		if s.marks[block/64].Load()&bit == 0 && s.marks[block/64].Or(bit)&bit == 0 {
			s.left.Add(1)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sweeper) run() {
	for {
		select {
		case <-s.quit:
			return
		case <-s.wake:
		}
		err := s.sweep()
		if err == nil {
			continue
		}
		s.fault(err)
		if !s.retry {
			continue
		}
		select {
		case <-s.quit:
			return
		case <-time.After(sweepPause):
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
}

// sweep visits every marked block, until it is told to quit.
func (s *sweeper) sweep() error {
	var failed error
	for i := range s.marks {
		for set := s.marks[i].Load(); set != 0; set &= set - 1 {
			select {
			case <-s.quit:
				return failed
			default:
			}
			bit := set & -set
			s.marks[i].And(^bit)
			s.left.Add(-1)
			first := uint64(i*64+bits.TrailingZeros64(bit)) * frontswap.BlockPages
			err := s.visit(first)
			if errors.Is(err, errStopSweeping) {
				return err
			}
			if err != nil && s.retry {
				s.mark(first, first+1)
				return err
			}
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
