package zcache

import (
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/packed"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Kind is what [Cache.Kind] returns.
const Kind = "zcache"

// What the arena can name, this backend can keep.
const (
	_ = uint64(arena.MaxPages - backends.MaxPages)
	_ = uint64(backends.HandleBits - 1 - arena.RefBits)
)

// Cache is compressed memory.
type Cache struct {
	log         *slog.Logger // immutable
	arena       *arena.Arena
	compressors compressors
	zstd        zstdCodec
	unpacker    atomic.Pointer[packed.Decoder] // nil until it is needed

	config atomic.Pointer[settings] // replaced with exportsMu held

	// exports is the set of initialised exports. It is replaced, not changed, so
	// that Store looks it up with one atomic load.
	exports   atomic.Pointer[map[uint32]managed]
	exportsMu sync.Mutex // held to replace exports, config and background
	closed    bool       // guarded by exportsMu

	// background is the goroutines' owner while there is a host; see Init.
	background atomic.Pointer[background]
	evictions  sync.WaitGroup // calls of Host.Evict under way
	compacting sync.Mutex     // held by the one who compacts
	staged     chan staged    // raw pages that wait to be compressed
	roomAsked  chan struct{}  // wakes whoever makes room

	adopting *adopting                   // from Open to Adopted, which one goroutine calls
	adopted  map[uint32]*backends.Charge // of exports, from Adopt to their Init; guarded by exportsMu once there is one

	pool    admission
	kept    [codecs]kept // by codec
	settled atomic.Int64 // of the raw ones, those that do not compress
	corrupt atomic.Uint64
	refused [backends.Refusals]atomic.Uint64
	moved   [backends.Movements]atomic.Uint64
	same    atomic.Int64 // same-filled pages held
	sameEph atomic.Int64 // of these, of ephemeral exports

	sharing atomic.Pointer[sharing] // nil until an export may share pages; set once

	ghosts            ghosts
	dropCold, dropAny arena.Judge // judgeCold and judgeAny, as values; immutable
}

// kept counts the objects of one codec.
type kept struct {
	pages, bytes atomic.Int64
}

var _ backends.Backend = (*Cache)(nil)

// New makes an empty cache.
func New(config Config) (*Cache, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("create zcache: %w", err)
	}
	a, err := arena.Create(config.Memory, arenaPurpose, config.Limit, config.Capacity)
	if err != nil {
		return nil, fmt.Errorf("create zcache: %w", err)
	}
	c := assemble(a, config)
	if err := c.applyLocked(&settings{config, config.Limit}); err != nil {
		return nil, errors.Join(fmt.Errorf("create zcache: %w", err), a.Close())
	}
	return c, nil
}

const arenaPurpose = "zcache arena"

func assemble(a *arena.Arena, config Config) *Cache {
	c := &Cache{
		log:         config.Log,
		arena:       a,
		compressors: newCompressors(),
		staged:      make(chan staged, min(maxStaging, config.Capacity)/backends.PageSize),
		roomAsked:   make(chan struct{}, 1),
	}
	c.exports.Store(&map[uint32]managed{})
	c.dropCold, c.dropAny = c.judgeCold, c.judgeAny
	return c
}

// Kind returns "zcache".
func (c *Cache) Kind() string { return Kind }

// Local returns true: nothing here waits.
func (c *Cache) Local() bool { return true }

// Init makes the export known. The first one with a host starts the background
// work.
func (c *Cache) Init(export backends.Export) error {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	old := *c.exports.Load()
	if _, ok := old[export.ID]; ok {
		return fmt.Errorf("init zcache for export %d: it is initialised already", export.ID)
	}
	if export.Pages > backends.MaxPages {
		return fmt.Errorf("init zcache for export %d: %d pages are more than %d", export.ID, export.Pages, uint64(backends.MaxPages))
	}
	m := managed{host: export.Host, ephemeral: export.Ephemeral}
	if export.Dedup != 0 && !export.Ephemeral {
		if _, err := c.makeSharing(); err != nil {
			return fmt.Errorf("init zcache for export %d: %w", export.ID, err)
		}
		m.dedup = export.Dedup
	}
	m.charge = c.takeAdopted(export.ID)
	exports := maps.Clone(old)
	exports[export.ID] = m
	if export.Ephemeral {
		c.ghosts.make(c.config.Load().limit)
	}
	c.exports.Store(&exports)
	if export.Host != nil && c.background.Load() == nil {
		c.background.Store(startBackground(c))
	}
	return nil
}

// Store compresses the page into the arena, or into the handle.
func (c *Cache) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	if len(data) != backends.PageSize || key.Page >= backends.MaxPages {
		return 0, backends.Accepted, fmt.Errorf("store page %d of export %d in zcache: page number or length of %d bytes is out of range",
			key.Page, key.Export, len(data))
	}
	export, ok := (*c.exports.Load())[key.Export]
	if !ok {
		return 0, c.count(backends.RefusedUnmanaged), nil
	}
	if value, ok := samefilled.Of(data); ok {
		c.countSame(export.ephemeral, 1)
		return samefilled.Handle(key, value), c.count(backends.Accepted), nil
	}
	if export.ephemeral {
		ref, refusal := c.storeEphemeral(key, data)
		c.watchRoom()
		return backends.Handle(ref), c.count(refusal), nil
	}
	if c.isFull() {
		return 0, c.count(backends.RefusedFull), nil
	}
	ref, ok := c.stage(key, data)
	refusal := backends.Accepted
	if !ok {
		ref, refusal = c.compress(key, data)
	}
	if refusal == backends.Accepted {
		export.charge.Add(c.arena.SizeOf(ref))
	}
	c.watchRoom()
	return backends.Handle(ref), c.count(refusal), nil
}

// compress stores the page compressed.
func (c *Cache) compress(key backends.Key, data []byte) (arena.Ref, backends.Refusal) {
	w := c.compressors.claim()
	if w == nil {
		return 0, backends.RefusedBusy
	}
	defer w.release()
	codec, compressed := c.encode(w, c.config.Load().Codec, data)
	flags := uint8(0)
	switch {
	case c.keepsIncompressible():
		if compressed == nil {
			codec, compressed, flags = Raw, data, flagSettled
		}
	case compressed == nil:
		return 0, backends.RefusedPoor
	case len(compressed) > maxMean && c.isMeanPoor():
		return 0, backends.RefusedMean
	}
	ref, ok := c.put(arena.Object{
		Export: key.Export,
		Page:   key.Page,
		Codec:  uint8(codec),
		Flags:  flags,
		Sum:    crc32.Checksum(data, castagnoli),
		Data:   compressed,
	})
	if !ok {
		c.filled()
		return 0, backends.RefusedFull
	}
	return ref, backends.Accepted
}

// put is arena.Put, counted. What is droppable makes room for what is not.
func (c *Cache) put(o arena.Object) (arena.Ref, bool) {
	ref, ok := c.arena.Put(o)
	for !ok && !o.Droppable && c.arena.Reclaim(1, c.dropAny) > 0 {
		ref, ok = c.arena.Put(o)
	}
	if ok {
		c.countKept(o, 1)
		if isIncompressible(o) {
			c.settled.Add(1)
			c.moved[backends.MovedKeptRaw].Add(1)
		}
	}
	return ref, ok
}

// countKept counts objects that come, or go, by their codec.
func (c *Cache) countKept(o arena.Object, n int64) {
	if o.Codec >= codecs {
		c.sharing.Load().count(o, n)
		return
	}
	c.kept[o.Codec].pages.Add(n)
	c.kept[o.Codec].bytes.Add(n * int64(len(o.Data)))
}

// forget is arena.Free, counted, and says whether there was an object, and what was charged for it. What it shares is
// let go with it. After damage to a header the counts of a codec are off by a page.
func (c *Cache) forget(ref arena.Ref) (charged int64, freed bool) {
	o, ok := c.arena.Get(ref)
	if ok && isContent(o) {
		return 0, false // no page's: a handle by mistake
	}
	l, shares := linkOf(o)
	charged = c.chargeOf(o, ref)
	if !c.arena.Free(ref) {
		return 0, false
	}
	if ok {
		c.uncount(o)
	}
	if shares {
		c.sharing.Load().drop(l.number)
	}
	return charged, true
}

// uncount takes back what put counted.
func (c *Cache) uncount(o arena.Object) {
	c.countKept(o, -1)
	if isIncompressible(o) {
		c.settled.Add(-1)
	}
}

func (c *Cache) countSame(ephemeral bool, n int64) {
	c.same.Add(n)
	if ephemeral {
		c.sameEph.Add(n)
	}
}

// isIncompressible says whether the object is kept as it came for good.
func isIncompressible(o arena.Object) bool { return Codec(o.Codec) == Raw && o.Flags&flagSettled != 0 }

// Load restores the page into dst and proves that it is the one that was stored.
func (c *Cache) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	if len(dst) != backends.PageSize {
		return fmt.Errorf("load page %d of export %d from zcache: buffer of %d bytes is not a page", key.Page, key.Export, len(dst))
	}
	var reason string
	if c.ephemeral(key.Export) && !samefilled.Is(handle) {
		var err error
		if reason, err = c.loadEphemeral(key, arena.Ref(handle), dst); err != nil {
			return err
		}
	} else {
		reason = c.load(key, handle, dst)
	}
	if reason == "" {
		return nil
	}
	c.corrupt.Add(1)
	return fmt.Errorf("load page %d of export %d from zcache: %s: %w", key.Page, key.Export, reason, backends.ErrCorrupt)
}

// load returns what is wrong with the copy, or "".
func (c *Cache) load(key backends.Key, handle backends.Handle, dst []byte) string {
	if samefilled.Is(handle) {
		value, ok := samefilled.Value(key, handle)
		if !ok {
			return "handle does not belong to this page"
		}
		samefilled.Fill(dst, value)
		return ""
	}
	object, ok := c.arena.Get(arena.Ref(handle))
	if !ok {
		return "header makes no sense"
	}
	if object.Export != key.Export || object.Page != key.Page || isContent(object) {
		return "header names another page"
	}
	if Codec(object.Codec) == shared {
		return c.loadShared(object, dst)
	}
	return c.restore(object, arena.Ref(handle), dst)
}

// restore fills dst with the page that the object is, and marks it as used.
func (c *Cache) restore(object arena.Object, ref arena.Ref, dst []byte) string {
	if !c.decode(Codec(object.Codec), dst, object.Data) {
		return "data does not decompress to a page"
	}
	if crc32.Checksum(dst, castagnoli) != object.Sum {
		return "checksum differs"
	}
	if object.Flags&flagAge != 0 {
		c.arena.Mark(ref, 0, flagAge)
	}
	return ""
}

// Invalidate forgets the page.
func (c *Cache) Invalidate(key backends.Key, handle backends.Handle) {
	export, ok := (*c.exports.Load())[key.Export]
	switch {
	case samefilled.Is(handle):
		c.countSame(export.ephemeral, -1)
	case export.ephemeral:
		c.forgetEphemeral(key, arena.Ref(handle))
	default:
		if charged, freed := c.forget(arena.Ref(handle)); freed && ok {
			export.charge.Add(-charged)
		}
	}
}

// Stats counts. The figures are taken one after the other while work goes on.
func (c *Cache) Stats() backends.Stats {
	held := c.arena.Stats()
	same := max(c.same.Load(), 0)
	usage := c.arena.Usage()
	stats := backends.Stats{
		Pages:           uint64(held.Objects + same),
		EphemeralPages:  uint64(held.Droppable + max(c.sameEph.Load(), 0)),
		SameFilledPages: uint64(same),
		StoredBytes:     uint64(max(held.DataBytes, 0)),
		HeldBytes:       uint64(held.HeldBytes),
		LimitBytes:      uint64(c.config.Load().limit),
		MaxBytes:        uint64(c.config.Load().Limit),
		Incompressible:  uint64(max(c.settled.Load(), 0)),
		CorruptLoads:    c.corrupt.Load(),
		Memory:          usage[:],
	}
	if b := c.background.Load(); b != nil {
		stats.Stall = b.sizer.Stall()
	}
	for i := range c.refused {
		stats.Refused[i] = c.refused[i].Load()
	}
	for i := range c.moved {
		stats.Moved[i] = c.moved[i].Load()
	}
	for codec := LZ4; codec < codecs; codec++ {
		k := &c.kept[codec]
		stats.Codecs = append(stats.Codecs, backends.CodecStats{
			Name:  codec.String(),
			Pages: uint64(max(k.pages.Load(), 0)),
			Bytes: uint64(max(k.bytes.Load(), 0)),
		})
	}
	if s := c.sharing.Load(); s != nil {
		s.addTo(&stats)
	}
	return stats
}

// Close ends the background work and gives the arena back. Stores are refused from then on.
func (c *Cache) Close() error {
	c.forgetAll().stop()
	c.evictions.Wait()
	c.exportsMu.Lock() // Configure may be under way
	defer c.exportsMu.Unlock()
	c.closed = true
	if err := errors.Join(c.arena.Close(), c.sharing.Load().close()); err != nil {
		return fmt.Errorf("close zcache: %w", err)
	}
	return nil
}

func (c *Cache) count(refusal backends.Refusal) backends.Refusal {
	c.refused[refusal].Add(1)
	return refusal
}
