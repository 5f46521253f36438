package zcache

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pressure"
)

// size lets the pool follow the host's memory pressure while Config.SelfSizing is
// on. The limit that it leaves when the background ends stays until there is a
// host again, or SelfSizing is turned off.
func (b *background) size() {
	b.sizer.Run(b.ctx, b, func(err error) {
		b.log.Warn("the pool does not follow the host's memory pressure", "error", err)
	})
}

var _ pressure.Pool = (*background)(nil)

// Size implements [pressure.Pool].
func (b *background) Size() (pressure.Size, bool) {
	s := b.config.Load()
	return pressure.Size{
		Held: b.arena.Stats().HeldBytes, Target: s.limit, Floor: s.FloorBytes(), Max: s.Limit,
	}, s.SelfSizing
}

// Resize implements [pressure.Pool].
func (b *background) Resize(target int64) {
	b.exportsMu.Lock()
	defer b.exportsMu.Unlock()
	now := b.config.Load()
	next := *now
	next.limit = min(max(target, now.FloorBytes()), now.Limit)
	if !now.SelfSizing || next.limit == now.limit {
		return // an operator was faster
	}
	if err := b.applyLocked(&next); err != nil {
		b.log.Error("the pool cannot be resized", "error", err)
		return
	}
	if next.limit < now.limit {
		b.moved[backends.PoolShrunk].Add(1)
	} else {
		b.moved[backends.PoolGrown].Add(1)
	}
}

// Thrashing implements [pressure.Pool].
func (b *background) Thrashing() bool { return b.thrash.paused.Load() }
