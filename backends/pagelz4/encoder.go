package pagelz4

import "math/bits"

// PageSize is the length of a page in bytes.
const PageSize = 4096

// Bound is the size of a buffer in bytes that Encode can write to. The longest
// block of a page has 4,114 bytes; 8 more may be written past any of them.
const Bound = PageSize + 64

// What the format demands of the end of a block.
const (
	lastMatch  = PageSize - 12 // no match begins after this position
	matchesEnd = PageSize - 5  // no match reaches past this one
)

const (
	// window is how many positions are looked up together. It must not exceed the
	// shortest match: else positions are in the table that the search has yet to
	// come to, and would be found there as matches of themselves.
	window = 4

	// lastWindow is the last position a window begins at. Matches of 8 bytes are
	// taken without a look at the end, so its last position is one before lastMatch.
	lastWindow = lastMatch - window

	// shortest is the shortest match that the format has.
	shortest = 4

	// patience is how the search speeds up while it finds nothing: one byte further
	// at each step for each 64 bytes of literals, as in the C library.
	patience = 6

	tableBits = 12
	hashBytes = 6
)

// Encoder is the working memory for one page at a time.
type Encoder struct {
	// table is the last position at which bytes with this hash were seen. Position 0
	// stands for none, too: it is as good as any other, matches are compared.
	table [1 << tableBits]uint16
}

// hash is an index into the table, for the first hashBytes bytes of v.
func hash(v uint64) uint64 {
	return v << (64 - 8*hashBytes) * 0x9e3779b185ebca87 >> (64 - tableBits)
}

// Encode writes page to dst as one lz4 block, and returns its length in bytes, or
// 0 if that is more than limit; then what is in dst means nothing. Bytes of dst
// after the block may be overwritten. The page must not change meanwhile.
func (e *Encoder) Encode(dst *[Bound]byte, page *[PageSize]byte, limit int) int {
	e.table = [1 << tableBits]uint16{}
	table := &e.table
	var (
		written = 0 // bytes in dst
		pending = 0 // position of the first byte that is not in dst yet
		at      = 1 // position that is searched for
	)
	for at <= lastWindow {
		// Written out and in this order the compiler keeps most of it in registers.
		h0, h1, h2, h3 := hash(load64(page, at)), hash(load64(page, at+1)), hash(load64(page, at+2)), hash(load64(page, at+3))
		c0 := int(table[h0])
		table[h0] = uint16(at)
		c1 := int(table[h1])
		table[h1] = uint16(at + 1)
		c2 := int(table[h2])
		table[h2] = uint16(at + 2)
		c3 := int(table[h3])
		table[h3] = uint16(at + 3)
		x0 := load64(page, c0) ^ load64(page, at)
		x1 := load64(page, c1) ^ load64(page, at+1)
		x2 := load64(page, c2) ^ load64(page, at+2)
		x3 := load64(page, c3) ^ load64(page, at+3)

		var start, from, end int // the match, and where the same bytes came first
		switch {
		case x0 == 0:
			start, from = at, c0
		case x1 == 0:
			start, from = at+1, c1
		case x2 == 0:
			start, from = at+2, c2
		case x3 == 0:
			start, from = at+3, c3
		default:
			var x uint64 // of less than 8 equal bytes
			switch {
			case uint32(x0) == 0:
				x, start, from = x0, at, c0
			case uint32(x1) == 0:
				x, start, from = x1, at+1, c1
			case uint32(x2) == 0:
				x, start, from = x2, at+2, c2
			case uint32(x3) == 0:
				x, start, from = x3, at+3, c3
			default:
				at += window + (at-pending)>>patience
				continue
			}
			end = start + bits.TrailingZeros64(x)>>3
		}
		if end == 0 {
			end = endOfMatch(page, start+8, start-from)
			for start > pending && from > 0 && page[start-1] == page[from-1] {
				start--
				from--
			}
		}
		literals, length := start-pending, end-start-shortest
		switch {
		case literals <= 8 && length < 15:
			store8(dst, written, byte(literals<<4+length))
			store64(dst, written+1, load64(page, pending))
			store16(dst, written+1+literals, uint16(start-from))
			written += literals + 3
		case literals <= 8 && length < 15+255:
			store8(dst, written, byte(literals<<4+15))
			store64(dst, written+1, load64(page, pending))
			store16(dst, written+1+literals, uint16(start-from))
			store8(dst, written+3+literals, byte(length-15))
			written += literals + 4
		default:
			written = writeSequence(dst, written, page, pending, literals, start-from, length)
		}
		pending, at = end, end
		if written > limit || at > lastWindow {
			break
		}
		table[hash(load64(page, end-2))] = uint16(end - 2)
	}
	return writeLast(dst, written, page, pending, limit)
}
