package client

import "math/rand/v2"

// Pages is where workloads get content from: a corpus.
type Pages interface {
	Pages() int
	Page(i int) []byte
}

// Content knows what a range of an export should hold, and which of its pages
// have a request outstanding. One goroutine uses it; connections that write at
// the same time have ranges of their own.
type Content struct {
	source Pages
	first  uint64  // number of the first page of the range
	holds  []int32 // index of the source's page, or unknown
	busy   []bool
}

const unknown = -1

// NewContent describes pages pages of an export from page first on, of which
// nothing is known yet.
func NewContent(source Pages, first uint64, pages int) *Content {
	c := &Content{source: source, first: first, holds: make([]int32, pages), busy: make([]bool, pages)}
	for i := range c.holds {
		c.holds[i] = unknown
	}
	return c
}

// Pages is how many pages the range has.
func (c *Content) Pages() int { return len(c.holds) }

// Part is pages pages of the content, from its page first on, for a connection of
// its own. Parts that do not overlap can be used at the same time, while the
// whole is not.
func (c *Content) Part(first, pages int) *Content {
	end := first + pages
	return &Content{c.source, c.first + uint64(first), c.holds[first:end:end], c.busy[first:end:end]}
}

// Forget makes unknown what page i holds, so that no workload reads it at random.
func (c *Content) Forget(i int) { c.holds[i] = unknown }

// Reset forgets requests that a failed run left outstanding.
func (c *Content) Reset() { clear(c.busy) }

// read sets r to a read of page i. The content is checked if check is true.
func (c *Content) read(r *Request, i int, check bool) {
	c.busy[i] = true
	*r = Request{Command: Read, Offset: (c.first + uint64(i)) * PageSize, Length: PageSize}
	if check && c.holds[i] != unknown {
		r.Data = c.source.Page(int(c.holds[i]))
	}
}

// write sets r to a write of the source's page to page i.
func (c *Content) write(r *Request, i, page int) {
	c.busy[i] = true
	c.holds[i] = int32(page)
	*r = Request{Command: Write, Offset: (c.first + uint64(i)) * PageSize, Length: PageSize, Data: c.source.Page(page)}
}

// trim sets r to a trim of n pages from page i on. What they hold is unknown
// afterwards: the protocol does not say.
func (c *Content) trim(r *Request, i, n int) {
	for p := i; p < i+n; p++ {
		c.busy[p] = true
		c.holds[p] = unknown
	}
	*r = Request{Command: Trim, Offset: (c.first + uint64(i)) * PageSize, Length: uint32(n * PageSize)}
}

// Done ends a request that read, write or trim made.
func (c *Content) Done(r *Request) {
	i := int(r.Offset/PageSize - c.first)
	for p := i; p < i+int(r.Length/PageSize); p++ {
		c.busy[p] = false
	}
}

// tries bounds the search for a page. The range is much larger than the depth,
// so that one more try is rarely needed.
const tries = 64

// known returns a page at random with known content and nothing outstanding.
func (c *Content) known(random *rand.Rand) (int, bool) {
	for range tries {
		i := random.IntN(len(c.holds))
		if !c.busy[i] && c.holds[i] != unknown {
			return i, true
		}
	}
	return 0, false
}

// idle says whether n pages from page i on have nothing outstanding.
func (c *Content) idle(i, n int) bool {
	for p := i; p < i+n; p++ {
		if c.busy[p] {
			return false
		}
	}
	return true
}
