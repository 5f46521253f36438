package packed

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the checksum of a page.
func Sum(page []byte) uint32 { return crc32.Checksum(page, castagnoli) }

// Raw packs a page without compressing it, except that a page which is filled with
// one value shrinks to that. The result refers to page, or to room.
func Raw(page []byte, room *[4]byte) backends.Packed {
	p := backends.Packed{Encoding: backends.EncodingRaw, Sum: Sum(page), Data: page}
	if value, ok := samefilled.Of(page); ok {
		p = Filled(value, p.Sum, room)
	}
	return p
}

// Filled packs a page that is filled with value. The result refers to room.
func Filled(value, sum uint32, room *[4]byte) backends.Packed {
	binary.LittleEndian.PutUint32(room[:], value)
	return backends.Packed{Encoding: backends.EncodingFilled, Sum: sum, Data: room[:]}
}

// Decoder makes pages of packed ones. Any goroutine may use it, several at once.
type Decoder struct{ zstd *zstd.Decoder }

// NewDecoder makes a decoder.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(1<<16))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return &Decoder{z}, nil
}

// Decode fills page, of PageSize bytes. After an error, which wraps
// [backends.ErrCorrupt], it holds nothing of use.
func (d *Decoder) Decode(p backends.Packed, page []byte) error {
	if !d.fill(p, page) {
		return fmt.Errorf("%d bytes, %s, are not a page: %w", len(p.Data), p.Encoding, backends.ErrCorrupt)
	}
	if Sum(page) != p.Sum {
		return fmt.Errorf("checksum of a page differs: %w", backends.ErrCorrupt)
	}
	return nil
}

func (d *Decoder) fill(p backends.Packed, page []byte) bool {
	if len(p.Data) > backends.PageSize {
		return false
	}
	switch p.Encoding {
	case backends.EncodingRaw:
		return copy(page, p.Data) == backends.PageSize
	case backends.EncodingLZ4:
		n, err := lz4.UncompressBlock(p.Data, page)
		return err == nil && n == backends.PageSize
	case backends.EncodingZstd:
		got, err := d.zstd.DecodeAll(p.Data, page[:0:backends.PageSize])
		return err == nil && len(got) == backends.PageSize && &got[0] == &page[0]
	case backends.EncodingFilled:
		if len(p.Data) != 4 {
			return false
		}
		samefilled.Fill(page, binary.LittleEndian.Uint32(p.Data))
		return true
	}
	return false
}
