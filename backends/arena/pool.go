package arena

import (
	"math"
	"sync"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// warmChunks is how many free chunks keep their memory, 1 MiB in all. It spares
// a system call and the first touch of 16 pages where stores and invalidates
// balance.
const warmChunks = 16

// pool owns the chunks that belong to no class.
type pool struct {
	region *sharedmem.Region // immutable

	mu        sync.Mutex
	chunks    []chunk // the arena's; nil after close; guarded by mu
	warm      uint32  // first free chunk with memory + 1; guarded by mu
	warmCount int     // guarded by mu
	cold      uint32  // first free chunk that was given back + 1; guarded by mu
	bump      int     // chunks from here on were never taken; guarded by mu
	heldCount int     // chunks with memory: in classes, warm or being given back; guarded by mu
}

// take hands out a chunk, warm ones first. A chunk that is not warm reads as
// zeros.
func (p *pool) take() (n int, warm, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.warm != 0:
		n = int(p.warm - 1)
		p.warm = p.chunks[n].next
		p.warmCount--
		return n, true, true
	case p.cold != 0:
		n = int(p.cold - 1)
		p.cold = p.chunks[n].next
	case p.bump < len(p.chunks):
		n = p.bump
		p.bump++
	default:
		return 0, false, false
	}
	p.heldCount++
	return n, false, true
}

// put takes an empty chunk back: it stays warm if few are, and otherwise its
// memory goes back to the system, which is a system call without a lock held.
func (p *pool) put(n int) {
	if p.putWarm(n, warmChunks) {
		return
	}
	if p.region.Punch(int64(n)*ChunkSize, ChunkSize) != nil {
		// The memory is still ours, so the chunk counts as warm, one too many.
		p.putWarm(n, math.MaxInt)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks[n].next = p.cold
	p.cold = uint32(n + 1)
	p.heldCount--
}

func (p *pool) putWarm(n, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.warmCount >= limit {
		return false
	}
	p.chunks[n].next = p.warm
	p.warm = uint32(n + 1)
	p.warmCount++
	return true
}

func (p *pool) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.heldCount) * ChunkSize
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks, p.warm, p.warmCount, p.cold, p.bump, p.heldCount = nil, 0, 0, 0, 0, 0
}
