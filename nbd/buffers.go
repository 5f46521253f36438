package nbd

import (
	"container/list"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"
)

// Buffers are handed out in powers of two of at least 16 KiB: enough for the
// pages that a swap-in reads, and few enough mappings at any budget.
const (
	smallestClass = 14 // log2
	largestClass  = 25 // log2(MaxPayload)
	classes       = largestClass - smallestClass + 1
)

// bufferPool lends memory for requests that outlive a batch: those that wait in
// a worker, and those too large for a connection's own buffers. It is mapped
// memory outside the Go heap, at most limit bytes of it, kept when it comes
// back and unmapped when another size needs the room (N5).
//
// A waiter is served in its turn, and nobody overtakes: otherwise small
// requests would keep a large one waiting for ever.
type bufferPool struct {
	limit int64 // immutable; at least MaxPayload, so that any request can be served
	touch bool  // immutable; fault memory in when it is mapped

	mu struct {
		sync.Mutex
		lent    int64 // bytes in use
		mapped  int64 // bytes in use and idle
		idle    [classes][][]byte
		waiters list.List // of *bufferWaiter, first come first served
	}
}

type bufferWaiter struct {
	class int
	ready chan []byte // receives a buffer, or nil for one that the waiter maps itself
}

func newBufferPool(limit int64, touch bool) *bufferPool {
	return &bufferPool{limit: limit, touch: touch}
}

// What a pool that touches its memory maps beforehand: buffers of the sizes that
// Linux swaps with, from a page to the 128 KiB that it merges, and a few larger.
// To map one while the host is short of memory is to wait for the host.
var beforehand = [...]struct{ bytes, count int }{{16 << 10, 64}, {64 << 10, 16}, {128 << 10, 32}, {1 << 20, 2}}

// prepare maps buffers beforehand, as far as the limit goes.
func (p *bufferPool) prepare() error {
	var ready [][]byte
	for _, size := range beforehand {
		for range size.count {
			b, err := p.get(size.bytes)
			if err != nil {
				return err
			}
			ready = append(ready, b)
		}
	}
	for _, b := range ready {
		p.put(b)
	}
	return nil
}

// errNoBuffer is in the chain when the system has no memory for a buffer.
var errNoBuffer = errors.New("no memory for a buffer")

// mapMemory maps private memory. It belongs to the caller, who unmaps it.
func mapMemory(size int64, touch bool) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("%w: map %d bytes: %w", errNoBuffer, size, err)
	}
	if touch {
		touchMemory(b)
	}
	return b, nil
}

// touchMemory writes to every page of new memory. Not by MAP_POPULATE, which does
// nothing in a process that locks its memory on fault, as one does that serves
// the host's own swap.
func touchMemory(b []byte) {
	for at := 0; at < len(b); at += pageSize {
		b[at] = 0
	}
}

// bufferClass is the index of the smallest class that holds n bytes, which is
// from 1 to MaxPayload.
func bufferClass(n int) int {
	return max(bits.Len(uint(n-1)), smallestClass) - smallestClass
}

func classBytes(class int) int64 { return 1 << (class + smallestClass) }

// tryGet returns n bytes, or nil if they would have to be waited for.
func (p *bufferPool) tryGet(n int) ([]byte, error) {
	class := bufferClass(n)
	p.mu.Lock()
	if p.touch {
		class = p.nextIdleLocked(class)
	}
	if p.mu.waiters.Len() > 0 || class == classes || !p.fitsLocked(class) {
		p.mu.Unlock()
		return nil, nil
	}
	b, victims := p.lendLocked(class)
	p.mu.Unlock()
	return p.finish(b, victims, class, n)
}

// get returns n bytes, waiting until they are there.
func (p *bufferPool) get(n int) ([]byte, error) {
	class := bufferClass(n)
	p.mu.Lock()
	if p.mu.waiters.Len() == 0 && p.fitsLocked(class) {
		b, victims := p.lendLocked(class)
		p.mu.Unlock()
		return p.finish(b, victims, class, n)
	}
	w := &bufferWaiter{class: class, ready: make(chan []byte, 1)}
	p.mu.waiters.PushBack(w)
	p.mu.Unlock()
	return p.finish(<-w.ready, nil, class, n)
}

// put takes back a buffer and passes the room on.
func (p *bufferPool) put(b []byte) {
	class := bufferClass(cap(b))
	p.mu.Lock()
	p.mu.lent -= classBytes(class)
	p.mu.idle[class] = append(p.mu.idle[class], b[:cap(b)])
	victims := p.serveWaitersLocked()
	p.mu.Unlock()
	unmapAll(victims)
}

// nextIdleLocked is the smallest class from class on that has an idle buffer, or
// classes. A pool that touches its memory lends no other: mapping and unmapping
// wait for each other's page faults, and those for memory, on a host that is short
// of it (seen in the VM: each of two threads in mmap and munmap, for minutes).
func (p *bufferPool) nextIdleLocked(class int) int {
	for ; class < classes; class++ {
		if len(p.mu.idle[class]) > 0 {
			break
		}
	}
	return class
}

// fitsLocked says whether a buffer of the class can be lent now, if need be by
// unmapping idle ones.
func (p *bufferPool) fitsLocked(class int) bool {
	return p.mu.lent+classBytes(class) <= p.limit
}

// lendLocked takes an idle buffer, or nil and the right to map one. The victims
// made room for it and are the caller's to unmap once the lock is free.
// REQUIRES: fitsLocked(class).
func (p *bufferPool) lendLocked(class int) (b []byte, victims [][]byte) {
	p.mu.lent += classBytes(class)
	if n := len(p.mu.idle[class]); n > 0 {
		b = p.mu.idle[class][n-1]
		p.mu.idle[class] = p.mu.idle[class][:n-1]
		return b, nil
	}
	p.mu.mapped += classBytes(class)
	for other := classes - 1; p.mu.mapped > p.limit; {
		n := len(p.mu.idle[other])
		if n == 0 {
			other--
			continue
		}
		victims = append(victims, p.mu.idle[other][n-1])
		p.mu.idle[other] = p.mu.idle[other][:n-1]
		p.mu.mapped -= classBytes(other)
	}
	return nil, victims
}

// serveWaitersLocked lends to those whose turn it is, as far as it goes.
func (p *bufferPool) serveWaitersLocked() (victims [][]byte) {
	for e := p.mu.waiters.Front(); e != nil; e = p.mu.waiters.Front() {
		w := e.Value.(*bufferWaiter)
		if !p.fitsLocked(w.class) {
			break
		}
		p.mu.waiters.Remove(e)
		b, more := p.lendLocked(w.class)
		victims = append(victims, more...)
		w.ready <- b
	}
	return victims
}

// finish maps what lendLocked granted but did not have. Mapping is left out of
// the lock: 32 MiB with every page touched take milliseconds.
func (p *bufferPool) finish(b []byte, victims [][]byte, class, n int) ([]byte, error) {
	unmapAll(victims)
	if b != nil {
		return b[:n], nil
	}
	b, err := mapMemory(classBytes(class), p.touch)
	if err != nil {
		p.mu.Lock()
		p.mu.lent -= classBytes(class)
		p.mu.mapped -= classBytes(class)
		victims = p.serveWaitersLocked()
		p.mu.Unlock()
		unmapAll(victims)
		return nil, err
	}
	return b[:n], nil
}

// contended says whether somebody waits for a buffer.
func (p *bufferPool) contended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.waiters.Len() > 0
}

func (p *bufferPool) usage() (mapped, lent int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.mapped, p.mu.lent
}

// close unmaps everything. Nothing may be lent.
func (p *bufferPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for class := range p.mu.idle {
		unmapAll(p.mu.idle[class])
		p.mu.mapped -= int64(len(p.mu.idle[class])) * classBytes(class)
		p.mu.idle[class] = nil
	}
}

func unmapAll(buffers [][]byte) {
	for _, b := range buffers {
		// It cannot fail for a mapping that we made.
		_ = unix.Munmap(b)
	}
}
