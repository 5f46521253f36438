package tier

import (
	"errors"
	"math/bits"
	"slices"
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

	// marks has a bit for each block. A longer list with the same pieces in front
	// replaces it when the device grows, so no mark is lost.
	marks atomic.Pointer[[]*markPiece]
	left  atomic.Int64  // bits set, roughly
	wake  chan struct{} // holds a token if there may be marks
	quit  chan struct{}
	done  sync.WaitGroup
}

// markPiece is the marks of 4096 blocks: 4 GiB of pages.
type markPiece [pieceWords]atomic.Uint64

const pieceWords = 64

// sweepPause is how long a sweep waits after a failure, before it tries again.
const sweepPause = time.Second

// errStopSweeping ends a sweep and drops its marks.
var errStopSweeping = errors.New("nothing more to do")

// errQuit is what a sweep returns that was told to quit.
var errQuit = errors.New("told to quit")

func (s *sweeper) start(pages uint64) {
	s.marks.Store(new([]*markPiece))
	s.grow(pages)
	s.wake, s.quit = make(chan struct{}, 1), make(chan struct{})
	s.done.Go(s.run)
}

// grow makes room for the marks of so many pages. One call at a time.
func (s *sweeper) grow(pages uint64) {
	const piece = pieceWords * 64 * frontswap.BlockPages
	pieces := slices.Clone(*s.marks.Load())
	for uint64(len(pieces)) < (pages+piece-1)/piece {
		pieces = append(pieces, new(markPiece))
	}
	s.marks.Store(&pieces)
}

func (s *sweeper) stop() {
	close(s.quit)
	s.done.Wait()
}

// mark says that the blocks of pages from first to before last want a visit.
func (s *sweeper) mark(first, last uint64) {
	pieces := *s.marks.Load()
	for block := first / frontswap.BlockPages; block <= (last-1)/frontswap.BlockPages; block++ {
		word, bit := &pieces[block/64/pieceWords][block/64%pieceWords], uint64(1)<<(block%64)
		// Looked at first: a burst of writes marks one block again and again.
		if word.Load()&bit == 0 && word.Or(bit)&bit == 0 {
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
		if errors.Is(err, errQuit) {
			return
		}
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
	for i, piece := range *s.marks.Load() {
		for j := range piece {
			err := s.sweepWord(&piece[j], uint64(i*pieceWords+j)*64)
			if err != nil && (s.retry || errors.Is(err, errStopSweeping) || errors.Is(err, errQuit)) {
				return err
			}
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// sweepWord visits the marked ones of the 64 blocks from base on.
func (s *sweeper) sweepWord(word *atomic.Uint64, base uint64) error {
	var failed error
	for set := word.Load(); set != 0; set &= set - 1 {
		select {
		case <-s.quit:
			return errQuit
		default:
		}
		bit := set & -set
		word.And(^bit)
		s.left.Add(-1)
		first := (base + uint64(bits.TrailingZeros64(bit))) * frontswap.BlockPages
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
	return failed
}
