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
	lz4  pagelz4.Encoder
	out  [pagelz4.Bound]byte
	seal seal // for pages of ephemeral exports
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
		c.countSame(key.Export, 1)
		return samefilled.Handle(key, value), c.count(backends.Accepted), nil
	}
	if e.ephemeral {
		ref, refusal := c.storeCached(e, key, data)
		return backends.Handle(ref), c.count(refusal), nil
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
// Ephemeral pages give way first (B26).
func (c *Cache) isFull() bool {
	if c.stagedBytes.Load() > c.config.Staging*15/16 || c.stubs.Load() >= c.config.Pages {
		return true // of what ephemeral pages have no part in
	}
	for int64(c.arena.Room()) <= c.config.stubChunks() {
		if c.arena.Reclaim(1, c.cached.dropAny) == 0 {
			return true
		}
	}
	return false
}

// put is arena.Put. What is droppable makes room for what is not.
func (c *Cache) put(o arena.Object) (arena.Ref, bool) {
	ref, ok := c.arena.Put(o)
	for !ok && c.arena.Reclaim(1, c.cached.dropAny) > 0 {
		ref, ok = c.arena.Put(o)
	}
	return ref, ok
}

// encode makes the object of a page that its donors do not have yet.
func (w *encoder) encode(key backends.Key, data []byte) arena.Object {
	o := arena.Object{Export: key.Export, Page: key.Page, Codec: codecRaw, Sum: crc32.Checksum(data, castagnoli), Data: data}
	if n := w.lz4.Encode(&w.out, (*[backends.PageSize]byte)(data), maxCompressed); n > 0 {
		o.Codec, o.Data = codecLZ4, w.out[:n]
	}
	return o
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
	return c.stageObject(w.encode(key, data))
}

// stageObject is stage of a page that is compressed, or is to stay as it is.
func (c *Cache) stageObject(o arena.Object) (arena.Ref, backends.Refusal) {
	// Before it is there: what is counted is never less than what is.
	c.stagedBytes.Add(stagedSlot(len(o.Data)))
	ref, ok := c.put(o)
	if !ok {
		c.stagedBytes.Add(-stagedSlot(len(o.Data)))
		return 0, backends.RefusedFull
	}
	// Others may have found the same room, each for a size of its own: who took what is for stubs
	// gives it back.
	if int64(c.arena.Room()) < c.config.stubChunks() {
		c.forgetStaged(ref, len(o.Data))
		return 0, backends.RefusedFull
	}
	select {
	case c.staged <- staged{backends.Key{Export: o.Export, Page: o.Page}, ref}:
		return ref, backends.Accepted
	default: // full of small pages, or of some that are gone already
		c.forgetStaged(ref, len(o.Data))
		return 0, backends.RefusedFull
	}
}
