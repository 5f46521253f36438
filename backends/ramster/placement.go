package ramster

import (
	"math"
	"math/bits"

	"github.com/tmemd/tmemd/backends"
)

// extentPages is how many pages in a row have the same donors, as long as those
// take pages: enough for a read-ahead to be one request, few enough to spread.
const extentPages = 1024

// choice is the donors for a page, the best first.
type choice struct {
	members [MaxCopies]*member
	n       int
}

// choose ranks the donors that take pages, by rendezvous hashing weighted by their
// free room, and returns the first n that are not in without. A donor that comes
// or goes moves only the extents that it gets or had.
//
// Weighted rendezvous hashing: the donor with the largest -weight/ln(hash), hash
// between 0 and 1, has the extent with a probability of its share in the weights
// (Schindelhauer, Schomaker: Weighted distributed hash tables, 2005).
func (c *Cache) choose(key backends.Key, n int, without func(*member) bool) (best choice) {
	var scores [MaxCopies]float64
	extent := key.Page / extentPages
	for _, m := range *c.members.list.Load() {
		if !m.isOpen() || without != nil && without(m) {
			continue
		}
		score := -weight(m.session.Room().Free) / math.Log(hash01(m.Name, key.Export, extent))
		for i := range n {
			if best.members[i] == nil || score > scores[i] {
				best.members[i], m = m, best.members[i]
				scores[i], score = score, scores[i]
				if m == nil {
					best.n++
					break
				}
			}
		}
	}
	return best
}

// weight makes steps of a factor of two of the free room, so that the ranking does
// not change with each page.
func weight(free uint64) float64 { return float64(uint64(1) << (bits.Len64(free) - 1)) }

// hash01 is a number between 0 and 1, the same everywhere for the same arguments.
func hash01(name string, export uint32, extent uint64) float64 {
	const odd = 0x9e3779b97f4a7c15
	h := extent*odd ^ uint64(export)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * odd
		h ^= h >> 29
	}
	h = (h ^ h>>32) * odd
	h ^= h >> 29
	return (float64(h>>11) + 0.5) / (1 << 53)
}
