package main

import (
	"crypto/sha256"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/backends/zcache"
)

const pageSize = pagemap.PageSize

// indexBytes is what dedup would take for each distinct object: a tag of the content's hash
// of 32 bits, the object's reference of 40, and a count of references of 24, in a table
// that is three quarters full. Without the tag each store would read an object to see that
// it is another one.
const indexBytes = 16

// census counts pages by their content.
type census struct {
	judge    *zcache.Judge
	contents map[[sha256.Size]byte]*content

	pages      int // of all
	sameFilled int // of these, one word throughout: zcache keeps nothing of them
}

// content is what there is once or several times.
type content struct {
	copies    int
	lz4, cold float64 // bytes of arena for a copy, 0 if zcache would refuse it; cold is after recompression
}

func newCensus() (*census, error) {
	judge, err := zcache.NewJudge()
	if err != nil {
		return nil, err
	}
	return &census{judge: judge, contents: make(map[[sha256.Size]byte]*content)}, nil
}

// add counts a page.
func (c *census) add(page []byte) {
	c.pages++
	sum := sha256.Sum256(page)
	known := c.contents[sum]
	if known == nil {
		verdict := c.judge.Page(page)
		if verdict.SameFilled {
			c.sameFilled++
			return
		}
		known = &content{lz4: held(verdict.LZ4), cold: held(verdict.Cold)}
		c.contents[sum] = known
	}
	known.copies++
}

// merge adds what another census counted.
func (c *census) merge(other *census) {
	c.pages += other.pages
	c.sameFilled += other.sameFilled
	for sum, theirs := range other.contents {
		if ours := c.contents[sum]; ours != nil {
			ours.copies += theirs.copies
			continue
		}
		added := *theirs
		c.contents[sum] = &added
	}
}

// held is the arena's memory for an object with so much data.
func held(length int) float64 {
	if length == 0 {
		return 0
	}
	return arena.HeldFor(length)
}

// gain is what dedup would save.
type gain struct {
	Pages      int
	SameFilled int
	Refused    int // would not be in memory
	Stored     int // each an object, without dedup
	Distinct   int // objects with dedup

	LZ4, Cold saving
}

// saving is in bytes of the arena.
type saving struct{ Held, Once, Index float64 }

// Share is what is saved as a share of what is held. Below 0 the index costs more.
func (s saving) Share() float64 {
	if s.Held == 0 {
		return 0
	}
	return (s.Held - s.Once - s.Index) / s.Held
}

func (c *census) gain() gain {
	g := gain{Pages: c.pages, SameFilled: c.sameFilled}
	for _, known := range c.contents {
		if known.lz4 == 0 {
			g.Refused += known.copies
			continue
		}
		g.Stored += known.copies
		g.Distinct++
		g.LZ4.add(known.lz4, known.copies)
		g.Cold.add(known.cold, known.copies)
	}
	return g
}

func (s *saving) add(size float64, copies int) {
	s.Held += size * float64(copies)
	s.Once += size
	s.Index += indexBytes
}
