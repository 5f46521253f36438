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

	codecShift  = pageBits
	lengthShift = codecShift + codecBits
	filling     = uint64(1) << (lengthShift + lengthBits)
)

// word0 is the first header word of the slot at offset, which decides whether
// the slot is live (A1). Slots are aligned to 64 bytes and the region to a page.
func (a *Arena) word0(offset int64) *uint64 {
	return (*uint64)(unsafe.Pointer(&a.memory[offset : offset+headerSize][0]))
}

// word1 is the rest of the header; in a free slot, the link.
func (a *Arena) word1(offset int64) []byte {
	return a.memory[offset+8 : offset+headerSize]
}

// write fills the slot in the order of A1.
func (a *Arena) write(offset int64, o Object) {
	copy(a.memory[offset+headerSize:], o.Data)
	binary.LittleEndian.PutUint64(a.word1(offset), uint64(o.Export)<<32|uint64(o.Sum))
	atomic.StoreUint64(a.word0(offset), o.Page|uint64(o.Codec)<<codecShift|uint64(len(o.Data))<<lengthShift)
}

// read returns the object in the slot, as far as its header makes sense for
// the class.
func (a *Arena) read(offset int64, c *class) (Object, bool) {
	w0 := atomic.LoadUint64(a.word0(offset))
	length := lengthOf(w0)
	o := Object{Page: w0 & (1<<pageBits - 1), Codec: uint8(w0 >> codecShift & (1<<codecBits - 1))}
	if o.Codec == 0 || w0 >= filling || !c.fits(length) {
		return Object{}, false
	}
	w1 := binary.LittleEndian.Uint64(a.word1(offset))
	o.Export, o.Sum = uint32(w1>>32), uint32(w1)
	data := offset + headerSize
	o.Data = a.memory[data : data+length : data+length]
	return o, true
}

func lengthOf(w0 uint64) int64 {
	return int64(w0 >> lengthShift & (1<<lengthBits - 1))
}
