//go:build !(amd64 || arm64) || purego

package pagelz4

import "encoding/binary"

// The same as in memory_unsafe.go for processors of any byte order, with bounds
// checks: what is wrong there panics here.

func load64(page *[PageSize]byte, at int) uint64 {
	return binary.LittleEndian.Uint64(page[at : at+8])
}

func store64(dst *[Bound]byte, at int, v uint64) {
	binary.LittleEndian.PutUint64(dst[at:at+8], v)
}

func store16(dst *[Bound]byte, at int, v uint16) {
	binary.LittleEndian.PutUint16(dst[at:at+2], v)
}

func store8(dst *[Bound]byte, at int, v byte) {
	dst[at] = v
}
