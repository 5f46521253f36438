package zcache

import (
	"fmt"
	"hash/crc32"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// Kind is what [Cache.Kind] returns.
const Kind = "zcache"

// What the arena can name, this backend can keep.
const (
	_ = uint64(arena.MaxPages - backends.MaxPages)
	_ = uint64(backends.HandleBits - 1 - arena.RefBits)
)

// Config says what [New] makes.
type Config struct {
	// Limit bounds the memory for pages, in bytes: at least [arena.ChunkSize],
	// and sensibly many times that, since every size in use holds a chunk.
	Limit int64
}

// Cache is compressed memory.
type Cache struct {
	limit       int64 // immutable
	arena       *arena.Arena
	compressors compressors

	// exports is the set of initialised exports. It is replaced, not changed, so
	// that Store looks it up with one atomic load.
	exports   atomic.Pointer[map[uint32]bool]
	exportsMu sync.Mutex // held to replace exports

	sameFilled atomic.Int64 // same-filled pages held
	corrupt    atomic.Uint64
	refused    [backends.Refusals]atomic.Uint64
}

var _ backends.Backend = (*Cache)(nil)

// New makes an empty cache.
func New(config Config) (*Cache, error) {
	a, err := arena.New("zcache arena", config.Limit, config.Limit)
	if err != nil {
		return nil, fmt.Errorf("create zcache: %w", err)
	}
	c := &Cache{limit: config.Limit, arena: a, compressors: newCompressors()}
	c.exports.Store(&map[uint32]bool{})
	return c, nil
}

// Kind returns "zcache".
func (c *Cache) Kind() string { return Kind }

// Local returns true: nothing here waits.
func (c *Cache) Local() bool { return true }

// Init makes the export known.
func (c *Cache) Init(export backends.Export) error {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	old := *c.exports.Load()
	if old[export.ID] {
		return fmt.Errorf("init zcache for export %d: it is initialised already", export.ID)
	}
	if export.Pages > backends.MaxPages {
		return fmt.Errorf("init zcache for export %d: %d pages are more than %d", export.ID, export.Pages, uint64(backends.MaxPages))
	}
	exports := maps.Clone(old)
	exports[export.ID] = true
	c.exports.Store(&exports)
	return nil
}

// InvalidateArea forgets the export.
func (c *Cache) InvalidateArea(export uint32) {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	exports := maps.Clone(*c.exports.Load())
	delete(exports, export)
	c.exports.Store(&exports)
}

// Store compresses the page into the arena, or into the handle.
func (c *Cache) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	if len(data) != backends.PageSize || key.Page >= backends.MaxPages {
		return 0, backends.Accepted, fmt.Errorf("store page %d of export %d in zcache: page number or length of %d bytes is out of range",
			key.Page, key.Export, len(data))
	}
	if !(*c.exports.Load())[key.Export] {
		return 0, c.count(backends.RefusedUnmanaged), nil
	}
	if value, ok := sameFilled(data); ok {
		c.sameFilled.Add(1)
		return sameFilledHandle(key, value), c.count(backends.Accepted), nil
	}
	ref, refusal := c.compress(key, data)
	return backends.Handle(ref), c.count(refusal), nil
}

func (c *Cache) compress(key backends.Key, data []byte) (arena.Ref, backends.Refusal) {
	w := c.compressors.claim()
	if w == nil {
		return 0, backends.RefusedBusy
	}
	defer w.release()
	compressed := w.compress(data)
	if compressed == nil {
		return 0, backends.RefusedPoor
	}
	ref, ok := c.arena.Put(arena.Object{
		Export: key.Export,
		Page:   key.Page,
		Codec:  codecLZ4,
		Sum:    crc32.Checksum(data, castagnoli),
		Data:   compressed,
	})
	if !ok {
		return 0, backends.RefusedFull
	}
	return ref, backends.Accepted
}

// Load restores the page into dst and proves that it is the one that was stored.
func (c *Cache) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	if len(dst) != backends.PageSize {
		return fmt.Errorf("load page %d of export %d from zcache: buffer of %d bytes is not a page", key.Page, key.Export, len(dst))
	}
	reason := c.load(key, handle, dst)
	if reason == "" {
		return nil
	}
	c.corrupt.Add(1)
	return fmt.Errorf("load page %d of export %d from zcache: %s: %w", key.Page, key.Export, reason, backends.ErrCorrupt)
}

// load returns what is wrong with the copy, or "".
func (c *Cache) load(key backends.Key, handle backends.Handle, dst []byte) string {
	if isSameFilled(handle) {
		value, ok := sameFilledValue(key, handle)
		if !ok {
			return "handle does not belong to this page"
		}
		fill(dst, value)
		return ""
	}
	object, ok := c.arena.Get(arena.Ref(handle))
	if !ok {
		return "header makes no sense"
	}
	if object.Export != key.Export || object.Page != key.Page || object.Codec != codecLZ4 {
		return "header names another page"
	}
	if !decompress(dst, object.Data) {
		return "data does not decompress to a page"
	}
	if crc32.Checksum(dst, castagnoli) != object.Sum {
		return "checksum differs"
	}
	return ""
}

// Invalidate forgets the page.
func (c *Cache) Invalidate(_ backends.Key, handle backends.Handle) {
	if isSameFilled(handle) {
		c.sameFilled.Add(-1)
		return
	}
	c.arena.Free(arena.Ref(handle))
}

// Stats counts. The figures are taken one after the other while work goes on.
func (c *Cache) Stats() backends.Stats {
	held := c.arena.Stats()
	same := max(c.sameFilled.Load(), 0)
	usage := c.arena.Usage()
	stats := backends.Stats{
		Pages:           uint64(held.Objects + same),
		SameFilledPages: uint64(same),
		StoredBytes:     uint64(max(held.DataBytes, 0)),
		HeldBytes:       uint64(held.HeldBytes),
		LimitBytes:      uint64(c.limit),
		CorruptLoads:    c.corrupt.Load(),
		Memory:          usage[:],
	}
	for i := range c.refused {
		stats.Refused[i] = c.refused[i].Load()
	}
	return stats
}

// Close gives the arena back. Stores are refused from then on.
func (c *Cache) Close() error {
	c.exportsMu.Lock()
	c.exports.Store(&map[uint32]bool{})
	c.exportsMu.Unlock()
	if err := c.arena.Close(); err != nil {
		return fmt.Errorf("close zcache: %w", err)
	}
	return nil
}

func (c *Cache) count(refusal backends.Refusal) backends.Refusal {
	c.refused[refusal].Add(1)
	return refusal
}
