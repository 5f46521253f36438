package zcache

import (
	"bytes"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func newTestCache(t testing.TB) *Cache {
	t.Helper()
	c, err := New(Config{Limit: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Init(backends.Export{ID: 1, Pages: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBusy takes all working memory away (Z2).
func TestBusy(t *testing.T) {
	c := newTestCache(t)
	if len(c.compressors) < 16 {
		t.Fatalf("%d compressors, want at least 16", len(c.compressors))
	}
	claimed := make(map[*compressor]bool)
	for range c.compressors {
		w := c.compressors.claim()
		if w == nil || claimed[w] {
			t.Fatal("a compressor was claimed twice, or none was left too early")
		}
		claimed[w] = true
	}
	key := backends.Key{Export: 1, Page: 1}
	if _, refusal, err := c.Store(key, backendtest.Page(backendtest.Text, 1)); refusal != backends.RefusedBusy || err != nil {
		t.Errorf("Store: %v, %v, want refused as busy", refusal, err)
	}
	if _, refusal, err := c.Store(key, backendtest.Page(backendtest.SameFilled, 1)); refusal != backends.Accepted || err != nil {
		t.Errorf("Store of a same-filled page: %v, %v", refusal, err)
	}
	if stats := c.Stats(); stats.Refused[backends.RefusedBusy] != 1 || stats.Pages != 1 || stats.StoredBytes != 0 {
		t.Errorf("Stats: %+v", stats)
	}
	for w := range claimed {
		w.release()
	}
	if _, refusal, err := c.Store(key, backendtest.Page(backendtest.Text, 1)); refusal != backends.Accepted || err != nil {
		t.Errorf("Store with compressors free again: %v, %v", refusal, err)
	}
}

// TestReleased stores pages of all outcomes and expects no compressor to stay
// claimed.
func TestReleased(t *testing.T) {
	c := newTestCache(t)
	for seed := range uint64(100) {
		if _, _, err := c.Store(backends.Key{Export: 1, Page: seed}, backendtest.Mixed(seed)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.compressors {
		if c.compressors[i].busy.Load() {
			t.Errorf("compressor %d is still claimed", i)
		}
	}
}

// FuzzLoad loads objects whose data is anything, with a header that fits. Load
// must not panic, write outside the page, or succeed with bytes whose checksum
// is not the one in the header.
func FuzzLoad(f *testing.F) {
	c := newTestCache(f)
	if err := c.SetCodec(Zstd); err != nil {
		f.Fatal(err)
	}
	var w compressor
	for content := range backendtest.Contents {
		page := backendtest.Page(content, 1)
		if data := w.compress(page); data != nil {
			f.Add(uint8(LZ4), bytes.Clone(data), crc32.Checksum(page, castagnoli))
			f.Add(uint8(Raw), page, crc32.Checksum(page, castagnoli))
			if data, ok := c.zstd.encode(w.out[:], page); ok {
				f.Add(uint8(Zstd), bytes.Clone(data), crc32.Checksum(page, castagnoli))
			}
			f.Add(uint8(LZ4), bytes.Clone(data[:len(data)/2]), crc32.Checksum(page, castagnoli))
		}
	}
	f.Add(uint8(LZ4), []byte{0x00}, uint32(0))
	f.Add(uint8(LZ4), []byte{0x1f, 'x', 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0}, uint32(0))
	key := backends.Key{Export: 1, Page: 77}
	f.Fuzz(func(t *testing.T, codec uint8, data []byte, sum uint32) {
		codec = 1 + codec%arena.MaxCodec
		ref, ok := c.arena.Put(arena.Object{Export: key.Export, Page: key.Page, Codec: codec, Sum: sum, Data: data})
		if !ok {
			if len(data) > 0 && len(data) <= arena.MaxData {
				t.Fatalf("no room for %d bytes", len(data))
			}
			return
		}
		defer c.arena.Free(ref)
		const guard = 64
		buffer := bytes.Repeat([]byte{0xa5}, guard+backends.PageSize+guard)
		dst := buffer[guard : guard+backends.PageSize]
		err := c.Load(key, backends.Handle(ref), dst)
		if err != nil && !errors.Is(err, backends.ErrCorrupt) {
			t.Fatalf("Load: %v", err)
		}
		if err == nil && crc32.Checksum(dst, castagnoli) != sum {
			t.Fatal("Z1: Load succeeded with another checksum")
		}
		if len(bytes.Trim(buffer[:guard], "\xa5")) != 0 || len(bytes.Trim(buffer[guard+backends.PageSize:], "\xa5")) != 0 {
			t.Fatal("Load wrote outside the page")
		}
	})
}

// TestForeignCodec keeps an object of a codec that this version does not know.
func TestForeignCodec(t *testing.T) {
	c := newTestCache(t)
	page := backendtest.Page(backendtest.Text, 1)
	key := backends.Key{Export: 1, Page: 3}
	var w compressor
	ref, ok := c.arena.Put(arena.Object{
		Export: key.Export, Page: key.Page, Codec: codecs + 5,
		Sum: crc32.Checksum(page, castagnoli), Data: w.compress(page),
	})
	if !ok {
		t.Fatal("no room")
	}
	if err := c.Load(key, backends.Handle(ref), make([]byte, backends.PageSize)); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("Load: %v, want ErrCorrupt", err)
	}
}
