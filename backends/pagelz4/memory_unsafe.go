//go:build (amd64 || arm64) && !purego

package pagelz4

import "unsafe"

// Little-endian words at any position, without bounds checks. The callers say why
// the position is within the array (E2).

func load64(page *[PageSize]byte, at int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(page), at))
}

func store64(dst *[Bound]byte, at int, v uint64) {
	*(*uint64)(unsafe.Add(unsafe.Pointer(dst), at)) = v
}

func store16(dst *[Bound]byte, at int, v uint16) {
	*(*uint16)(unsafe.Add(unsafe.Pointer(dst), at)) = v
}

func store8(dst *[Bound]byte, at int, v byte) {
	*(*byte)(unsafe.Add(unsafe.Pointer(dst), at)) = v
}
