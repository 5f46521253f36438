package bench

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

const (
	pageSize  = 4096
	stampSize = 16

	pageBits    = 40
	versionMask = 1<<24 - 1
)

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp is what a page carries: who it is, and how often it was written.
type stamp struct {
	page    uint64
	version uint32
}

// stamper writes stamps and checks them. It does not change.
type stamper struct{ seed [8]byte }

func newStamper(seed uint64) *stamper {
	s := new(stamper)
	binary.LittleEndian.PutUint64(s.seed[:], seed)
	return s
}

// put stamps a page, the rest of which has the checksum.
func (s *stamper) put(data []byte, is stamp, rest uint32) {
	binary.LittleEndian.PutUint64(data, is.page&(1<<pageBits-1)|uint64(is.version&versionMask)<<pageBits)
	binary.LittleEndian.PutUint32(data[8:], rest)
	binary.LittleEndian.PutUint32(data[12:], s.sum(data))
}

// sum binds the first 12 bytes to the seed.
func (s *stamper) sum(data []byte) uint32 {
	return crc32.Update(crc32.Checksum(data[:12], castagnoli), castagnoli, s.seed[:])
}

// read returns the stamp that a page carries, if it does.
func (s *stamper) read(data []byte) (stamp, bool) {
	if binary.LittleEndian.Uint32(data[12:]) != s.sum(data) {
		return stamp{}, false
	}
	word := binary.LittleEndian.Uint64(data)
	return stamp{word & (1<<pageBits - 1), uint32(word >> pageBits)}, true
}

// verdict is what a page turned out to be.
type verdict int

const (
	right     verdict = iota
	unstamped         // nobody said what it should be, and it does not either
	wrong
)

// check judges a page that was read (N3). known says that version is the one that was
// written last.
func (s *stamper) check(page uint64, version uint32, known bool, data []byte) verdict {
	is, ok := s.read(data)
	switch {
	case !ok && !known:
		return unstamped
	case !ok, is.page != page, known && is.version != version&versionMask:
		return wrong
	case binary.LittleEndian.Uint32(data[8:]) != crc32.Checksum(data[stampSize:], castagnoli):
		return wrong
	}
	return right
}

// explain says what is wrong with a page that check called wrong.
func (s *stamper) explain(page uint64, version uint32, known bool, data []byte) string {
	is, ok := s.read(data)
	switch {
	case !ok:
		return fmt.Sprintf("page %d does not carry what was written: it begins with % x", page, data[:stampSize])
	case is.page != page:
		return fmt.Sprintf("page %d has the content of page %d", page, is.page)
	case known && is.version != version&versionMask:
		return fmt.Sprintf("page %d has version %d, and %d was written last", page, is.version, version&versionMask)
	}
	return fmt.Sprintf("page %d, version %d, is damaged behind its first %d bytes", page, is.version, stampSize)
}
