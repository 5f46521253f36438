package ramster

import (
	"encoding/binary"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// cachedStub is the stub of a page of an ephemeral export.
//
//	bytes 0–7   generation
//	byte  8     place of the donor
//	bytes 10–11 flight that it left with
//	others      0
type cachedStub struct {
	generation uint64
	place      uint8
	flight     uint16
}

func (s cachedStub) encode(b *[stubSize]byte) []byte {
	clear(b[:])
	binary.LittleEndian.PutUint64(b[:], s.generation)
	b[8] = s.place
	binary.LittleEndian.PutUint16(b[10:], s.flight)
	return b[:]
}

func decodeCached(o arena.Object) (s cachedStub, ok bool) {
	if o.Codec != codecCached || !o.Droppable || len(o.Data) != stubSize {
		return cachedStub{}, false
	}
	return cachedStub{binary.LittleEndian.Uint64(o.Data), o.Data[8], binary.LittleEndian.Uint16(o.Data[10:])}, true
}

// cachedOf returns the stub under a handle, and the flags and checksum of its object, if it is
// one of that page: it may have been dropped, and its place taken.
func (c *Cache) cachedOf(key backends.Key, ref arena.Ref) (s cachedStub, o arena.Object, ok bool) {
	var b [stubSize]byte
	// Not into a result: the buffer would be garbage of each call.
	found, ok := c.arena.Snapshot(ref, b[:])
	if !ok || found.Export != key.Export || found.Page != key.Page {
		return cachedStub{}, arena.Object{}, false
	}
	s, ok = decodeCached(found)
	return s, arena.Object{Flags: found.Flags, Sum: found.Sum}, ok
}

// cachedAt returns what the index says of a page: it may be of the past.
func (c *Cache) cachedAt(e *export, key backends.Key) (s cachedStub, ref arena.Ref, ok bool) {
	word := e.pages.Get(key.Page)
	if word == 0 {
		return cachedStub{}, 0, false
	}
	s, _, ok = c.cachedOf(key, arena.Ref(word-1))
	return s, arena.Ref(word - 1), ok
}
