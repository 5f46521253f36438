package main

import (
	"errors"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/nbd/client"
	"github.com/tmemd/tmemd/tier"
)

const pageSize = client.PageSize

// memoryDevice is a device in plain memory: what the NBD engine is measured
// with. Nothing is locked, since the workloads never have two requests for one
// page outstanding.
type memoryDevice struct {
	region *sharedmem.Region
	data   []byte
}

var _ nbd.Device = (*memoryDevice)(nil)

func newMemoryDevice(pages int) (*memoryDevice, error) {
	region, err := sharedmem.NewPrivate("memory device", int64(pages)*pageSize)
	if err != nil {
		return nil, err
	}
	return &memoryDevice{region, region.Bytes()}, nil
}

func (m *memoryDevice) Size() (int64, error) { return int64(len(m.data)), nil }

func (m *memoryDevice) ReadAt(p []byte, off int64) (int, error) { return copy(p, m.data[off:]), nil }

func (m *memoryDevice) WriteAt(p []byte, off int64) (int, error) { return copy(m.data[off:], p), nil }

func (m *memoryDevice) TryReadAt(p []byte, off int64) bool {
	copy(p, m.data[off:])
	return true
}

func (m *memoryDevice) TryWriteAt(p []byte, off int64) int {
	return copy(m.data[off:], p)
}

func (m *memoryDevice) Sync() error { return nil }

func (m *memoryDevice) Prefetch(_, _ int64) error { return nil }

func (m *memoryDevice) Trim(off, length int64) error {
	clear(m.data[off : off+length])
	return nil
}

func (m *memoryDevice) WriteZeroes(off, length int64, _ bool) error { return m.Trim(off, length) }

func (m *memoryDevice) Extents(_, length int64, report func(int64, bool, uint32) bool) error {
	report(length, false, 0)
	return nil
}

func (m *memoryDevice) Close() error { return m.region.Close() }

// memoryStorage is storage in plain memory: the tier's cost without a disk's.
type memoryStorage struct {
	region               *sharedmem.Region
	data                 []byte
	read, wrote, punched atomic.Uint64
}

var _ tier.Storage = (*memoryStorage)(nil)

func newMemoryStorage(pages int) (*memoryStorage, error) {
	region, err := sharedmem.NewPrivate("memory storage", int64(pages)*pageSize)
	if err != nil {
		return nil, err
	}
	return &memoryStorage{region: region, data: region.Bytes()}, nil
}

func (s *memoryStorage) Pages() uint64 { return uint64(len(s.data) / pageSize) }

func (s *memoryStorage) Resize(uint64) (bool, error) { return false, errors.ErrUnsupported }

func (s *memoryStorage) ReadPages(first uint64, p []byte) error {
	s.read.Add(uint64(copy(p, s.data[first*pageSize:]) / pageSize))
	return nil
}

func (s *memoryStorage) WritePages(first uint64, p []byte) error {
	s.wrote.Add(uint64(copy(s.data[first*pageSize:], p) / pageSize))
	return nil
}

func (s *memoryStorage) PunchPages(first, n uint64) error {
	clear(s.data[first*pageSize : (first+n)*pageSize])
	s.punched.Add(n)
	return nil
}

func (s *memoryStorage) Sync() error { return nil }

func (s *memoryStorage) Stats() tier.StorageStats {
	return tier.StorageStats{PagesRead: s.read.Load(), PagesWritten: s.wrote.Load(), PagesPunched: s.punched.Load()}
}

func (s *memoryStorage) Close() error { return s.region.Close() }
