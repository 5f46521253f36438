package zcache

import (
	"errors"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/packed"
)

func newPackCache(t testing.TB, config Config) *Cache {
	t.Helper()
	c, err := New(config)
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

// TestUnpackKeepsEncoding: what came as lz4 or zstd is kept as it is, byte for byte,
// and can be loaded although nothing here was ever compressed by zstd.
func TestUnpackKeepsEncoding(t *testing.T) {
	for _, codec := range []Codec{LZ4, Zstd} {
		config := Config{Limit: 4 << 20, Codec: codec, Staging: -1}
		from, to := newPackCache(t, config), newPackCache(t, Config{Limit: 4 << 20, Staging: -1})
		key := backends.Key{Export: 1, Page: 5}
		page := backendtest.Page(backendtest.Structured, 1)
		handle, refusal, err := from.Store(key, page)
		if err != nil || refusal != backends.Accepted {
			t.Fatal(refusal, err)
		}
		p, err := from.Pack(key, handle, make([]byte, backends.PageSize))
		if err != nil || p.Encoding != encodings[codec] {
			t.Fatalf("packed as %s, want %s: %v", p.Encoding, codec, err)
		}
		other, refusal, err := to.Unpack(key, p)
		if err != nil || refusal != backends.Accepted {
			t.Fatal(refusal, err)
		}
		again, err := to.Pack(key, other, make([]byte, backends.PageSize))
		if err != nil || again.Encoding != p.Encoding || string(again.Data) != string(p.Data) || again.Sum != p.Sum {
			t.Errorf("%s of %d bytes became %s of %d bytes: %v", p.Encoding, len(p.Data), again.Encoding, len(again.Data), err)
		}
		dst := make([]byte, backends.PageSize)
		if err := to.Load(key, other, dst); err != nil || string(dst) != string(page) {
			t.Errorf("load after unpack: %v", err)
		}
		from.Invalidate(key, handle)
		to.Invalidate(key, other)
	}
}

// FuzzUnpack: whatever is given to be unpacked, the cache has the page that the
// checksum names afterwards, or nothing.
func FuzzUnpack(f *testing.F) {
	page := backendtest.Page(backendtest.Text, 1)
	f.Add(uint8(backends.EncodingRaw), packed.Sum(page), page)
	f.Add(uint8(backends.EncodingLZ4), uint32(7), []byte{0x1f, 0, 1, 0, 255, 255})
	f.Add(uint8(backends.EncodingZstd), uint32(7), []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0, 0x10})
	f.Add(uint8(backends.EncodingFilled), uint32(7), []byte{1, 2, 3, 4})
	c := newPackCache(f, Config{Limit: 4 << 20, Staging: -1})
	f.Fuzz(func(t *testing.T, encoding uint8, sum uint32, data []byte) {
		key := backends.Key{Export: 1, Page: 3}
		handle, refusal, err := c.Unpack(key, backends.Packed{Encoding: backends.Encoding(encoding), Sum: sum, Data: data})
		if err != nil && !errors.Is(err, backends.ErrCorrupt) {
			t.Fatal(err)
		}
		if err == nil && refusal == backends.Accepted {
			dst := make([]byte, backends.PageSize)
			if err := c.Load(key, handle, dst); err != nil || packed.Sum(dst) != sum {
				t.Errorf("what was unpacked does not load: %v", err)
			}
			c.Invalidate(key, handle)
		}
		if n := c.Stats().Pages; n != 0 {
			t.Fatalf("%d pages are left", n)
		}
	})
}
