package pressure

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// Period is the time between two looks: the kernel counts stalls that often.
	Period = 2 * time.Second
	// Inertia is how many looks a state has to last before anything is done.
	Inertia = 3
	// Hysteresis: each look takes or gives so little, a twentieth.
	Hysteresis = 20

	strainedStall = 0.10
	urgentStall   = 0.50 // does not wait for Inertia
	calmStall     = 0.01
	plenty        = 0.25 // with so much available, stalls are somebody else's
	comfortable   = 0.10
	scarce        = 0.05 // without PSI
)

// Pool is what a [Sizer] needs to know of the pool, and to tell it. The methods
// are called from within Run only.
type Pool interface {
	// Size says how much the pool holds and may hold now, and between what its
	// target has to stay, in bytes. on is false while it is not to be resized.
	Size() (s Size, on bool)
	// Resize sets the target. It differs from Size.Target.
	Resize(target int64)
	// Thrashing says whether pages that the pool had evicted come straight back.
	Thrashing() bool
}

// Size is a pool's size, in bytes.
type Size struct {
	Held       int64
	Target     int64
	Floor, Max int64
}

// Sizer follows the host's memory pressure. Run is called once at a time; Stall
// from anywhere.
type Sizer struct {
	Source Source // immutable; nil is [Host]

	stall atomic.Int64 // parts of a million of the last period

	// Owned by Run.
	last  Sample
	at    time.Time
	state state
	looks int // that the state has lasted
}

type state int

const (
	between state = iota
	strained
	calm
)

// Stall is the share of the last period in which some task waited for memory, 0
// to 1; 0 where the kernel does not count that.
func (s *Sizer) Stall() float64 { return float64(s.stall.Load()) / 1e6 }

// Run looks every [Period] until ctx ends. onError is called when the source
// cannot be read and could before.
func (s *Sizer) Run(ctx context.Context, pool Pool, onError func(error)) {
	if s.Source == nil {
		s.Source = Host()
	}
	tick := time.NewTicker(Period)
	defer tick.Stop()
	failed := false
	s.at = time.Time{}
	for {
		sample, err := s.Source.Sample()
		if err != nil && !failed {
			onError(err)
		}
		failed = err != nil
		if failed {
			s.at = time.Time{} // S3
		} else {
			s.look(time.Now(), sample, pool)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look takes note of a sample, and moves the target if it is time.
func (s *Sizer) look(now time.Time, sample Sample, pool Pool) {
	elapsed, stalled := now.Sub(s.at), sample.Stalled-s.last.Stalled
	first := s.at.IsZero() || sample.PSI != s.last.PSI
	s.last, s.at = sample, now
	if first || elapsed <= 0 {
		s.state, s.looks = between, 0
		s.stall.Store(0)
		return
	}
	stall := 0.0
	if sample.PSI {
		stall = min(1, max(0, float64(stalled)/float64(elapsed)))
	}
	s.stall.Store(int64(stall * 1e6))
	state := sample.state(stall)
	if state != s.state {
		s.state, s.looks = state, 0
	}
	s.looks++
	size, on := pool.Size()
	if !on || s.looks < Inertia && stall < urgentStall {
		return
	}
	if target := s.target(size, pool); target != size.Target {
		pool.Resize(target)
	}
}

// state says what the table in the package comment does.
func (s Sample) state(stall float64) state {
	available := float64(s.Available) / float64(max(1, s.Total))
	if !s.PSI {
		switch {
		case available < scarce:
			return strained
		case available >= comfortable:
			return calm
		}
		return between
	}
	switch {
	case stall >= strainedStall && available < plenty:
		return strained
	case available >= comfortable && (stall < calmStall || available >= plenty):
		return calm
	}
	return between
}

func (s *Sizer) target(size Size, pool Pool) int64 {
	target := size.Target
	switch s.state {
	case strained:
		if pool.Thrashing() {
			break
		}
		// Taking from a target that is far away would do nothing. A pool that was
		// full is a little below it, as pages go until some room is free again.
		if size.Held < target/4*3 {
			target = size.Held
		}
		target -= target / Hysteresis
	case calm:
		target += max(1, size.Max/Hysteresis)
	}
	return min(max(target, size.Floor), size.Max)
}
