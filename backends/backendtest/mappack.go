package backendtest

import (
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/packed"
)

// Pack loads the page and packs it raw.
func (m *Map) Pack(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
	if err := m.Load(key, handle, dst); err != nil {
		return backends.Packed{}, err
	}
	return packed.Raw(dst, new([4]byte)), nil
}

// Unpack decodes the page and stores it.
func (m *Map) Unpack(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
	d, err := m.decoder()
	if err != nil {
		return 0, backends.Accepted, err
	}
	page := make([]byte, backends.PageSize)
	if err := d.Decode(p, page); err != nil {
		return 0, backends.Accepted, fmt.Errorf("unpack page %d of export %d: %w", key.Page, key.Export, err)
	}
	return m.Store(key, page)
}

// decoder makes the decoder when it is needed.
func (m *Map) decoder() (*packed.Decoder, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unpacker == nil {
		d, err := packed.NewDecoder()
		if err != nil {
			return nil, err
		}
		m.unpacker = d
	}
	return m.unpacker, nil
}
