package zcache

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/tmemd/tmemd/backends"
)

// zstdCodec is made when the first page is to be compressed with it: its working
// memory is some hundred times that of lz4.
type zstdCodec struct {
	encoders int        // working memory for so many at a time; 0 for one for each processor; immutable
	mu       sync.Mutex // held to make it
	made     atomic.Pointer[zstdTools]
}

type zstdTools struct {
	// encoders hands out working memory; one that finds none uses lz4.
	encoders chan *zstd.Encoder
	decoder  *zstd.Decoder // for many goroutines at a time; the library waits when there are more
}

// get returns the tools and makes them if need be.
func (z *zstdCodec) get() (*zstdTools, error) {
	if tools := z.made.Load(); tools != nil {
		return tools, nil
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if tools := z.made.Load(); tools != nil {
		return tools, nil
	}
	encoders := z.encoders
	if encoders == 0 {
		encoders = max(2, runtime.GOMAXPROCS(0))
	}
	tools := &zstdTools{encoders: make(chan *zstd.Encoder, encoders)}
	for range encoders {
		// One page is one block, its own window, and has a checksum outside.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
			zstd.WithWindowSize(backends.PageSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("make a zstd encoder: %w", err)
		}
		tools.encoders <- e
	}
	var err error
	tools.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(max(16, 4*runtime.GOMAXPROCS(0))),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(1<<16))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	z.made.Store(tools)
	return tools, nil
}

// encode returns the page compressed, in out, of encodeBuffer bytes; nil if it
// does not get small enough. ok is false if all working memory is in use.
func (z *zstdCodec) encode(out, page []byte) (data []byte, ok bool) {
	tools := z.made.Load()
	if tools == nil {
		return nil, false
	}
	select {
	case e := <-tools.encoders:
		data = e.EncodeAll(page, out[:0])
		tools.encoders <- e
		if len(data) > maxCompressed {
			return nil, true
		}
		return data, true
	default:
		return nil, false
	}
}

// decode fills page, as Cache.decode does.
func (z *zstdCodec) decode(page, data []byte) bool {
	tools := z.made.Load()
	if tools == nil {
		return false
	}
	got, err := tools.decoder.DecodeAll(data, page[:0:backends.PageSize])
	return err == nil && len(got) == backends.PageSize && &got[0] == &page[0]
}
