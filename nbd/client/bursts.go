package client

import "math/rand/v2"

// Bursts writes neighbouring pages, one burst in each run: as a kernel that swaps
// out a cluster and waits for it.
type Bursts struct {
	*Content
	random *rand.Rand
	pages  int // of a burst
	at     int // next page
	left   int // pages of the burst to go
}

// NewBursts returns a workload of bursts of so many pages, at random places. The
// content has to be larger than a burst.
func NewBursts(c *Content, seed uint64, pages int) *Bursts {
	return &Bursts{Content: c, random: newRandom(seed), pages: pages}
}

// Begin draws the next burst. A run ends with it.
func (w *Bursts) Begin() {
	w.at = w.random.IntN(len(w.holds) - w.pages + 1)
	w.left = w.pages
}

// Next writes the next page of the burst.
func (w *Bursts) Next(r *Request) bool {
	if w.left == 0 || !w.idle(w.at, 1) {
		return false
	}
	w.write(r, w.at, w.random.IntN(w.source.Pages()))
	w.at++
	w.left--
	return true
}
