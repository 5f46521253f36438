package peer

import (
	"fmt"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// maxPools is how many pools may be open.
const maxPools = 4096

// OpenPool makes a pool, now and in each session. It returns false if it did not
// because there are too many; or if it is made in the next session only, for the backlog
// is full of pools.
func (p *Peer) OpenPool(pool uint32, ephemeral bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.pools[pool]; p.State() == Closed || !open && len(p.pools) >= maxPools {
		return false
	}
	p.pools[pool] = ephemeral
	return p.mutate(poolRequest(pool, ephemeral), nil, nil)
}

func poolRequest(pool uint32, ephemeral bool) wire.Request {
	r := wire.Request{Operation: wire.Pool, Pool: pool}
	if ephemeral {
		r.Flags = wire.Ephemeral
	}
	return r
}

// Destroy forgets a pool, here and there.
func (p *Peer) Destroy(pool uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pools, pool)
	return p.mutate(wire.Request{Operation: wire.Destroy, Pool: pool}, nil, nil)
}

// Put sends a version of a page. The blob is copied. False: there is no room in the backlog, or
// the donor is not Up, and nothing happened.
func (p *Peer) Put(pool uint32, page, generation uint64, blob []byte, done Completion) bool {
	if len(blob) == 0 || len(blob) > wire.MaxBlob || page >= wire.MaxPages || generation == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.State() == Up && p.mutate(wire.Request{
		Operation: wire.Put, Pool: pool, Page: page, Generation: generation, Length: uint32(len(blob)),
	}, blob, done)
}

// Flush takes versions of a run of 1 to 65,535 pages away, up to a generation. False: there is no
// room, and List will tell what is still there.
func (p *Peer) Flush(pool uint32, page uint64, count int, generation uint64) bool {
	if generation == 0 || count < 1 || count > 1<<16-1 || page >= wire.MaxPages || page+uint64(count) > wire.MaxPages {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mutate(wire.Request{Operation: wire.Flush, Pool: pool, Page: page, Count: uint16(count), Generation: generation}, nil, nil)
}

// FlushObject is Flush for the pages of an object, of which page is the first.
func (p *Peer) FlushObject(pool uint32, page, generation uint64) bool {
	if generation == 0 || page >= wire.MaxPages || page%wire.ObjectPages != 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mutate(wire.Request{Operation: wire.FlushObject, Pool: pool, Page: page, Generation: generation}, nil, nil)
}

// mutate adds to the backlog, with mu.
func (p *Peer) mutate(r wire.Request, blob []byte, done Completion) bool {
	if p.State() == Closed || !p.backlog.add(r, blob, done) {
		p.stats.Refused++
		return false
	}
	p.wakeWriter()
	return true
}

// Fetch asks for a run of 1 to wire.MaxRun pages. It never waits; with an error, which wraps
// ErrDown, the sink is not called.
func (p *Peer) Fetch(pool uint32, first uint64, count int, sink Sink) error {
	if count < 1 || count > wire.MaxRun || first >= wire.MaxPages || first+uint64(count) > wire.MaxPages {
		return fmt.Errorf("fetch %d pages from page %d on: %w", count, first, wire.ErrBounds)
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.State() != Up {
		return ErrDown
	}
	if p.fetches.full() {
		p.stats.Busy++
		return ErrBusy
	}
	p.fetches.add(fetch{sink: sink, pool: pool, first: first, count: uint16(count), issued: now})
	p.wakeWriter()
	return nil
}

// Abandon ends all puts that are not answered with ErrAbandoned, from a goroutine of the
// peer. Flushes and pools stay.
func (p *Peer) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.State() == Closed {
		return // the keeper ends them
	}
	if waiting := p.backlog.abandon(); len(waiting) > 0 {
		p.work.Go(func() { complete(waiting, ErrAbandoned) })
	}
}

func complete(waiting []Completion, err error) {
	for _, w := range waiting {
		w.Done(0, err)
	}
}
