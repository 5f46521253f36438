package backends

import "sync/atomic"

// Charge is the memory that an export's pages take in a backend: what
// [Backend.Used] reads. It has a cache line of its own, so that exports do not
// disturb each other. The zero value is no memory.
type Charge struct {
	_     [56]byte
	bytes atomic.Int64
	_     [56]byte
}

// Add charges more bytes, or gives them back if they are below 0.
func (c *Charge) Add(bytes int64) { c.bytes.Add(bytes) }

// Bytes is what is charged. Never below 0: an older copy may be given back before
// the newer one is charged.
func (c *Charge) Bytes() uint64 { return uint64(max(c.bytes.Load(), 0)) }
