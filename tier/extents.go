package tier

import "github.com/tmemd/tmemd/frontswap"

// Extents tells where the range is: report is called for each run of bytes of
// one owner, in order, with the run's length, whether it is a hole (reads as
// zeros), and the owner's number: 0 nobody yet, 1 storage, 2 a hole, 3 and up a
// backend. It ends early when report returns false. Each page is looked at
// without its lock, so a run is true of some instant during the call.
func (d *Device) Extents(off, length int64, report func(length int64, hole bool, owner uint32) bool) error {
	if err := d.check(off, length); err != nil {
		return err
	}
	for end := off + length; off < end; {
		start := off
		owner := d.area.Owner(uint64(off / pageSize))
		for off < end && d.area.Owner(uint64(off/pageSize)) == owner {
			off = min(end, off&^(pageSize-1)+pageSize)
		}
		if off == start { // the page changed hands between the two looks
			off = min(end, off&^(pageSize-1)+pageSize)
		}
		if !report(off-start, owner == frontswap.OwnerHole, uint32(owner)) {
			return nil
		}
	}
	return nil
}
