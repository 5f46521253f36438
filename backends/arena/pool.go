package arena

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// warmChunks is how many free chunks keep their memory, 1 MiB in all. It spares
// a system call and the first touch of 16 pages where stores and invalidates
// balance.
const warmChunks = 16

// pool owns the chunks that belong to no class.
type pool struct {
	region  *sharedmem.Region // immutable
	touched *atomic.Int64     // the arena's
	free    atomic.Int64      // limit - heldCount + warmCount; written with mu held

	mu        sync.Mutex
	chunks    []chunk // the arena's; nil after close; guarded by mu
	limit     int     // chunks with memory, at most; guarded by mu
	warm      uint32  // first free chunk with memory + 1; guarded by mu
	clean     uint32  // first of those that Scrub has overwritten + 1, taken when there are no others; guarded by mu
	warmCount int     // of both; guarded by mu
	cold      uint32  // first free chunk that was given back + 1; guarded by mu
	bump      int     // chunks from here on were never taken; guarded by mu
	heldCount int     // chunks in classes, warm or being given back; guarded by mu
	keep      bool    // free chunks keep their memory, all of them; guarded by mu
}

// take hands out a chunk, warm ones first. Beyond what it has touched, a chunk
// reads as zeros.
func (p *pool) take() (n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.countLocked()
	p.cleanLocked()
	if p.warm != 0 && p.heldCount <= p.limit {
		return p.takeWarmLocked(), true
	}
	switch {
	case p.heldCount >= p.limit:
		return 0, false
	case p.cold != 0:
		n = int(p.cold - 1)
		p.cold = p.chunks[n].next
	case p.bump < len(p.chunks):
		n = p.bump
		p.bump++
	default:
		return 0, false
	}
	p.heldCount++
	return n, true
}

// cleanLocked makes chunks that were overwritten the warm ones if there are no others.
func (p *pool) cleanLocked() {
	if p.warm == 0 {
		p.warm, p.clean = p.clean, 0
	}
}

// takeWarmLocked takes the first warm chunk, of which there is one.
func (p *pool) takeWarmLocked() int {
	n := int(p.warm - 1)
	p.warm = p.chunks[n].next
	p.warmCount--
	return n
}

// put takes an empty chunk back: it stays warm if few are and the limit allows,
// and otherwise its memory goes back to the system.
func (p *pool) put(n int) {
	if !p.putWarm(n, warmChunks) {
		p.giveBack(n)
	}
}

// giveBack is a system call, without a lock held.
func (p *pool) giveBack(n int) {
	if p.region.Punch(int64(n)*ChunkSize, ChunkSize) != nil {
		// The memory is still ours, so the chunk counts as warm, one too many.
		p.putWarm(n, math.MaxInt)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.countLocked()
	p.touched.Add(-int64(p.chunks[n].touched) * pageSize)
	p.chunks[n].touched = 0
	p.chunks[n].next = p.cold
	p.cold = uint32(n + 1)
	p.heldCount--
}

func (p *pool) putWarm(n, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.warmCount >= limit && !p.keep || p.heldCount > p.limit && limit != math.MaxInt {
		return false
	}
	p.chunks[n].next = p.warm
	p.warm = uint32(n + 1)
	p.warmCount++
	p.countLocked()
	return true
}

// trim gives back what is kept for reuse.
func (p *pool) trim() {
	for range warmChunks {
		p.mu.Lock()
		p.cleanLocked()
		if p.warm == 0 || p.keep && p.heldCount <= p.limit {
			p.mu.Unlock()
			return
		}
		n := p.takeWarmLocked()
		p.countLocked()
		p.mu.Unlock()
		p.giveBack(n)
	}
}

// keepAll has free chunks keep their memory while the limit allows.
func (p *pool) keepAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = true
}

func (p *pool) setLimit(chunks int) {
	p.mu.Lock()
	p.limit = chunks
	p.countLocked()
	over := p.heldCount > chunks
	p.mu.Unlock()
	if over {
		p.trim()
	}
}

// room is what take could hand out, less than 0 if more is held than the limit.
func (p *pool) room() int { return int(p.free.Load()) }

func (p *pool) countLocked() { p.free.Store(int64(p.limit - p.heldCount + p.warmCount)) }

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks, p.limit, p.warm, p.clean, p.warmCount, p.cold, p.bump, p.heldCount = nil, 0, 0, 0, 0, 0, 0, 0
	p.countLocked()
}
