package frontswap

import "github.com/tmemd/tmemd/backends"

// unpacked is the part of a backend that is not asked for packed pages.
type unpacked struct{}

func (unpacked) Pack(backends.Key, backends.Handle, []byte) (backends.Packed, error) {
	return backends.Packed{}, backends.ErrCorrupt
}

func (unpacked) Unpack(backends.Key, backends.Packed) (backends.Handle, backends.Refusal, error) {
	return 0, backends.RefusedUnmanaged, nil
}
