package zcache

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// TestSameFilled looks at pages that are one value but for one byte, at every
// position.
func TestSameFilled(t *testing.T) {
	for _, value := range []uint32{0, 1, 0xffffffff, 0xdeadbeef, 0x01010101} {
		page := make([]byte, backends.PageSize)
		fill(page, value)
		for i := 0; i < len(page); i += 4 {
			if binary.LittleEndian.Uint32(page[i:]) != value {
				t.Fatalf("fill with %#x left %#x at %d", value, page[i:i+4], i)
			}
		}
		if got, ok := sameFilled(page); !ok || got != value {
			t.Errorf("sameFilled of %#x: %#x, %v", value, got, ok)
		}
		for i := range page {
			page[i] ^= 0x40
			if got, ok := sameFilled(page); ok {
				t.Fatalf("sameFilled of %#x with byte %d changed: %#x", value, i, got)
			}
			page[i] ^= 0x40
		}
	}
	for seed := range uint64(100) {
		if _, ok := sameFilled(backendtest.Page(backendtest.Repeated, seed)); ok {
			t.Errorf("sameFilled of a repeated 8-byte value, seed %d", seed)
		}
	}
}

func TestSameFilledCostsNothing(t *testing.T) {
	c := newTestCache(t)
	dst := make([]byte, backends.PageSize)
	for seed := range uint64(1000) {
		key := backends.Key{Export: 1, Page: seed}
		page := backendtest.Page(backendtest.SameFilled, seed)
		handle, refusal, err := c.Store(key, page)
		if err != nil || refusal != backends.Accepted || !isSameFilled(handle) || handle >= 1<<backends.HandleBits {
			t.Fatalf("Store: %#x, %v, %v", uint64(handle), refusal, err)
		}
		if err := c.Load(key, handle, dst); err != nil || !bytes.Equal(dst, page) {
			t.Fatalf("Load: %v, or other bytes", err)
		}
	}
	stats := c.Stats()
	if stats.Pages != 1000 || stats.SameFilledPages != 1000 || stats.StoredBytes != 0 || stats.HeldBytes != 0 || stats.Memory[0].Resident != 0 {
		t.Errorf("Stats: %+v", stats)
	}
}

// TestSameFilledCheck counts how many wrong keys and values a handle is good
// for: 1 in 32,768, if the bits are well mixed.
func TestSameFilledCheck(t *testing.T) {
	handle := sameFilledHandle(backends.Key{Export: 1, Page: 1000}, 0xabababab)
	const tries = 1 << 20
	passed := 0
	for i := range uint64(tries) {
		if _, ok := sameFilledValue(backends.Key{Export: uint32(i >> 10), Page: i}, handle); ok {
			passed++
		}
	}
	if expected := tries >> 15; passed > 4*expected {
		t.Errorf("%d of %d wrong keys pass the check, want about %d", passed, tries, expected)
	}
	for bit := range backends.HandleBits {
		if _, ok := sameFilledValue(backends.Key{Export: 1, Page: 1000}, handle^1<<bit); ok {
			t.Errorf("the handle with bit %d flipped passes the check", bit)
		}
	}
}
