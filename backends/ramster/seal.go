package ramster

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// A sealed page is AES-256-GCM of
//
//	byte 0      codec
//	bytes 1–4   CRC-32C of the plain page
//	bytes 5–…   the page, in that codec
//
// with the nonce 0 (4 bytes), generation (8 bytes), and as additional data export
// (4 bytes), page (8), generation (8). A generation is never used twice with one key
// (see ledger), so no nonce is.
const (
	sealedHeader = 5
	sealOverhead = sealedHeader + 16
	keySize      = 32
	nonceSize    = 12
	boundSize    = 20
)

var _ = [wire.MaxBlob - backends.PageSize - sealOverhead]byte{} // every sealed page fits

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealer seals and opens. Any goroutine may use it, each with a seal of its own.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, fmt.Errorf("seal pages: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealer{}, fmt.Errorf("seal pages: %w", err)
	}
	return sealer{aead}, nil
}

// seal is the working memory for sealing and opening one page at a time.
type seal struct {
	nonce [nonceSize]byte
	bound [boundSize]byte
	plain [sealedHeader + backends.PageSize + 16]byte
	blob  [wire.MaxBlob]byte
}

func (s *seal) bind(key backends.Key, generation uint64) {
	binary.LittleEndian.PutUint64(s.nonce[4:], generation)
	binary.LittleEndian.PutUint32(s.bound[:], key.Export)
	binary.LittleEndian.PutUint64(s.bound[4:], key.Page)
	binary.LittleEndian.PutUint64(s.bound[12:], generation)
}

// seal seals a staged object; the result is valid until s is used again.
func (c sealer) seal(s *seal, o arena.Object, generation uint64) []byte {
	s.bind(backends.Key{Export: o.Export, Page: o.Page}, generation)
	s.plain[0] = o.Codec
	binary.LittleEndian.PutUint32(s.plain[1:], o.Sum)
	n := sealedHeader + copy(s.plain[sealedHeader:sealedHeader+backends.PageSize], o.Data)
	return c.aead.Seal(s.blob[:0], s.nonce[:], s.plain[:n], s.bound[:])
}

// open opens a blob as the page of that generation: what is wrong with it, or "".
// sum is the checksum of the plain page; dst gets the page.
func (c sealer) open(s *seal, key backends.Key, generation uint64, sum uint32, blob, dst []byte) string {
	if len(blob) < sealOverhead || len(blob) > backends.PageSize+sealOverhead {
		return "its length cannot be that of a sealed page"
	}
	s.bind(key, generation)
	plain, err := c.aead.Open(s.plain[:0], s.nonce[:], blob, s.bound[:])
	if err != nil {
		return "it is not what was sealed for this page and generation"
	}
	if binary.LittleEndian.Uint32(plain[1:]) != sum {
		return "checksum differs"
	}
	return decode(plain[0], plain[sealedHeader:], sum, dst)
}

// decode fills dst with the page that data was made of: what is wrong with it, or "".
func decode(codec uint8, data []byte, sum uint32, dst []byte) string {
	switch codec {
	case codecLZ4:
		if n, err := lz4.UncompressBlock(data, dst); err != nil || n != backends.PageSize {
			return "data does not decompress to a page"
		}
	case codecRaw:
		if copy(dst, data) != backends.PageSize {
			return "data is not a page"
		}
	default:
		return "codec is unknown"
	}
	if crc32.Checksum(dst, castagnoli) != sum {
		return "checksum differs"
	}
	return ""
}
