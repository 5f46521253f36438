package ramster

import (
	"encoding/binary"

	"github.com/tmemd/tmemd/backends/arena"
)

// The codecs of objects in the arena. The numbers are its format.
const (
	codecLZ4    = 1  // a staged page: one lz4 block
	codecRaw    = 2  // a staged page as it came
	codecCached = 14 // a stub of a page of an ephemeral export; droppable
	codecRemote = 15 // a stub: donors have the page
)

// stub is what is known here of a page that donors have. With the object's header,
// export, page and checksum of the plain page, it is all that a load needs.
//
//	bytes 0–7   generation
//	bytes 8–11  places of donors in the ledger, 0 for none
//	bytes 12–15 0
type stub struct {
	generation uint64
	donors     [MaxCopies]uint8
}

const (
	stubSize = 16
	// stubSlot is what a stub takes of the arena.
	stubSlot = 32
)

func (s stub) encode(b *[stubSize]byte) []byte {
	binary.LittleEndian.PutUint64(b[:], s.generation)
	copy(b[8:], s.donors[:])
	clear(b[8+MaxCopies:])
	return b[:]
}

// decodeStub reads the stub in an object, which may be any.
func decodeStub(o arena.Object) (s stub, ok bool) {
	if o.Codec != codecRemote || len(o.Data) != stubSize {
		return stub{}, false
	}
	s.generation = binary.LittleEndian.Uint64(o.Data)
	copy(s.donors[:], o.Data[8:])
	return s, true
}

// names says whether the stub names the donor.
func (s stub) names(donor uint8) bool {
	for _, d := range s.donors {
		if d == donor && d != 0 {
			return true
		}
	}
	return false
}

// isStaged says whether an object is a page that waits to be sent.
func isStaged(o arena.Object) bool {
	return (o.Codec == codecLZ4 || o.Codec == codecRaw) && o.Flags&flagHome == 0
}
