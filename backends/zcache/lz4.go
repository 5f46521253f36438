package zcache

import (
	"hash/crc32"
	"runtime"
	"sync/atomic"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
)

// codecLZ4 marks objects that are one lz4 block.
const codecLZ4 = 1

// maxCompressed is what a page must get down to: 7/8 of its size.
const maxCompressed = backends.PageSize * 7 / 8

// castagnoli is constant. The processor computes this polynomial.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// compressor is the working memory for one compression.
//
// Of the library's two fast compressors this is the one that works as the C
// library does. On pages of real processes (BenchmarkCodec) it takes as long as
// the other, makes 2 % less of them, gives up on random pages sooner, and
// touches 16 KiB of tables instead of 136 KiB.
type compressor struct {
	busy atomic.Bool
	lz4  lz4.CompressorCCompat
	out  [maxCompressed]byte // what does not fit is refused as poor
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

// compress returns the page compressed, valid until release, or nil if it does
// not fit: lz4 says so in two ways, "incompressible" and "buffer too short".
func (c *compressor) compress(page []byte) []byte {
	n, err := c.lz4.CompressBlock(page, c.out[:])
	if err != nil || n == 0 {
		return nil
	}
	return c.out[:n]
}

// decompress fills page and returns true, or returns false if the data is not a
// block of that length. Any bytes may be given as data.
func decompress(page, data []byte) bool {
	n, err := lz4.UncompressBlock(data, page)
	return err == nil && n == backends.PageSize
}
