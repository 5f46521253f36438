package pagelz4

import "math/bits"

// endOfMatch returns where the match ends that is known to reach up to end.
func endOfMatch(page *[PageSize]byte, end, offset int) int {
	for end+8 <= matchesEnd {
		if x := load64(page, end) ^ load64(page, end-offset); x != 0 {
			return end + bits.TrailingZeros64(x)>>3
		}
		end += 8
	}
	for end < matchesEnd && page[end] == page[end-offset] {
		end++
	}
	return end
}

// writeSequence writes any number of literals, from page on, and a match of any
// length, which is given without its first 4 bytes. It takes and returns how many
// bytes there are in dst.
func writeSequence(dst *[Bound]byte, written int, page *[PageSize]byte, from, literals, offset, length int) int {
	store8(dst, written, byte(min(literals, 15)<<4|min(length, 15)))
	written++
	if literals >= 15 {
		written = writeLength(dst, written, literals-15)
	}
	for i := 0; i < literals; i += 8 {
		store64(dst, written+i, load64(page, from+i))
	}
	written += literals
	store16(dst, written, uint16(offset))
	written += 2
	if length >= 15 {
		written = writeLength(dst, written, length-15)
	}
	return written
}

// writeLast writes the rest of the page, which is literals, if that is not too long.
func writeLast(dst *[Bound]byte, written int, page *[PageSize]byte, from, limit int) int {
	literals := PageSize - from
	if written+1+(literals+240)/255+literals > limit {
		return 0
	}
	store8(dst, written, byte(min(literals, 15)<<4))
	written++
	if literals >= 15 {
		written = writeLength(dst, written, literals-15)
	}
	return written + copy(dst[written:], page[from:])
}

// writeLength writes what of a length does not fit in the token.
func writeLength(dst *[Bound]byte, written, rest int) int {
	for ; rest >= 255; rest -= 255 {
		store8(dst, written, 255)
		written++
	}
	store8(dst, written, byte(rest))
	return written + 1
}
