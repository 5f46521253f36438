package estimate

import (
	"math"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/backends/zcache"
)

// policy is a way to keep pages.
type policy int

const (
	newLZ4  policy = iota // as they come
	cold                  // the same, when all of them were recompressed
	newZstd               // codec=zstd
	keepRaw               // lz4, and incompressible=keep
	inZram                // for comparison
	policies
)

// tally sums over pages.
type tally struct {
	pages      int64
	sameFilled int64
	of         [policies]sums
}

// sums are of the pages under one policy: x is 1 for a page that is kept, y the bytes
// of memory that it takes.
type sums struct {
	kept             int64   // x
	held             float64 // y
	heldSquared      float64 // y²
	data             int64   // bytes that were made of pages, without what surrounds them
	compressed       int64   // kept, and not same-filled
	maxMeanCandidate int64   // compressed to more than 5/8
}

func (s *sums) add(held float64, data int) {
	s.kept++
	s.held += held
	s.heldSquared += held * held
	s.data += int64(data)
	if data > 0 {
		s.compressed++
	}
	if data > zcache.MaxMean {
		s.maxMeanCandidate++
	}
}

func (t *tally) add(v zcache.Verdict) {
	t.pages++
	if v.SameFilled {
		t.sameFilled++
		for i := range t.of {
			t.of[i].add(0, 0)
		}
		return
	}
	keep := func(p policy, data int) {
		if data > 0 {
			t.of[p].add(arena.HeldFor(data), data)
		}
	}
	keep(newLZ4, v.LZ4)
	keep(cold, v.Cold)
	keep(newZstd, v.Zstd)
	if raw := v.LZ4; raw > 0 {
		keep(keepRaw, raw)
	} else {
		keep(keepRaw, zcache.RawBytes)
	}
	t.of[inZram].add(float64(v.Zram), v.Zram)
}

// Value is an estimate, and how far it may be off: 95 times in 100, no further than
// Margin.
type Value struct {
	Value  float64 `json:"value"`
	Margin float64 `json:"margin"`
}

// deviations is how many standard errors 95 of 100 samples are within.
const deviations = 1.96

// finite makes errors smaller where the sample is a large part of all, and nothing
// where it is all.
func finite(n, all float64) float64 {
	if all <= 1 || n >= all {
		return 0
	}
	return math.Sqrt((all - n) / (all - 1))
}

// share estimates a share of all pages by that of the sample.
func share(hits, n int64, all float64) Value {
	if n == 0 {
		return Value{}
	}
	p := float64(hits) / float64(n)
	// Not less than what one page in the sample would make: none seen is not none.
	spread := p * (1 - p)
	if hits == 0 || hits == n {
		spread = 1 / float64(n)
	}
	return Value{p, deviations * math.Sqrt(spread/float64(n)) * finite(float64(n), all)}
}

// ratio estimates how many bytes of pages are kept in each byte of memory.
func (s *sums) ratio(n int64, all float64) Value {
	if s.held == 0 || n < 2 {
		return Value{}
	}
	// x is the bytes of pages kept, y the memory. The error of a ratio of means is that of
	// x − Ry, over the mean of y. Of kept pages x is a page, of others x and y are 0.
	const size = pagemap.PageSize
	r := float64(s.kept) * size / s.held
	kept := float64(s.kept)
	squares := kept*size*size - 2*r*size*s.held + r*r*s.heldSquared
	mean := s.held / float64(n)
	variance := max(0, squares) / float64(n-1) / float64(n)
	return Value{r, deviations * math.Sqrt(variance) / mean * finite(float64(n), all)}
}

// memory estimates what all pages that are kept take.
func (s *sums) memory(n int64, all float64) Value {
	if n < 2 {
		return Value{}
	}
	mean := s.held / float64(n)
	variance := max(0, s.heldSquared/float64(n)-mean*mean) / float64(n-1)
	return Value{mean * all, deviations * math.Sqrt(variance) * all * finite(float64(n), all)}
}
