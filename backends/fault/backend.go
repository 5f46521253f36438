package fault

import (
	"fmt"
	"sync"

	"github.com/tmemd/tmemd/backends"
)

// Backend is a backend behind rules. It owns the inner one.
type Backend struct {
	backends.Backend        // the inner one; immutable
	Rules            *Rules // immutable

	ephemeral sync.Map // from the number of an export whose pages may vanish
}

var _ backends.Backend = (*Backend)(nil)

// New puts rules before a backend.
func New(inner backends.Backend) *Backend { return &Backend{Backend: inner, Rules: &Rules{}} }

// Local returns false: a rule may delay.
func (b *Backend) Local() bool { return false }

// Init implements backends.Backend.
func (b *Backend) Init(e backends.Export) error {
	if e.Ephemeral {
		b.ephemeral.Store(e.ID, nil)
	} else {
		b.ephemeral.Delete(e.ID)
	}
	return b.Backend.Init(e)
}

// Store implements backends.Backend.
func (b *Backend) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	action := b.Rules.Next(Store, key.Page, 1)
	if action == Refuse {
		return 0, backends.RefusedFault, nil
	}
	if err := action.Err(); err != nil {
		return 0, backends.Accepted, fmt.Errorf("store page %d: %w", key.Page, err)
	}
	return b.Backend.Store(key, data)
}

// Load implements backends.Backend. What a rule corrupts is what a backend
// without a checksum of its own would hand out, so it is found out here, as the
// contract demands of a backend: the caller gets ErrCorrupt, not the data.
func (b *Backend) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	action := b.Rules.Next(Load, key.Page, 1)
	if err := action.Err(); err != nil {
		return fmt.Errorf("load page %d: %w", key.Page, err)
	}
	if _, ephemeral := b.ephemeral.Load(key.Export); action == Gone && ephemeral {
		return backends.ErrGone
	}
	if err := b.Backend.Load(key, handle, dst); err != nil {
		return err
	}
	if action == Corrupt {
		dst[key.Page%uint64(len(dst))] ^= 1
		return fmt.Errorf("load page %d: injected: %w", key.Page, backends.ErrCorrupt)
	}
	return nil
}

// Pack implements backends.Backend, with the rules of Load.
func (b *Backend) Pack(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
	action := b.Rules.Next(Load, key.Page, 1)
	if err := action.Err(); err != nil {
		return backends.Packed{}, fmt.Errorf("pack page %d: %w", key.Page, err)
	}
	p, err := b.Backend.Pack(key, handle, dst)
	if action == Corrupt {
		p.Sum ^= 1
	}
	return p, err
}

// Unpack implements backends.Backend, with the rules of Store.
func (b *Backend) Unpack(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
	action := b.Rules.Next(Store, key.Page, 1)
	if action == Refuse {
		return 0, backends.RefusedFault, nil
	}
	if err := action.Err(); err != nil {
		return 0, backends.Accepted, fmt.Errorf("unpack page %d: %w", key.Page, err)
	}
	return b.Backend.Unpack(key, p)
}
