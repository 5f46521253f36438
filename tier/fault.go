package tier

import (
	"fmt"

	"github.com/tmemd/tmemd/backends/fault"
)

// FaultyStorage is storage behind rules, see package fault. It owns the inner
// one.
type FaultyStorage struct {
	Storage              // the inner one; immutable
	Rules   *fault.Rules // immutable
}

var _ Storage = (*FaultyStorage)(nil)

// NewFaultyStorage puts rules before storage.
func NewFaultyStorage(inner Storage) *FaultyStorage {
	return &FaultyStorage{Storage: inner, Rules: &fault.Rules{}}
}

// ReadPages implements [Storage].
func (s *FaultyStorage) ReadPages(first uint64, p []byte) error {
	action := s.Rules.Next(fault.Read, first, uint64(len(p)/pageSize))
	if err := action.Err(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := s.Storage.ReadPages(first, p); err != nil {
		return err
	}
	if action == fault.Corrupt {
		p[first%pageSize] ^= 1
	}
	return nil
}

// WritePages implements [Storage].
func (s *FaultyStorage) WritePages(first uint64, p []byte) error {
	if err := s.Rules.Next(fault.Write, first, uint64(len(p)/pageSize)).Err(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return s.Storage.WritePages(first, p)
}

// PunchPages implements [Storage].
func (s *FaultyStorage) PunchPages(first, n uint64) error {
	if err := s.Rules.Next(fault.Punch, first, n).Err(); err != nil {
		return fmt.Errorf("punch: %w", err)
	}
	return s.Storage.PunchPages(first, n)
}

// Sync implements [Storage].
func (s *FaultyStorage) Sync() error {
	if err := s.Rules.Next(fault.Sync, 0, 0).Err(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return s.Storage.Sync()
}
