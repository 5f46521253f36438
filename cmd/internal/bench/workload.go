package bench

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/tmemd/tmemd/nbd/client"
)

// Pattern is which requests are made.
type Pattern string

// The patterns.
const (
	RandomRead      Pattern = "random-read"
	RandomWrite     Pattern = "random-write"
	SequentialRead  Pattern = "sequential-read"
	SequentialWrite Pattern = "sequential-write"
	Mixed           Pattern = "mixed"
	Swap            Pattern = "swap"
)

// Patterns are all of them.
var Patterns = [...]Pattern{RandomRead, RandomWrite, SequentialRead, SequentialWrite, Mixed, Swap}

// Writes says whether the pattern changes what is on the device.
func (p Pattern) Writes() bool { return p != RandomRead && p != SequentialRead }

// The swap pattern: bursts of neighbouring pages out, as many single ones in, and
// after some bursts a run is discarded.
const (
	burstPages   = 32
	discardPages = 32
	discardEvery = 4 // bursts
)

// tries bounds the search for pages at random that are idle. Ranges are much larger
// than the depth, so that one more is rarely needed.
const tries = 64

// known says that a page was written by this run and not discarded since.
const known = 1 << 31

// part is the pages of one connection, and what they should hold. One goroutine uses
// it, but for progress.
type part struct {
	content *Content
	stamps  *stamper // nil if nothing is verified
	random  *rand.Rand
	first   uint64 // number of its first page
	unit    int    // pages of a request
	base    uint32 // versions are above it

	versions []uint32 // of each page: bits 0–23 version, bit 31 known
	busy     []bool   // of each page: a request is outstanding
	buffer   []byte   // what is written; copied before the next one is asked for

	slots []uint32 // pages that are known, in no order
	where []uint32 // of each page: its place in slots, if it is known

	verified  uint64
	unstamped uint64
	wrong     uint64
	told      []string // the first that were wrong

	progress *progress
}

// progress is what goes on, for whoever tells it while it does.
type progress struct {
	requests atomic.Uint64
	bytes    atomic.Uint64
	stopped  atomic.Bool // no more requests are to be made
}

func newPart(o *Options, content *Content, base uint32, first uint64, pages int, number uint64) *part {
	p := &part{
		content: content, random: rand.New(rand.NewPCG(o.Seed, 16+number)), first: first, unit: o.Size / pageSize, base: base,
		versions: make([]uint32, pages), busy: make([]bool, pages), buffer: make([]byte, o.Size),
		slots: make([]uint32, 0, pages), where: make([]uint32, pages),
		told: make([]string, 0, mostTold), progress: new(progress),
	}
	for i := range p.versions {
		p.versions[i] = base & versionMask
	}
	if o.Verify {
		p.stamps = newStamper(o.Seed)
	}
	return p
}

// mostTold is how many wrong pages are told one by one.
const mostTold = 8

func (p *part) pages() int { return len(p.versions) }
func (p *part) units() int { return p.pages() / p.unit }

func (p *part) idle(i, n int) bool {
	for at := i; at < i+n; at++ {
		if p.busy[at] {
			return false
		}
	}
	return true
}

func (p *part) occupy(i, n int) {
	for at := i; at < i+n; at++ {
		p.busy[at] = true
	}
}

// read asks for n pages from page i on.
func (p *part) read(r *client.Request, i, n int) {
	p.occupy(i, n)
	*r = client.Request{Command: client.Read, Offset: (p.first + uint64(i)) * pageSize, Length: uint32(n * pageSize)}
}

// write gives n pages from page i on new content.
func (p *part) write(r *client.Request, i, n int) {
	p.occupy(i, n)
	data := p.buffer[:n*pageSize]
	for j := range n {
		page := data[j*pageSize : (j+1)*pageSize]
		from := p.random.IntN(p.content.Pages())
		copy(page, p.content.Page(from))
		version := (p.versions[i+j] + 1) & versionMask
		if p.stamps != nil {
			p.stamps.put(page, stamp{p.first + uint64(i+j), version}, p.content.rests[from])
		}
		if p.versions[i+j]&known == 0 {
			p.where[i+j] = uint32(len(p.slots))
			p.slots = append(p.slots, uint32(i+j))
		}
		p.versions[i+j] = version | known
	}
	*r = client.Request{Command: client.Write, Offset: (p.first + uint64(i)) * pageSize, Length: uint32(len(data)), Data: data}
}

// discard gives up n pages from page i on. What they hold then the protocol does not
// say.
func (p *part) discard(r *client.Request, i, n int) {
	p.occupy(i, n)
	for page := i; page < i+n; page++ {
		if p.versions[page]&known == 0 {
			continue
		}
		p.versions[page] &^= known
		last := p.slots[len(p.slots)-1]
		p.slots[p.where[page]], p.where[last] = last, p.where[page]
		p.slots = p.slots[:len(p.slots)-1]
	}
	*r = client.Request{Command: client.Trim, Offset: (p.first + uint64(i)) * pageSize, Length: uint32(n * pageSize)}
}

// Done frees the pages, and checks what was read.
func (p *part) Done(r *client.Request) {
	i, n := int(r.Offset/pageSize-p.first), int(r.Length/pageSize)
	for j := range n {
		p.busy[i+j] = false
		if r.Command == client.Read && p.stamps != nil {
			p.check(i+j, r.Received[j*pageSize:(j+1)*pageSize])
		}
	}
	p.progress.requests.Add(1)
	if r.Command != client.Trim {
		p.progress.bytes.Add(uint64(r.Length))
	}
}

func (p *part) check(i int, data []byte) {
	page, version, isKnown := p.first+uint64(i), p.versions[i]&versionMask, p.versions[i]&known != 0
	switch p.stamps.check(page, version, isKnown, data) {
	case right:
		p.verified++
	case unstamped:
		p.unstamped++
	case wrong:
		p.wrong++
		if len(p.told) < mostTold {
			p.told = append(p.told, p.stamps.explain(page, version, isKnown, data))
		}
	}
}

// random returns the first page of a unit at random that is idle.
func (p *part) anywhere() (int, bool) {
	for range tries {
		i := p.random.IntN(p.units()) * p.unit
		if p.idle(i, p.unit) {
			return i, true
		}
	}
	return 0, false
}

// sequence goes through all units, from the first on.
type sequence struct {
	*part
	writes bool
	turns  int // that are left; less than 0 for no end
	next   int // unit
}

// Next names the next unit.
func (w *sequence) Next(r *client.Request) bool {
	if w.turns == 0 || w.progress.stopped.Load() {
		return false
	}
	i := w.next * w.unit
	if !w.idle(i, w.unit) {
		return false // the depth is all there is of the range
	}
	if w.writes {
		w.write(r, i, w.unit)
	} else {
		w.read(r, i, w.unit)
	}
	if w.next++; w.next == w.units() {
		w.next = 0
		w.turns--
	}
	return true
}

// dice reads and writes units at random.
type dice struct {
	*part
	reads int // percent
}

// Next names a unit at random.
func (w *dice) Next(r *client.Request) bool {
	if w.progress.stopped.Load() {
		return false
	}
	i, ok := w.anywhere()
	if !ok {
		return false
	}
	if w.reads == 100 || w.reads > 0 && w.random.IntN(100) < w.reads {
		w.read(r, i, w.unit)
	} else {
		w.write(r, i, w.unit)
	}
	return true
}

// swapping does what a kernel does that swaps.
type swapping struct {
	*part
	trims  bool // the server knows discards
	at     int  // next page of the burst
	out    int  // pages of the burst to go
	in     int  // single pages to go
	bursts int
	clear  bool // a discard is due
}

// Next goes through burst, singles and discard in turn.
func (w *swapping) Next(r *client.Request) bool {
	if w.progress.stopped.Load() {
		return false
	}
	for {
		switch {
		case w.out > 0:
			if w.busy[w.at] {
				return false // a single page in, soon done
			}
			w.write(r, w.at, 1)
			w.at++
			w.out--
			return true
		case w.in > 0:
			if i, ok := w.slot(); ok {
				w.in--
				w.read(r, i, 1)
				return true
			}
			if len(w.slots) > 0 && w.outstanding() {
				return false // what was written last is on its way out
			}
			w.in = 0
		case w.clear:
			n := min(discardPages, w.pages())
			i := w.random.IntN(w.pages()-n+1) / n * n
			if !w.idle(i, n) {
				return false
			}
			w.clear = false
			w.discard(r, i, n)
			return true
		default:
			w.begin()
		}
	}
}

// begin draws the next burst.
func (w *swapping) begin() {
	w.out = 1 + w.random.IntN(min(burstPages, w.pages()))
	w.in = w.out
	w.at = w.random.IntN(w.pages() - w.out + 1)
	w.bursts++
	w.clear = w.trims && w.bursts%discardEvery == 0
}

// slot returns a page at random that was swapped out and is idle.
func (w *swapping) slot() (int, bool) {
	for range min(tries, len(w.slots)) {
		i := int(w.slots[w.random.IntN(len(w.slots))])
		if !w.busy[i] {
			return i, true
		}
	}
	return 0, false
}

// outstanding says whether any page that was swapped out has a request. It is asked
// only while there are few.
func (w *swapping) outstanding() bool {
	for _, i := range w.slots {
		if w.busy[i] {
			return true
		}
	}
	return false
}

// scan reads every page that is known once.
type scan struct {
	*part
	next int
}

// Next names the next page that is known.
func (w *scan) Next(r *client.Request) bool {
	for ; w.next < w.pages(); w.next++ {
		if w.versions[w.next]&known != 0 {
			w.read(r, w.next, 1)
			w.next++
			return true
		}
	}
	return false
}

// limited ends a workload after so many requests.
type limited struct {
	client.Workload
	left int64
}

// Next passes on, as long as there are requests left.
func (l *limited) Next(r *client.Request) bool {
	if l.left == 0 || !l.Workload.Next(r) {
		return false
	}
	l.left--
	return true
}
