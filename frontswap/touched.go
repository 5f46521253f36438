package frontswap

// NextTouched returns the first run of pages at or after page of which anything
// may ever have been committed, in whole system pages of map; first is the area's
// length if there is none. All pages before it read as Fresh, and asking for their
// Owner would take memory for the map.
func (a *Area) NextTouched(page uint64) (first, last uint64) {
	start, end := a.memory.Touched(int64(page) * 8)
	first = max(page, uint64(start)/8)
	return min(first, a.Pages()), min(uint64(end)/8, a.Pages())
}

// Fresh is the owner of pages that nobody wrote.
func (a *Area) Fresh() Owner { return a.fresh }
