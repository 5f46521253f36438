package nbd

import (
	"bytes"
	"encoding/binary"
)

// zeroPage is constant.
var zeroPage [pageSize]byte

// isZero says whether the page is all zeros. Most pages are not, and differ in
// their first bytes.
func isZero(page []byte) bool {
	return binary.LittleEndian.Uint64(page) == 0 && bytes.Equal(page, zeroPage[:])
}

// putRead makes the reply to a read of its data: the header's first h bytes and
// then the data's first m. Whole pages of zeros are told as holes instead of
// sent, unless the client asked for one chunk: the chunks that follow the first
// are laid where a hole was, which is room enough, and what they carry moves up
// behind them.
func (f framing) putRead(header *[headerRoom]byte, q request, data []byte) (h, m int) {
	if f == framingSimple {
		return putSimple(header[:], 0, q.cookie), len(data)
	}
	if q.flags&commandDF != 0 {
		return f.putData(header[:], q, chunkDone, 0, len(data)), len(data)
	}
	for at := 0; at < len(data); {
		end, hole := nextRun(data, at, q.offset)
		flags := uint16(0)
		if end == len(data) {
			flags = chunkDone
		}
		into := header[:]
		if at > 0 {
			into = data[m:]
		}
		n := 0
		if hole {
			n = f.putHole(into, q, flags, at, end-at)
		} else {
			n = f.putData(into, q, flags, at, end-at)
		}
		if at > 0 {
			m += n
		} else {
			h = n
		}
		if !hole {
			m += copy(data[m:], data[at:end])
		}
		at = end
	}
	return h, m
}

// nextRun returns the end of the run that starts at data[at], and whether all of
// it are whole pages of zeros. offset is where data[0] lies in the export.
func nextRun(data []byte, at int, offset uint64) (end int, hole bool) {
	for end = at; end < len(data); {
		n := min(pageSize-int((offset+uint64(end))%pageSize), len(data)-end)
		zero := n == pageSize && isZero(data[end:end+n])
		if end > at && zero != hole {
			return end, hole
		}
		hole = zero
		end += n
	}
	return end, hole
}

// putData encodes what comes before n bytes of data that were read at.
func (f framing) putData(b []byte, q request, flags uint16, at, n int) int {
	c := f.putChunk(b, q, flags, chunkOffsetData, dataPayload+n)
	binary.BigEndian.PutUint64(b[c:], q.offset+uint64(at))
	return c + dataPayload
}

// putHole encodes that n bytes from at on are zeros.
func (f framing) putHole(b []byte, q request, flags uint16, at, n int) int {
	c := f.putChunk(b, q, flags, chunkOffsetHole, holePayload)
	binary.BigEndian.PutUint64(b[c:], q.offset+uint64(at))
	binary.BigEndian.PutUint32(b[c+8:], uint32(n))
	return c + holePayload
}
