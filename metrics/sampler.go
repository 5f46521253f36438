package metrics

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Sampler takes snapshots for probes and the status page: one at a time, whoever asks and
// however often, so that many viewers cost what one does. If the daemon's parts do not answer,
// because a lock is never given back, or storage does not say how it is, then it says so, and
// keeps one goroutine waiting, not one for each question.
type Sampler struct {
	take  func() Snapshot // immutable
	watch *watch          // immutable

	mu     sync.Mutex
	latest Sample  // guarded by mu
	under  *taking // guarded by mu; nil while none is under way
	closed bool    // guarded by mu
}

// Sample is a snapshot and when it was taken.
type Sample struct {
	Snapshot
	Time    time.Time
	Unready string // why the daemon does not serve as it should, or empty
}

// taking is a snapshot under way.
type taking struct {
	done   chan struct{} // closed when sample is there
	sample Sample        // written before done is closed
}

// ErrNoAnswer is what a Sampler returns if no snapshot comes in time.
var ErrNoAnswer = errors.New("the daemon's parts do not answer")

// NewSampler returns a sampler that calls take, from a goroutine of its own.
func NewSampler(take func() Snapshot) *Sampler { return &Sampler{take: take, watch: &watch{}} }

// Sample returns a snapshot that is no older than age, waiting for one as long as ctx lasts.
func (s *Sampler) Sample(ctx context.Context, age time.Duration) (Sample, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return Sample{}, ErrNoAnswer
	}
	if !s.latest.Time.IsZero() && time.Since(s.latest.Time) <= age {
		defer s.mu.Unlock()
		return s.latest, nil
	}
	t := s.under
	if t == nil {
		t = &taking{done: make(chan struct{})}
		s.under = t
		go s.run(t)
	}
	s.mu.Unlock()
	select {
	case <-t.done:
		return t.sample, nil
	case <-ctx.Done():
		return Sample{}, ErrNoAnswer
	}
}

func (s *Sampler) run(t *taking) {
	snapshot, now := s.take(), time.Now()
	t.sample = Sample{snapshot, now, s.watch.unready(snapshot, now)}
	s.mu.Lock()
	s.latest, s.under = t.sample, nil
	s.mu.Unlock()
	close(t.done)
}

// close waits for the snapshot under way, as long as ctx lasts, and takes no other.
func (s *Sampler) close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	t := s.under
	s.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case <-t.done:
	case <-ctx.Done(): // wedged: it is left behind with the lock that it waits for
	}
}
