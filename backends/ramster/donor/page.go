package donor

import (
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	// versionSize is what an object has before the owner's bytes: the generation.
	versionSize = 8
	// codec is that of all objects: what the bytes are is the owner's business.
	codec = 1
	// flagUsed says that an ephemeral page was fetched since the clock passed it.
	flagUsed = 1

	stripes = 1024
)

// A sealed page and its version are an object.
const _ = uint(arena.MaxData - wire.MaxBlob - versionSize)

// stripe is a lock in a cache line of its own.
type stripe struct {
	sync.Mutex
	_ [56]byte
}

// lock takes the stripe of a page.
func (d *Donor) lock(number uint32, page uint64) *stripe {
	const spread = 0x9e3779b97f4a7c15
	s := &d.stripes[(page+uint64(number)<<40)*spread>>(64-10)]
	s.Lock()
	return s
}

// find returns the page's object. A word that leads to something else, which takes
// damage to come about, counts as none, and is left to drop.
func (d *Donor) find(p *pool, page, word uint64) (arena.Object, bool) {
	if word == 0 {
		return arena.Object{}, false
	}
	o, ok := d.arena.Get(refOf(word))
	return o, ok && o.Export == p.number && o.Page == page && len(o.Data) > versionSize && len(o.Data) <= versionSize+wire.MaxBlob
}

func versionOf(o arena.Object) uint64 { return binary.LittleEndian.Uint64(o.Data) }

func isWhole(o arena.Object) bool { return crc32.Checksum(o.Data, castagnoli) == o.Sum }

// drop forgets a page. REQUIRES: its stripe held.
func (d *Donor) drop(p *pool, page uint64) {
	word := p.table.Delete(page)
	if word == 0 {
		return
	}
	p.client.pages[p.kind].Add(-1)
	d.release(p, page, refOf(word))
}

// release frees an object that the page's word does not lead to any more.
func (d *Donor) release(p *pool, page uint64, ref arena.Ref) {
	size := d.sizeOf(ref)
	if o, ok := d.arena.Get(ref); ok && (o.Export != p.number || o.Page != page) {
		return // damage: another page's
	}
	if d.arena.Free(ref) {
		d.charge(p, -size)
	}
}

// outcome is what became of an attempt to put a page.
type outcome int

const (
	finished outcome = iota
	overQuota
	noMemory
)

// put stores a version of a page: data is its generation and the owner's bytes. A put
// that is refused leaves no older version.
func (d *Donor) put(p *pool, page, generation uint64, data []byte) wire.Status {
	for {
		status, outcome := d.tryPut(p, page, generation, data, false)
		room := false
		switch outcome {
		case finished:
			return status
		case overQuota:
			room = d.evictOf(p.client)
		case noMemory:
			room = d.evictAny()
		}
		if !room {
			status, _ = d.tryPut(p, page, generation, data, true)
			return status
		}
	}
}

// tryPut is one attempt. If it is the last one the older version goes first, as that
// may be what is in the way.
func (d *Donor) tryPut(p *pool, page, generation uint64, data []byte, last bool) (wire.Status, outcome) {
	lock := d.lock(p.number, page)
	defer lock.Unlock()
	word := p.table.Get(page)
	old, has := d.find(p, page, word)
	if has && versionOf(old) >= generation && !isWhole(old) {
		has = false // or a damaged generation would be in the way for ever
		d.corrupt.Add(1)
	}
	if word != 0 && !has {
		d.drop(p, page)
		word = 0
	}
	was := int64(0)
	if has {
		switch version := versionOf(old); {
		case version > generation:
			return wire.Stale, finished
		case version == generation:
			return wire.OK, finished
		}
		was = d.arena.SlotSize(len(old.Data))
	}
	if d.frozen.Load() {
		d.drop(p, page)
		return wire.Frozen, finished
	}
	size := d.arena.SlotSize(len(data))
	if over := p.client.used() - was + size; size > was && over > p.client.allowed() {
		if last {
			d.drop(p, page)
		}
		return wire.Full, overQuota
	}
	if last && has {
		d.drop(p, page)
		word, was, has = 0, 0, false
	}
	o := arena.Object{Export: p.number, Page: page, Codec: codec, Sum: crc32.Checksum(data, castagnoli), Data: data}
	ref, ok := d.arena.Put(o)
	if !ok {
		return wire.Full, noMemory
	}
	if !d.enter(p, page, ref) {
		d.arena.Free(ref)
		return wire.Full, noMemory
	}
	// From here on the new version is the one that counts, here and, as it is the
	// newer one, for a process that takes over.
	d.charge(p, size)
	if has {
		d.release(p, page, refOf(word))
	} else {
		p.client.pages[p.kind].Add(1)
		d.watchIndex()
	}
	return wire.OK, finished
}

// enter makes the object the page's version. Without memory for that, it asks for a
// part of the arena's first.
func (d *Donor) enter(p *pool, page uint64, ref arena.Ref) bool {
	if p.table.Set(page, wordOf(ref)) {
		return true
	}
	d.balance()
	return p.table.Set(page, wordOf(ref))
}

// get copies the owner's bytes into dst, of wire.MaxBlob bytes. An exclusive get takes
// the page away.
func (d *Donor) get(p *pool, page uint64, exclusive bool, dst []byte) (n int, generation uint64, ok bool) {
	lock := d.lock(p.number, page)
	defer lock.Unlock()
	word := p.table.Get(page)
	if word == 0 {
		return 0, 0, false
	}
	o, ok := d.find(p, page, word)
	if !ok || !isWhole(o) {
		d.corrupt.Add(1)
		d.drop(p, page)
		return 0, 0, false
	}
	n, generation = copy(dst, o.Data[versionSize:]), versionOf(o)
	switch {
	case exclusive:
		d.drop(p, page)
	case p.kind == ephemeral && o.Flags&flagUsed == 0:
		d.arena.Mark(refOf(word), flagUsed, 0)
	}
	return n, generation, true
}

// version returns the generation of a page's version, false if there is none.
func (d *Donor) version(p *pool, page uint64) (uint64, bool) {
	lock := d.lock(p.number, page)
	defer lock.Unlock()
	o, ok := d.find(p, page, p.table.Get(page))
	if !ok {
		return 0, false
	}
	return versionOf(o), true
}

// flush forgets versions of the pages from one on to before another, up to a
// generation, and returns whether there was one.
func (d *Donor) flush(p *pool, from, to, generation uint64) (any bool) {
	if to == from+1 { // most are
		return d.flushPage(p, from, generation)
	}
	p.table.Range(from, func(page, _ uint64) bool {
		if page >= to {
			return false
		}
		any = d.flushPage(p, page, generation) || any
		return true
	})
	return any
}

func (d *Donor) flushPage(p *pool, page, generation uint64) bool {
	lock := d.lock(p.number, page)
	defer lock.Unlock()
	word := p.table.Get(page)
	if word == 0 {
		return false
	}
	if o, ok := d.find(p, page, word); ok && versionOf(o) > generation {
		return false
	}
	d.drop(p, page)
	return true
}
