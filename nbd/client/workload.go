package client

import "math/rand/v2"

// Fill writes each page of the content once, in ascending order: page i gets
// the source's page i, and again from its start when the source ends.
type Fill struct {
	*Content
	next int
}

// NewFill returns a workload that ends when the content is full.
func NewFill(c *Content) *Fill { return &Fill{Content: c} }

// Next writes the next page.
func (f *Fill) Next(r *Request) bool {
	if f.next == len(f.holds) {
		return false
	}
	f.write(r, f.next, f.next%f.source.Pages())
	f.next++
	return true
}

// Scan reads each page of the content once, in ascending order, and checks it.
type Scan struct {
	*Content
	next int
}

// NewScan returns a workload that ends with the content.
func NewScan(c *Content) *Scan { return &Scan{Content: c} }

// Next reads the next page.
func (s *Scan) Next(r *Request) bool {
	if s.next == len(s.holds) {
		return false
	}
	s.read(r, s.next, true)
	s.next++
	return true
}

// RandomRead reads single pages at random, without end.
type RandomRead struct {
	*Content
	random     *rand.Rand
	checkEvery int
	count      int
}

// NewRandomRead returns a workload that checks the content of one in checkEvery
// pages, or of none if checkEvery is 0.
func NewRandomRead(c *Content, seed uint64, checkEvery int) *RandomRead {
	return &RandomRead{Content: c, random: newRandom(seed), checkEvery: checkEvery}
}

// Next reads a page that has content.
func (w *RandomRead) Next(r *Request) bool {
	i, ok := w.known(w.random)
	if !ok {
		return false
	}
	w.count++
	w.read(r, i, w.checkEvery > 0 && w.count%w.checkEvery == 0)
	return true
}

// RandomWrite overwrites single pages at random, without end.
type RandomWrite struct {
	*Content
	random *rand.Rand
}

// NewRandomWrite returns a workload that writes random pages of the source.
func NewRandomWrite(c *Content, seed uint64) *RandomWrite {
	return &RandomWrite{Content: c, random: newRandom(seed)}
}

// Next writes a page that has content, so that the measure is one of
// overwriting.
func (w *RandomWrite) Next(r *Request) bool {
	i, ok := w.known(w.random)
	if !ok {
		return false
	}
	w.write(r, i, w.random.IntN(w.source.Pages()))
	return true
}

// The swap pattern.
const (
	swapBurstMin  = 8
	swapBurstMax  = 32
	swapTrimPages = 16
	swapTrimEvery = 4 // bursts
)

// Swap does what a kernel does that swaps, without end: a burst of 8 to 32
// neighbouring pages out, as many single pages in at random, and after every
// fourth burst a discard of 16 pages.
type Swap struct {
	*Content
	random     *rand.Rand
	checkEvery int
	count      int

	bursts  int
	at      int // next page of the burst
	out     int // pages of the burst to go
	in      int // single pages to go
	discard bool
}

// NewSwap returns the workload. The content has to be filled, and be larger
// than a burst. Of the pages read one in checkEvery is checked, or none if
// checkEvery is 0.
func NewSwap(c *Content, seed uint64, checkEvery int) *Swap {
	return &Swap{Content: c, random: newRandom(seed), checkEvery: checkEvery}
}

// Next goes through burst, singles and discard in turn.
func (w *Swap) Next(r *Request) bool {
	if w.out == 0 && w.in == 0 && !w.discard {
		w.begin()
	}
	switch {
	case w.out > 0:
		if !w.idle(w.at, 1) {
			return false // a single page in, soon done
		}
		w.write(r, w.at, w.random.IntN(w.source.Pages()))
		w.at++
		w.out--
	case w.in > 0:
		i, ok := w.known(w.random)
		if !ok {
			return false
		}
		w.in--
		w.count++
		w.read(r, i, w.checkEvery > 0 && w.count%w.checkEvery == 0)
	default:
		first := w.random.IntN(len(w.holds)-swapTrimPages+1) / swapTrimPages * swapTrimPages
		if !w.idle(first, swapTrimPages) {
			return false
		}
		w.trim(r, first, swapTrimPages)
		w.discard = false
	}
	return true
}

// begin draws the next burst.
func (w *Swap) begin() {
	w.out = swapBurstMin + w.random.IntN(swapBurstMax-swapBurstMin+1)
	w.in = w.out
	w.at = w.random.IntN(len(w.holds) - w.out + 1)
	w.bursts++
	w.discard = w.bursts%swapTrimEvery == 0
}

// Limit ends a workload after so many requests.
func Limit(w Workload, requests int) Workload { return &limited{w, requests} }

type limited struct {
	Workload
	left int
}

// Next passes on, as long as there are requests left.
func (l *limited) Next(r *Request) bool {
	if l.left == 0 || !l.Workload.Next(r) {
		return false
	}
	l.left--
	return true
}

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
