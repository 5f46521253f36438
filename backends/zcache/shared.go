package zcache

import (
	"encoding/binary"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// The codecs of pages that are kept together. The numbers are the arena's format.
const (
	// shared is a reference: an object with the key and the checksum of a page, whose data
	// is a link.
	shared Codec = 4
	// contentOf and the codec of a page make that of a content: an object whose Export
	// is the domain that it was made for, and whose Page is its number.
	contentOf Codec = 8
)

// link is the data of a reference:
//
//	bytes 0–3 number of the content, 4–7 bytes charged, 8–11 a check of both and of the key
type link struct {
	number uint32
	charge uint32 // the slot that the page would have by itself
}

const linkBytes = 12

// encode makes the reference's data.
func (l link) encode(b *[linkBytes]byte, export uint32, page uint64) []byte {
	binary.LittleEndian.PutUint32(b[0:], l.number)
	binary.LittleEndian.PutUint32(b[4:], l.charge)
	binary.LittleEndian.PutUint32(b[8:], l.check(export, page))
	return b[:]
}

// check is against damage, and not a CRC, as that allocates here. Each step can be taken
// back, so no change of one of the four is unseen but by chance.
func (l link) check(export uint32, page uint64) uint32 {
	h := uint64(l.number)<<32 | uint64(l.charge)
	for _, word := range [2]uint64{uint64(export), page} {
		h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>32 ^ word) * 0x94d049bb133111eb
	}
	return uint32(h >> 32)
}

// linkOf reads a reference. A damaged one is none: then what it referred to stays until
// the process ends, so that others have theirs.
func linkOf(o arena.Object) (l link, ok bool) {
	if Codec(o.Codec) != shared || len(o.Data) != linkBytes {
		return link{}, false
	}
	l = link{number: binary.LittleEndian.Uint32(o.Data[0:]), charge: binary.LittleEndian.Uint32(o.Data[4:])}
	return l, binary.LittleEndian.Uint32(o.Data[8:]) == l.check(o.Export, o.Page)
}

// isContent says whether the object is not a page's, but what several share.
func isContent(o arena.Object) bool { return Codec(o.Codec)&contentOf != 0 }

// isCompressed says whether the object is a page's by itself, for as long as nobody has
// the like.
func isCompressed(o arena.Object) bool { return Codec(o.Codec) == LZ4 || Codec(o.Codec) == Zstd }

// chargeOf is what an export is charged for an object of its pages.
func (c *Cache) chargeOf(o arena.Object, ref arena.Ref) int64 {
	if l, ok := linkOf(o); ok {
		return int64(l.charge)
	}
	return c.arena.SizeOf(ref)
}

// domainOf says with which pages those of the export may be kept; 0 is none.
func (c *Cache) domainOf(export uint32) uint32 { return (*c.exports.Load())[export].dedup }

// note remembers an object that pages to come may be like.
func (c *Cache) note(domain, sum uint32, ref arena.Ref) {
	if domain != 0 {
		c.sharing.Load().put(domain, sum, ref)
	}
}

// pinContent returns the content of a reference, which stays until unpin; or what is
// wrong.
func (c *Cache) pinContent(reference arena.Object) (content arena.Object, ref arena.Ref, number uint32, reason string) {
	s := c.sharing.Load()
	l, ok := linkOf(reference)
	if !ok {
		return content, 0, 0, "reference is damaged"
	}
	if ref, ok = s.pin(l.number); !ok {
		return content, 0, 0, "what it is shared with is not there"
	}
	content, ok = c.arena.Get(ref)
	if !ok || !isContent(content) || content.Page != uint64(l.number) || content.Sum != reference.Sum {
		s.unpin(l.number)
		return content, 0, 0, "what it is shared with is another page, or damaged"
	}
	return content, ref, l.number, ""
}

// loadShared is load for a reference.
func (c *Cache) loadShared(reference arena.Object, dst []byte) string {
	content, ref, number, reason := c.pinContent(reference)
	if reason != "" {
		return reason
	}
	defer c.sharing.Load().unpin(number)
	return c.restore(content, ref, dst)
}

// packShared is Pack for a reference: the page is packed as if it were by itself.
func (c *Cache) packShared(reference arena.Object, dst []byte) (backends.Packed, string) {
	content, _, number, reason := c.pinContent(reference)
	if reason != "" {
		return backends.Packed{}, reason
	}
	defer c.sharing.Load().unpin(number)
	codec := Codec(content.Codec) &^ contentOf
	if codec != LZ4 && codec != Zstd || len(content.Data) > len(dst) {
		return backends.Packed{}, "codec or length is unknown"
	}
	return backends.Packed{Encoding: encodings[codec], Sum: content.Sum, Data: dst[:copy(dst, content.Data)]}, ""
}
