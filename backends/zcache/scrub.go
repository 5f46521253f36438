package zcache

import (
	"hash/crc32"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// scrub verifies each object once in Config.Scrub, so that damage is known before
// somebody needs the page. There is nothing to repair it with: the page stays,
// and is ErrCorrupt when it is loaded.
func (b *background) scrub() {
	data, page := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	b.walk(func() time.Duration { return b.config.Load().Scrub }, func(ref arena.Ref) {
		if b.config.Load().Scrub > 0 {
			b.verify(ref, data, page)
		}
	})
}

// verify checks one object: a copy of it, taken so that it cannot change
// meanwhile, so what is wrong with it is damage.
func (b *background) verify(ref arena.Ref, data, page []byte) {
	o, ok := b.arena.Snapshot(ref, data)
	if !ok || o.Flags&flagBad != 0 {
		return
	}
	if Codec(o.Codec) == shared {
		// What it refers to is looked at by itself.
		if _, ok := linkOf(o); ok {
			return
		}
	}
	if b.decode(Codec(o.Codec), page, o.Data) && crc32.Checksum(page, castagnoli) == o.Sum {
		if isCompressed(o) && !o.Droppable {
			b.note(b.domainOf(o.Export), o.Sum, ref)
		}
		b.moved[backends.ScrubbedPage].Add(1)
		return
	}
	if b.arena.Mark(ref, flagBad, 0) {
		b.moved[backends.ScrubbedCorrupt].Add(1)
		b.log.Error("a stored page is damaged", "export", o.Export, "page", o.Page, "codec", Codec(o.Codec).String(), "length", len(o.Data))
	}
}
