package zcache

import (
	"hash/crc32"
	"runtime"
	"sync/atomic"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
)

// Codec is how an object's data is encoded. The numbers are the arena's format.
type Codec uint8

// The codecs.
const (
	LZ4    Codec = 1 // one lz4 block
	Raw    Codec = 2 // the page as it came
	Zstd   Codec = 3 // one zstd frame, without its checksum
	codecs       = 4
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
	}
	return "unknown"
}

const (
	// maxCompressed is what a page must get down to: 7/8 of its size.
	maxCompressed = backends.PageSize * 7 / 8
	// encodeBuffer has room for a page that zstd could do nothing with.
	encodeBuffer = backends.PageSize + 64
	// maxMean is what pages must get down to on average, 5/8: while they do not,
	// a page above it is refused.
	maxMean = backends.PageSize * 5 / 8
)

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// compressor is the working memory for one compression.
//
// Of the library's two fast compressors for lz4 this is the one that works as the
// C library does. On pages of real processes (BenchmarkCodec) it takes as long as
// the other, makes 2 % less of them, gives up on random pages sooner, and
// touches 16 KiB of tables instead of 136 KiB.
type compressor struct {
	busy atomic.Bool
	lz4  lz4.CompressorCCompat
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
// does not fit: lz4 says so in two ways, "incompressible" and "buffer too short".
func (c *compressor) compress(page []byte) []byte {
	n, err := c.lz4.CompressBlock(page, c.out[:maxCompressed])
	if err != nil || n == 0 {
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
	case LZ4:
		return decompress(page, data)
	case Raw:
		return copy(page, data) == backends.PageSize
	case Zstd:
		return c.zstd.decode(page, data)
	}
	return false
}
