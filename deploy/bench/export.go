package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/tier"
)

// cacheName is the name that the cache is registered under.
const cacheName = "zcache"

// export is a tier device over frontswap and zcache, as tmemd makes one.
type export struct {
	device *tier.Device
	swap   *frontswap.Frontswap
	cache  *zcache.Cache
}

// newExport makes an export that owns the storage. The cache has room for every
// page of it.
func newExport(storage tier.Storage) (*export, error) {
	log := slog.New(slog.DiscardHandler)
	swap := frontswap.New(log)
	device, err := tier.Open(tier.Config{Name: "bench", ID: 1, Storage: storage, Frontswap: swap, Log: log})
	if err != nil {
		return nil, errors.Join(err, storage.Close())
	}
	cache, err := zcache.New(zcache.Config{Limit: 2*int64(storage.Pages())*pageSize + 64<<20})
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	if err := swap.Register(cacheName, cache); err != nil {
		return nil, errors.Join(err, cache.Close(), device.Close())
	}
	return &export{device, swap, cache}, nil
}

// newMemoryExport makes an export whose storage is memory.
func newMemoryExport(pages int) (*export, error) {
	storage, err := newMemoryStorage(pages)
	if err != nil {
		return nil, err
	}
	return newExport(storage)
}

// close trims all pages first, so that nothing has to be drained.
func (e *export) close() error {
	size, err := e.device.Size()
	if err != nil {
		return err
	}
	if err := e.device.Trim(0, size); err != nil {
		return err
	}
	if _, err := e.swap.Unregister(context.Background(), cacheName); err != nil {
		return fmt.Errorf("unload zcache: %w", err)
	}
	return e.device.Close()
}
