package zcache

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Judge says what a cache would make of pages, without one: for those who are about
// to choose its settings. It is for one goroutine.
type Judge struct {
	lz4  compressor
	zstd zstdCodec
	out  [encodeBuffer]byte
}

// Verdict is what a cache would make of a page. Lengths are of an object's data in
// bytes, 0 where the page would be refused.
type Verdict struct {
	SameFilled bool // it would be its handle, and nothing else is set
	LZ4        int
	Zstd       int
	Cold       int // after recompression of what was LZ4
}

// NewJudge makes a judge.
func NewJudge() (*Judge, error) {
	j := new(Judge)
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
	v := Verdict{LZ4: len(j.lz4.compress(page))}
	data, _ := j.zstd.encode(j.out[:], page) // one encoder at least is free
	v.Zstd, v.Cold = len(data), v.LZ4
	if v.LZ4 > 0 && worthRecompressing(v.LZ4, data) {
		v.Cold = v.Zstd
	}
	return v
}

// MaxMean is what objects' data must be on average, or pages above it are refused
// (RefusedMean).
const MaxMean = maxMean

// RawBytes is the data of a page that is kept as it is.
const RawBytes = backends.PageSize
