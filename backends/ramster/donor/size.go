package donor

import (
	"context"

	"github.com/tmemd/tmemd/backends/pressure"
)

// followPressure lets the limit follow the host's memory pressure.
func (d *Donor) followPressure(ctx context.Context) {
	d.sizer.Run(ctx, sizing{d}, func(err error) {
		d.config.Log.Warn("the donor does not follow the host's memory pressure", "error", err)
	})
}

// sizing is the donor as a pool that is resized.
type sizing struct{ *Donor }

var _ pressure.Pool = sizing{}

// Size implements [pressure.Pool].
func (d sizing) Size() (pressure.Size, bool) {
	most := d.most.Load()
	return pressure.Size{
		Held: d.arena.Stats().HeldBytes + d.index.Bytes(), Target: d.limit.Load(), Floor: min(d.config.Floor, most), Max: most,
	}, true
}

// Resize implements [pressure.Pool].
func (d sizing) Resize(target int64) {
	d.sizing.Lock()
	d.limit.Store(min(target, d.most.Load()))
	d.sizing.Unlock()
	d.balance()
	d.askRoom()
}

// Thrashing implements [pressure.Pool]: what owners take back does not return.
func (d sizing) Thrashing() bool { return false }
