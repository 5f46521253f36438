package samefilled_test

import (
	"encoding/binary"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// TestOf looks at pages that are one value but for one byte, at every
// position.
func TestOf(t *testing.T) {
	for _, value := range []uint32{0, 1, 0xffffffff, 0xdeadbeef, 0x01010101} {
		page := make([]byte, backends.PageSize)
		samefilled.Fill(page, value)
		for i := 0; i < len(page); i += 4 {
			if binary.LittleEndian.Uint32(page[i:]) != value {
				t.Fatalf("fill with %#x left %#x at %d", value, page[i:i+4], i)
			}
		}
		if got, ok := samefilled.Of(page); !ok || got != value {
			t.Errorf("Of of %#x: %#x, %v", value, got, ok)
		}
		for i := range page {
			page[i] ^= 0x40
			if got, ok := samefilled.Of(page); ok {
				t.Fatalf("Of of %#x with byte %d changed: %#x", value, i, got)
			}
			page[i] ^= 0x40
		}
	}
	for seed := range uint64(100) {
		if _, ok := samefilled.Of(backendtest.Page(backendtest.Repeated, seed)); ok {
			t.Errorf("Of of a repeated 8-byte value, seed %d", seed)
		}
	}
}

// TestCheck counts how many wrong keys and values a handle is good
// for: 1 in 32,768, if the bits are well mixed.
func TestCheck(t *testing.T) {
	handle := samefilled.Handle(backends.Key{Export: 1, Page: 1000}, 0xabababab)
	const tries = 1 << 20
	passed := 0
	for i := range uint64(tries) {
		if _, ok := samefilled.Value(backends.Key{Export: uint32(i >> 10), Page: i}, handle); ok {
			passed++
		}
	}
	if expected := tries >> 15; passed > 4*expected {
		t.Errorf("%d of %d wrong keys pass the check, want about %d", passed, tries, expected)
	}
	for bit := range backends.HandleBits {
		if _, ok := samefilled.Value(backends.Key{Export: 1, Page: 1000}, handle^1<<bit); ok {
			t.Errorf("the handle with bit %d flipped passes the check", bit)
		}
	}
}
