package arena

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// The fields of header word 0.
const (
	pageBits   = 40
	codecBits  = 4
	lengthBits = 13
	flagBits   = 4

	codecShift  = pageBits
	lengthShift = codecShift + codecBits
	fillShift   = lengthShift + lengthBits
	flagShift   = fillShift + 1

	filling = uint64(1) << fillShift
	// never are the bits that no live slot has.
	never = filling | (1<<(64-flagShift-flagBits)-1)<<(flagShift+flagBits)
)

// word0 is the first header word of the slot at offset, which decides whether
// the slot is live (A1). Slots are aligned to RefUnit and the region to a page.
func (a *Arena) word0(offset int64) *uint64 {
	return (*uint64)(unsafe.Pointer(&a.memory[offset : offset+headerSize][0]))
}

// word1 is the rest of the header; in a free slot, the link.
func (a *Arena) word1(offset int64) []byte {
	return a.memory[offset+8 : offset+headerSize]
}

// write fills the slot in the order of A1, to its end (A10).
func (a *Arena) write(offset, size int64, o Object) {
	n := copy(a.memory[offset+headerSize:], o.Data)
	clear(a.memory[offset+headerSize+int64(n) : offset+size])
	binary.LittleEndian.PutUint64(a.word1(offset), uint64(o.Export)<<32|uint64(o.Sum))
	atomic.StoreUint64(a.word0(offset), o.Page|uint64(o.Codec)<<codecShift|uint64(len(o.Data))<<lengthShift|uint64(o.Flags)<<flagShift)
}

// read returns the object in the slot, as far as its header makes sense for
// the class.
func (a *Arena) read(offset int64, c *class) (Object, bool) {
	w0 := atomic.LoadUint64(a.word0(offset))
	length := lengthOf(w0)
	o := Object{Page: w0 & (1<<pageBits - 1), Codec: uint8(w0 >> codecShift & MaxCodec), Flags: uint8(w0 >> flagShift & MaxFlags)}
	if o.Codec == 0 || w0&never != 0 || !c.fits(length) {
		return Object{}, false
	}
	w1 := binary.LittleEndian.Uint64(a.word1(offset))
	o.Export, o.Sum, o.Droppable = uint32(w1>>32), uint32(w1), c.droppable
	data := offset + headerSize
	o.Data = a.memory[data : data+length : data+length]
	return o, true
}

func lengthOf(w0 uint64) int64 {
	return int64(w0 >> lengthShift & (1<<lengthBits - 1))
}

// Mark changes an object's flags: those in clear go, those in set come. It may
// overlap with anything: an object that is being freed is left alone, and one
// that took its place in this instant may be marked instead. It returns false if
// there is none.
func (a *Arena) Mark(ref Ref, set, clear uint8) bool {
	_, c, offset, ok := a.locate(ref)
	if !ok || a.survey != nil {
		return false
	}
	word := a.word0(offset)
	for {
		w0 := atomic.LoadUint64(word)
		if w0>>codecShift&MaxCodec == 0 || w0&never != 0 || !c.fits(lengthOf(w0)) {
			return false
		}
		w1 := w0&^(uint64(clear)<<flagShift) | uint64(set&MaxFlags)<<flagShift
		if w0 == w1 || atomic.CompareAndSwapUint64(word, w0, w1) {
			return true
		}
	}
}
