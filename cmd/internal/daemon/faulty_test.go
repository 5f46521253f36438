package daemon

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/tier"
)

// faultyStorage is a file whose disk can be full, cannot punch, or holds writes
// up until the test lets them go.
type faultyStorage struct {
	tier.Storage
	full, noPunch, noSync atomic.Bool
	gate                  atomic.Pointer[chan struct{}]
}

// open is an Options.OpenStorage.
func (s *faultyStorage) open(e config.Export) (tier.Storage, error) {
	file, err := tier.OpenFile(e.Storage, e.Size)
	s.Storage = file
	return s, err
}

func (s *faultyStorage) WritePages(first uint64, p []byte) error {
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
	if s.full.Load() {
		return fmt.Errorf("write %d bytes: %w", len(p), unix.ENOSPC)
	}
	return s.Storage.WritePages(first, p)
}

func (s *faultyStorage) PunchPages(first, n uint64) error {
	if s.noPunch.Load() {
		return tier.ErrNoPunch
	}
	return s.Storage.PunchPages(first, n)
}

func (s *faultyStorage) Sync() error {
	if s.noSync.Load() {
		return unix.EIO
	}
	return s.Storage.Sync()
}
