package frontswap

import (
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
)

// store is the backend's Store, timed for some pages.
func (s *slot) store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	if !latency.Sampled(key.Page) {
		return s.backend.Store(key, data)
	}
	start := time.Now()
	handle, refusal, err := s.backend.Store(key, data)
	s.stores.Observe(time.Since(start))
	return handle, refusal, err
}

// load is the backend's Load, timed for some pages.
func (s *slot) load(key backends.Key, handle backends.Handle, dst []byte) error {
	if !latency.Sampled(key.Page) {
		return s.backend.Load(key, handle, dst)
	}
	start := time.Now()
	err := s.backend.Load(key, handle, dst)
	s.loads.Observe(time.Since(start))
	return err
}
