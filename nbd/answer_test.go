package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// extent is a part of a BLOCK_STATUS answer.
type extent struct{ length, status uint64 }

// answer is a reply as a client sees it, all chunks together.
type answer struct {
	cookie  uint64
	errno   uint32
	data    []byte // of a read
	chunks  int
	holes   int // bytes of data that were told, not sent
	extents map[uint32][]extent
}

// readAnswer reads a reply in the framing f. find returns the request that a
// cookie belongs to. What no client could accept is an error: chunks that overlap,
// leave a gap or go outside, types that do not belong, a hole that is not whole
// pages, bytes of the wrong framing.
func readAnswer(r io.Reader, f framing, find func(cookie uint64) (request, bool)) (answer, error) {
	var a answer
	var covered []bool
	for {
		magic, err := readUint32(r)
		if err != nil {
			return a, err
		}
		if magic == 0x67446698 {
			return readSimple(r, f, find, a)
		}
		rest := make([]byte, map[uint32]int{magicChunk: chunkSize - 4, magicExtendedChunk: extendedChunkSize - 4}[magic])
		if len(rest) == 0 || (magic == magicExtendedChunk) != (f == framingExtended) {
			return a, fmt.Errorf("reply magic %#x", magic)
		}
		if _, err := io.ReadFull(r, rest); err != nil {
			return a, err
		}
		flags, kind, cookie := binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), binary.BigEndian.Uint64(rest[4:])
		q, ok := find(cookie)
		if !ok || a.chunks > 0 && cookie != a.cookie {
			return a, fmt.Errorf("a chunk for cookie %#x", cookie)
		}
		length := uint64(binary.BigEndian.Uint32(rest[12:]))
		if f == framingExtended {
			if offset := binary.BigEndian.Uint64(rest[12:]); offset != q.offset {
				return a, fmt.Errorf("offset %d echoed as %d", q.offset, offset)
			}
			length = binary.BigEndian.Uint64(rest[20:])
		}
		if length > MaxPayload+64 || flags&^1 != 0 {
			return a, fmt.Errorf("a chunk of %d bytes with flags %#x", length, flags)
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(r, payload); err != nil {
			return a, err
		}
		a.cookie = cookie
		a.chunks++
		if a.data == nil && q.wire == wireRead && kind != chunkError {
			a.data, covered = make([]byte, q.length), make([]bool, q.length)
		}
		if err := a.take(f, q, kind, payload, covered); err != nil {
			return a, fmt.Errorf("chunk of type %d to %+v: %w", kind, q, err)
		}
		if flags&1 == 0 {
			continue
		}
		if q.wire == wireRead && a.errno == 0 && bytes.IndexByte(asBytes(covered), 0) >= 0 {
			return a, fmt.Errorf("the chunks leave out a part of %+v", q)
		}
		return a, nil
	}
}

func readUint32(r io.Reader) (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

func asBytes(b []bool) []byte {
	out := make([]byte, len(b))
	for i, v := range b {
		if v {
			out[i] = 1
		}
	}
	return out
}

func readSimple(r io.Reader, f framing, find func(uint64) (request, bool), a answer) (answer, error) {
	var b [replySize - 4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return a, err
	}
	a.errno, a.cookie = binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint64(b[4:])
	q, ok := find(a.cookie)
	if !ok || f == framingExtended || a.chunks > 0 || f == framingStructured && q.wire == wireRead {
		return a, fmt.Errorf("a simple reply for cookie %#x", a.cookie)
	}
	if q.wire == wireRead && a.errno == 0 {
		a.data = make([]byte, q.length)
		_, err := io.ReadFull(r, a.data)
		return a, err
	}
	return a, nil
}

// take adds a chunk's payload.
func (a *answer) take(f framing, q request, kind uint16, p []byte, covered []bool) error {
	switch {
	case kind == chunkNone && len(p) == 0:
		return nil
	case kind == chunkError && len(p) == 6:
		a.errno = binary.BigEndian.Uint32(p)
		return nil
	case kind == chunkOffsetData && len(p) > 8 && q.wire == wireRead:
		at := binary.BigEndian.Uint64(p) - q.offset
		return cover(covered, at, uint64(copyAt(a.data, at, p[8:])), len(p)-8)
	case kind == chunkOffsetHole && len(p) == 12 && q.wire == wireRead:
		offset, n := binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:])
		if offset%pageSize != 0 || n == 0 || n%pageSize != 0 {
			return fmt.Errorf("a hole of %d bytes at %d", n, offset)
		}
		a.holes += int(n)
		return cover(covered, offset-q.offset, uint64(n), int(n))
	case kind == chunkBlockStatus && f == framingStructured, kind == chunkBlockStatusExt && f == framingExtended:
		return a.takeExtents(f, p)
	}
	return fmt.Errorf("%d bytes", len(p))
}

func copyAt(dst []byte, at uint64, p []byte) int {
	if at > uint64(len(dst)) {
		return 0
	}
	return copy(dst[at:], p)
}

// cover notes that n bytes from at on were told.
func cover(covered []bool, at, n uint64, want int) error {
	if at > uint64(len(covered)) || n > uint64(len(covered))-at || n != uint64(want) {
		return fmt.Errorf("%d bytes at %d are outside", want, at)
	}
	for i := at; i < at+n; i++ {
		if covered[i] {
			return fmt.Errorf("byte %d is told twice", i)
		}
		covered[i] = true
	}
	return nil
}

func (a *answer) takeExtents(f framing, p []byte) error {
	head, size := 4, 8
	if f == framingExtended {
		head, size = 8, 16
	}
	if len(p) <= head || (len(p)-head)%size != 0 {
		return fmt.Errorf("%d bytes", len(p))
	}
	id := binary.BigEndian.Uint32(p)
	if a.extents == nil {
		a.extents = map[uint32][]extent{}
	}
	if a.extents[id] != nil {
		return fmt.Errorf("context %d twice", id)
	}
	if count := (len(p) - head) / size; f == framingExtended && int(binary.BigEndian.Uint32(p[4:])) != count {
		return fmt.Errorf("%d extents counted as %d", count, binary.BigEndian.Uint32(p[4:]))
	}
	for p = p[head:]; len(p) > 0; p = p[size:] {
		e := extent{uint64(binary.BigEndian.Uint32(p)), uint64(binary.BigEndian.Uint32(p[4:]))}
		if f == framingExtended {
			e = extent{binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])}
		}
		if e.length == 0 {
			return fmt.Errorf("an extent of length 0")
		}
		a.extents[id] = append(a.extents[id], e)
	}
	return nil
}
