package disk

import (
	"errors"
	"fmt"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

// Base is an image that is never written, with one cache for all overlays over it, and
// for disks that have the same content under the same name. Overlays lock a page of
// theirs first, then the base's.
type Base struct {
	layer
}

// NewBase makes a base. On an error storage and pool are still the caller's. Close ends
// it, behind all overlays.
func NewBase(storage tier.Storage, pool *cleancache.Pool) (*Base, error) {
	if storage.Pages() != pool.Pages() {
		return nil, fmt.Errorf("open base: storage has %d pages, the cache is for %d", storage.Pages(), pool.Pages())
	}
	return &Base{layer{pool, storage}}, nil
}

// BaseStats is a base's account of itself.
type BaseStats struct {
	Cache   cleancache.Stats
	Storage tier.StorageStats
	Memory  []sharedmem.Usage // all of its memory outside the Go heap
}

// Pages is the base's length in pages.
func (b *Base) Pages() uint64 { return b.storage.Pages() }

// Stats returns a snapshot.
func (b *Base) Stats() BaseStats {
	s := BaseStats{Cache: b.pool.Stats(), Storage: b.storage.Stats()}
	s.Memory = append(append(s.Memory, s.Cache.Memory), s.Storage.Memory...)
	return s
}

// Close ends the base's use of its cache, and closes storage.
func (b *Base) Close() error { return errors.Join(b.pool.InvalidateFS(), b.storage.Close()) }
