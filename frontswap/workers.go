package frontswap

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/tmemd/tmemd/backends"
)

const (
	blockBytes = BlockPages * backends.PageSize

	// maxLoaders bounds the blocks of a drain that are read from the backend at
	// once.
	maxLoaders = 4

	// yieldPages is after how many pages a drain lets others have its processor:
	// some 30 µs of decompression. Requests do not wait for the scheduler's 10 ms.
	yieldPages = 8
)

// loaders is how many blocks of a drain are read from the backend at once, which
// has to decompress them: on half of the processors. When all of them did that,
// readers beside the drain lost three quarters of their throughput.
func loaders() int { return max(1, min(runtime.GOMAXPROCS(0)/2, maxLoaders)) }

// spareLoaders is how many more there may be while nobody asks for pages.
func spareLoaders() int { return min(runtime.GOMAXPROCS(0), maxLoaders) - loaders() }

// beginLoading waits for a worker's turn to read a block from the backend. The
// token that it sent is to be received when the block is read.
func (m *move) beginLoading() chan struct{} {
	if m.alone() {
		select {
		case m.loading <- struct{}{}:
			return m.loading
		case m.spare <- struct{}{}:
			return m.spare
		}
	}
	m.loading <- struct{}{}
	return m.loading
}

// alone says whether no page was loaded, stored or dropped by anybody else since
// the last block was begun, some hundred microseconds ago.
func (m *move) alone() bool {
	asked := uint64(0)
	for _, a := range m.areas {
		asked += a.counters.asked()
	}
	return m.asked.Swap(asked) == asked
}

// workers is how many blocks of a move are in hand at once: those that are being
// read, and one that storage writes meanwhile. Looking for cold pages is a walk
// with a hand, and stops at an exact number: it has one.
func (m *move) workers() int {
	if m.cold {
		return 1
	}
	return cap(m.loading) + cap(m.spare) + 1
}

// span is a block to be moved.
type span struct {
	first uint64
	n     int
}

// workers move the blocks of one area. Each has one block at a time, so the
// order of page locks holds for it as for anybody. They take blocks in ascending
// order, and storage sees them nearly so. The walk that starts them ends them.
type workers struct {
	ctx     context.Context // of the move
	inline  *block          // the only worker, if there are no goroutines
	spans   chan span       // blocks for goroutines
	stopped chan struct{}   // closed when a block has failed
	running sync.WaitGroup

	mu  sync.Mutex
	err error // the first; guarded by mu
}

// errStopped ends a walk of which a block has failed.
var errStopped = errors.New("another block failed")

func (m *move) startWorkers(a *Area, buffer []byte) *workers {
	if m.workers() == 1 {
		return &workers{ctx: m.ctx, inline: &block{m: m, a: a, buffer: buffer}}
	}
	w := &workers{ctx: m.ctx, spans: make(chan span), stopped: make(chan struct{})}
	for i := range m.workers() {
		b := &block{m: m, a: a, buffer: buffer[i*blockBytes:][:blockBytes]}
		w.running.Go(func() {
			for s := range w.spans {
				if err := b.do(s); err != nil {
					w.fail(err)
				}
			}
		})
	}
	return w
}

func (w *workers) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.stopped)
	}
}

// do has a block moved, at once or by whoever is free. An error means that no
// more blocks need come.
func (w *workers) do(s span) error {
	if w.inline != nil {
		return w.inline.do(s)
	}
	select {
	case <-w.stopped: // first, as the other one may be possible too
		return errStopped
	default:
	}
	select {
	case <-w.stopped:
		return errStopped
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	case w.spans <- s:
		return nil
	}
}

// end waits for the blocks in hand and returns how it all went: err is how the
// walk did.
func (w *workers) end(err error) error {
	if w.inline != nil {
		return err
	}
	close(w.spans)
	w.running.Wait()
	if w.err != nil {
		return w.err
	}
	return err
}

// do moves another block.
func (b *block) do(s span) error {
	b.first, b.n = s.first, s.n
	clear(b.mine[:])
	clear(b.waits[:])
	clear(b.next[:])
	clear(b.into[:])
	return b.move()
}
