package zcache

import (
	"encoding/binary"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Judge says what a cache would make of pages, without one: for those who are about
// to choose its settings. It is for one goroutine.
type Judge struct {
	lz4  compressor
	zstd zstdCodec
	zram lz4.CompressorCCompat // makes the same blocks as the kernel's lz4
	out  [encodeBuffer]byte
}

// Verdict is what a cache would make of a page. Lengths are of an object's data in
// bytes, 0 where the page would be refused.
type Verdict struct {
	SameFilled bool // it would be its handle, and nothing else is set
	LZ4        int
	Zstd       int
	Cold       int // after recompression of what was LZ4

	// Zram is what zram would make of it with lz4, for comparison: 0 if one word fills
	// the page, a whole page if it does not compress.
	Zram int
}

// NewJudge makes a judge.
func NewJudge() (*Judge, error) {
	j := &Judge{zstd: zstdCodec{encoders: 1}}
	if _, err := j.zstd.get(); err != nil {
		return nil, err
	}
	return j, nil
}

// Page judges a page, by its content alone: RefusedMean and RefusedFull depend on
// others. It does not allocate.
func (j *Judge) Page(page []byte) Verdict {
	if _, same := samefilled.Of(page); same {
		return Verdict{SameFilled: true}
	}
	v := Verdict{LZ4: len(j.lz4.compress(page)), Zram: j.inZram(page)}
	data, _ := j.zstd.encode(j.out[:], page) // its encoder is free
	v.Zstd, v.Cold = len(data), v.LZ4
	if v.LZ4 > 0 && worthRecompressing(v.LZ4, data) {
		v.Cold = v.Zstd
	}
	return v
}

// zramHuge is from where on zram keeps a page as it is: the size above which the
// kernel's allocator has none but whole pages. It depends on how the kernel was built
// (ZSMALLOC_CHAIN_SIZE, 8 by default); few pages are between the values that there are.
const zramHuge = 3632

// inZram is Verdict.Zram.
func (j *Judge) inZram(page []byte) int {
	first, same := binary.LittleEndian.Uint64(page), true
	for rest := page[8:]; same && len(rest) >= 8; rest = rest[8:] {
		same = binary.LittleEndian.Uint64(rest) == first
	}
	if same {
		return 0
	}
	n, err := j.zram.CompressBlock(page, j.out[:backends.PageSize-1])
	if err != nil || n == 0 || n >= zramHuge {
		return backends.PageSize
	}
	return n
}

// MaxMean is what objects' data must be on average, or pages above it are refused
// (RefusedMean).
const MaxMean = maxMean

// RawBytes is the data of a page that is kept as it is.
const RawBytes = backends.PageSize
