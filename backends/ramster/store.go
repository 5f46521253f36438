package ramster

import (
	"fmt"
	"hash/crc32"
	"runtime"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pagelz4"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// staged names a page that waits to be sent.
type staged struct {
	key backends.Key
	ref arena.Ref
}

const (
	// stagedEach is what a staged page takes at least, on average, for the length of
	// the queue: smaller ones make the queue full before the area is.
	stagedEach = 1024
	// maxCompressed is what a page must get down to, or it is kept as it came: what is
	// saved below that is not worth decompressing.
	maxCompressed = backends.PageSize * 7 / 8
)

// encoder is the working memory for one compression.
type encoder struct {
	lz4 pagelz4.Encoder
	out [pagelz4.Bound]byte
}

// newEncoders makes four for each processor that runs goroutines. A goroutine which
// is preempted keeps its own, so one for each is too few.
func newEncoders() chan *encoder {
	n := max(16, 4*runtime.GOMAXPROCS(0))
	all := make(chan *encoder, n)
	for range n {
		all <- &encoder{}
	}
	return all
}

// stagedSlot is what a staged page of that many bytes takes of the arena, about.
func stagedSlot(length int) int64 {
	return int64(length+16+arena.RefUnit-1) / arena.RefUnit * arena.RefUnit
}

// Store compresses the page into the staging area, or into the handle. That it is
// there is all that is waited for.
func (c *Cache) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	if len(data) != backends.PageSize || key.Page >= backends.MaxPages {
		return 0, backends.Accepted, fmt.Errorf("store page %d of export %d in ramster: page number or length of %d bytes is out of range",
			key.Page, key.Export, len(data))
	}
	e := (*c.exports.Load())[key.Export]
	if e == nil {
		return 0, c.count(backends.RefusedUnmanaged), nil
	}
	if value, ok := samefilled.Of(data); ok {
		c.same.Add(1)
		return samefilled.Handle(key, value), c.count(backends.Accepted), nil
	}
	if c.isFull() {
		return 0, c.count(backends.RefusedFull), nil
	}
	ref, refusal := c.stage(key, data)
	if refusal == backends.Accepted {
		e.charge.Add(c.arena.SizeOf(ref))
	}
	return backends.Handle(ref), c.count(refusal), nil
}

// isFull says whether the staging area is, or donors have as many pages as they may.
// A thirty-second of the memory is for stubs alone: while there is room for those,
// staged pages leave.
func (c *Cache) isFull() bool {
	limit := c.config.arenaLimit() / arena.ChunkSize
	return c.stagedBytes.Load() > c.config.Staging*15/16 || c.stubs.Load() >= c.config.Pages || int64(c.arena.Room()) <= limit/32
}

// stage puts the page into the staging area.
func (c *Cache) stage(key backends.Key, data []byte) (arena.Ref, backends.Refusal) {
	var w *encoder
	select {
	case w = <-c.encoders:
		defer func() { c.encoders <- w }()
	default:
		return 0, backends.RefusedBusy
	}
	o := arena.Object{Export: key.Export, Page: key.Page, Codec: codecRaw, Sum: crc32.Checksum(data, castagnoli), Data: data}
	if n := w.lz4.Encode(&w.out, (*[backends.PageSize]byte)(data), maxCompressed); n > 0 {
		o.Codec, o.Data = codecLZ4, w.out[:n]
	}
	// Before it is there: what is counted is never less than what is.
	c.stagedBytes.Add(stagedSlot(len(o.Data)))
	ref, ok := c.arena.Put(o)
	if !ok {
		c.stagedBytes.Add(-stagedSlot(len(o.Data)))
		return 0, backends.RefusedFull
	}
	select {
	case c.staged <- staged{key, ref}:
		return ref, backends.Accepted
	default: // full of small pages, or of some that are gone already
		c.forgetStaged(ref, len(o.Data))
		return 0, backends.RefusedFull
	}
}
