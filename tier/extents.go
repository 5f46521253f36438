package tier

import "github.com/tmemd/tmemd/frontswap"

// Extents tells where the range is: report is called for each run of bytes of
// one owner, in order, with the run's length, whether it is a hole (reads as
// zeros), and the owner's number: 0 nobody yet, 1 storage, 2 a hole, 3 to 17 a
// backend, 18 lost. It ends early when report returns false. Each page is looked at
// without its lock, so a run is true of some instant during the call.
func (d *Device) Extents(off, length int64, report func(length int64, hole bool, owner uint32) bool) error {
	if err := d.check(off, length); err != nil {
		return err
	}
	touched := run{d: d}
	for end := off + length; off < end; {
		start := off
		owner, last := touched.owner(uint64(off / pageSize))
		off = min(end, int64(last)*pageSize)
		for off < end {
			next, last := touched.owner(uint64(off / pageSize))
			if next != owner {
				break
			}
			off = min(end, int64(last)*pageSize)
		}
		if !report(off-start, owner == frontswap.OwnerHole, uint32(owner)) {
			return nil
		}
	}
	return nil
}

// run is a part of the map that was touched, or the gap before it. A new export
// may be all gap, whose map must not be looked at: that would take memory for it.
type run struct {
	d           *Device
	first, last uint64 // pages that were touched; before first is the gap
}

// owner says who has the page, and the first page behind it for which that has to
// be asked again. Pages are asked for in ascending order.
func (r *run) owner(page uint64) (owner frontswap.Owner, last uint64) {
	if page >= r.last {
		r.first, r.last = r.d.area.NextTouched(page)
	}
	if page < r.first {
		return r.d.area.Fresh(), r.first
	}
	return r.d.area.Owner(page), page + 1
}
