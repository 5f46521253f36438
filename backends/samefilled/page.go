package samefilled

import (
	"encoding/binary"

	"github.com/tmemd/tmemd/backends"
)

const (
	flag       = backends.Handle(1) << (backends.HandleBits - 1)
	checkShift = 32
	checkMask  = 1<<(backends.HandleBits-1-checkShift) - 1
)

// Of returns the value that fills the page, if one does. The last word
// is looked at first: pages that differ often begin alike.
func Of(page []byte) (uint32, bool) {
	word := binary.LittleEndian.Uint64(page)
	value := uint32(word)
	if value != uint32(word>>32) || binary.LittleEndian.Uint64(page[len(page)-8:]) != word {
		return 0, false
	}
	for rest := page[8:]; len(rest) >= 8; rest = rest[8:] {
		if binary.LittleEndian.Uint64(rest) != word {
			return 0, false
		}
	}
	return value, true
}

// Handle returns the handle of a page that is filled with the value.
func Handle(key backends.Key, value uint32) backends.Handle {
	return flag | backends.Handle(check(key, value))<<checkShift | backends.Handle(value)
}

// Is says whether a handle was made by Handle: all others have bit 47 clear.
func Is(handle backends.Handle) bool { return handle&flag != 0 }

// Value returns the value in the handle, if the handle was made for
// this key.
func Value(key backends.Key, handle backends.Handle) (uint32, bool) {
	value := uint32(handle)
	return value, handle == Handle(key, value)
}

// check binds the value to the key in the 15 bits that are left, so
// that a damaged or mistaken handle is found out in all but 1 of 32,768 cases.
func check(key backends.Key, value uint32) uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := (key.Page ^ uint64(key.Export)<<32) * odd
	h = (h ^ h>>32 ^ uint64(value)) * odd
	return h >> 49 & checkMask
}

// Fill makes the page that value fills; its length is a multiple of 8.
func Fill(page []byte, value uint32) {
	word := uint64(value)<<32 | uint64(value)
	for rest := page; len(rest) >= 8; rest = rest[8:] {
		binary.LittleEndian.PutUint64(rest, word)
	}
}
