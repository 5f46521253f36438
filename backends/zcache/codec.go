package zcache

import (
	"hash/crc32"
	"runtime"
	"sync/atomic"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pagelz4"
)

// Codec is how an object's data is encoded. The numbers are the arena's format.
type Codec uint8

// The codecs.
const (
	LZ4    Codec = 1 // one lz4 block
	Raw    Codec = 2 // the page as it came
	Zstd   Codec = 3 // one zstd frame, without its checksum
	codecs       = 4 // those of a page by itself; see shared.go for others
)

// String names the codec as the configuration does.
func (c Codec) String() string {
	switch c {
	case LZ4:
		return "lz4"
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	case shared:
		return "shared"
	}
	return "unknown"
}

const (
	// maxCompressed is what a page must get down to: 7/8 of its size.
	maxCompressed = backends.PageSize * 7 / 8
	// encodeBuffer has room for a page that lz4 or zstd could do nothing with.
	encodeBuffer = pagelz4.Bound
	// maxMean is what pages must get down to on average, 5/8: while they do not,
	// a page above it is refused.
	maxMean = backends.PageSize * 5 / 8
)

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// compressor is the working memory for one compression.
//
// lz4 blocks are written by an encoder made for pages. Beside the better of the
// library's compressors, CompressorCCompat, it takes two thirds of the time, makes
// 2 to 3 % less of pages of real processes, its blocks are decoded a sixth sooner,
// and it touches 8 KiB of table instead of 16 (pagelz4 has the measurements).
type compressor struct {
	busy atomic.Bool
	lz4  pagelz4.Encoder
	out  [encodeBuffer]byte
}

// compressors is a fixed set of working memory.
type compressors []compressor

// newCompressors makes four for each processor that runs goroutines. A
// goroutine which is preempted keeps its own, so one for each is too few.
func newCompressors() compressors {
	return make(compressors, max(16, 4*runtime.GOMAXPROCS(0)))
}

// claim returns a free compressor or nil. The first free one is taken, so that
// as few as the load needs are ever touched, and those stay in the cache.
func (cs compressors) claim() *compressor {
	for i := range cs {
		c := &cs[i]
		if !c.busy.Load() && c.busy.CompareAndSwap(false, true) {
			return c
		}
	}
	return nil
}

func (c *compressor) release() { c.busy.Store(false) }

// compress returns the page as one lz4 block, valid until release, or nil if it
// does not get down to maxCompressed.
func (c *compressor) compress(page []byte) []byte {
	n := c.lz4.Encode(&c.out, (*[backends.PageSize]byte)(page), maxCompressed)
	if n == 0 {
		return nil
	}
	return c.out[:n]
}

// decompress fills page and returns true, or returns false if the data is not an
// lz4 block of that length. Any bytes may be given as data.
func decompress(page, data []byte) bool {
	n, err := lz4.UncompressBlock(data, page)
	return err == nil && n == backends.PageSize
}

// encode compresses the page for a store, by the codec if it can, else by lz4.
// The result is valid until w is released; nil if the page does not get small
// enough.
func (c *Cache) encode(w *compressor, codec Codec, page []byte) (Codec, []byte) {
	if codec == Zstd {
		if data, ok := c.zstd.encode(w.out[:], page); ok {
			return Zstd, data
		}
	}
	return LZ4, w.compress(page)
}

// decode fills page with what data was before, and returns false if data is
// nothing of the kind. Any bytes may be given as data.
func (c *Cache) decode(codec Codec, page, data []byte) bool {
	switch codec {
	case LZ4, contentOf | LZ4:
		return decompress(page, data)
	case Raw:
		return len(data) == backends.PageSize && copy(page, data) == backends.PageSize
	case Zstd, contentOf | Zstd:
		return c.zstd.decode(page, data)
	}
	return false
}
