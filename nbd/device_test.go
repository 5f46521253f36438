package nbd

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// memoryDevice is a Device over a byte slice, with faults on demand.
type memoryDevice struct {
	mu   sync.RWMutex
	data []byte // guarded by mu

	refuse func() bool   // if not nil: whether a Try call is refused
	fail   func() error  // if not nil: what a call other than Try returns
	gate   chan struct{} // if not nil: calls other than Try wait for it

	syncs, trims, zeroes, writes, tries atomic.Int64
	prefetches                          atomic.Int64
	punched                             atomic.Int64 // WriteZeroes calls that may punch
	waiting                             atomic.Int64 // calls that wait for the gate
}

// newMemoryDevice returns a device of size bytes with content that tells every
// eight bytes of it apart.
func newMemoryDevice(size int) *memoryDevice {
	return &memoryDevice{data: patterned(size, 0)}
}

// noise is random bytes, of a length that no page or buffer size divides.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20+7)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b
})

// patterned returns n bytes that repeat only every 1 MiB and 7 bytes, and start
// somewhere else for each seed: a byte from anywhere else is noticed.
func patterned(n int, seed uint64) []byte {
	source := noise()
	b := make([]byte, 0, n)
	for from := int(seed * 7919 % uint64(len(source))); len(b) < n; from = 0 {
		b = append(b, source[from:min(len(source), from+n-len(b))]...)
	}
	return b
}

// opener returns a function that opens the gate. A test that fails opens it too,
// before the server is closed: call it after startServer.
func (d *memoryDevice) opener(t testing.TB) func() {
	open := sync.OnceFunc(func() { close(d.gate) })
	t.Cleanup(open)
	return open
}

func (d *memoryDevice) enter() error {
	if d.gate != nil {
		d.waiting.Add(1)
		<-d.gate
		d.waiting.Add(-1)
	}
	if d.fail != nil {
		return d.fail()
	}
	return nil
}

func (d *memoryDevice) Size() (int64, error) { return int64(len(d.data)), nil }

func (d *memoryDevice) ReadAt(p []byte, off int64) (int, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return copy(p, d.data[off:]), nil
}

func (d *memoryDevice) WriteAt(p []byte, off int64) (int, error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	d.writes.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.data[off:], p), nil
}

func (d *memoryDevice) TryReadAt(p []byte, off int64) bool {
	d.tries.Add(1)
	if d.refuse != nil && d.refuse() {
		clear(p)
		return false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[off:])
	return true
}

func (d *memoryDevice) TryWriteAt(p []byte, off int64) int {
	d.tries.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil && d.refuse() {
		return copy(d.data[off:], p[:len(p)/2]) // the rest comes by WriteAt
	}
	d.writes.Add(1)
	return copy(d.data[off:], p)
}

func (d *memoryDevice) Sync() error {
	d.syncs.Add(1)
	return d.enter()
}

func (d *memoryDevice) Trim(off, length int64) error {
	d.trims.Add(1)
	return d.zero(off, length)
}

func (d *memoryDevice) Prefetch(off, length int64) error {
	d.prefetches.Add(1)
	return d.enter()
}

func (d *memoryDevice) WriteZeroes(off, length int64, punch bool) error {
	d.zeroes.Add(1)
	if punch {
		d.punched.Add(1)
	}
	return d.zero(off, length)
}

func (d *memoryDevice) zero(off, length int64) error {
	if err := d.enter(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+length])
	return nil
}

// bytes returns a copy of the content.
func (d *memoryDevice) bytes() []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return append([]byte(nil), d.data...)
}

// Extents tells runs of whole pages of zeros from the rest, whose owner is the
// number of the page's first byte divided by 64.
func (d *memoryDevice) Extents(off, length int64, report func(int64, bool, uint32) bool) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for end := off + length; off < end; {
		n := min(pageSize-off%pageSize, end-off)
		page := d.data[off/pageSize*pageSize:][:pageSize]
		if !report(n, isZero(page), uint32(page[0])/64) {
			return nil
		}
		off += n
	}
	return nil
}

func always() bool { return true }

// vastDevice reads as zero everywhere and takes no memory: for ranges that no
// slice has.
type vastDevice struct {
	*memoryDevice
	size int64
}

func (d vastDevice) Size() (int64, error) { return d.size, nil }

func (d vastDevice) Extents(off, length int64, report func(int64, bool, uint32) bool) error {
	report(length, true, 0)
	return nil
}

func (d vastDevice) Trim(off, length int64) error {
	d.trims.Add(1)
	return nil
}

func (d vastDevice) WriteZeroes(off, length int64, punch bool) error {
	d.zeroes.Add(1)
	return nil
}

// panickyDevice panics whatever it is asked.
type panickyDevice struct{ *memoryDevice }

func (panickyDevice) TryReadAt([]byte, int64) bool         { panic("try read") }
func (panickyDevice) TryWriteAt([]byte, int64) int         { panic("try write") }
func (panickyDevice) Sync() error                          { panic("sync") }
func (panickyDevice) Trim(off, length int64) error         { panic("trim") }
func (panickyDevice) Prefetch(off, length int64) error     { panic("prefetch") }
func (panickyDevice) WriteAt([]byte, int64) (int, error)   { panic("write") }
func (panickyDevice) WriteZeroes(int64, int64, bool) error { panic("zeroes") }
func (panickyDevice) Extents(int64, int64, func(int64, bool, uint32) bool) error {
	panic("extents")
}
