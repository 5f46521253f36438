package corpus

import (
	"encoding/binary"

	"github.com/pierrec/lz4/v4"
)

// Source is one kind of memory in a corpus.
type Source struct {
	Name    string
	Skipped string // why it is not in the corpus, if it is not
	Pages   int    // in the corpus

	// What was seen while sampling. Of these pages some are not in the corpus:
	// those that were one too many, and same-filled ones if they were not wanted.
	Seen       int
	Zero       int // of those seen, all zeros
	SameFilled int // of those seen, another word repeated

	// Pages of the corpus that are not same-filled, and the bytes that lz4 makes
	// of them. A page that it cannot make shorter counts whole.
	Compressed int
	LZ4Bytes   int64
}

// Ratio is how much shorter lz4 makes the pages that are not same-filled, or 0
// if there are none.
func (s Source) Ratio() float64 {
	if s.LZ4Bytes == 0 {
		return 0
	}
	return float64(s.Compressed) * PageSize / float64(s.LZ4Bytes)
}

func (s *Source) add(other Source) {
	s.Pages += other.Pages
	s.Seen += other.Seen
	s.Zero += other.Zero
	s.SameFilled += other.SameFilled
	s.Compressed += other.Compressed
	s.LZ4Bytes += other.LZ4Bytes
}

// run is some neighbouring pages of one source.
type run struct {
	source int
	data   []byte
}

// collection is what was sampled of one kind. The goroutine that samples owns it.
type collection struct {
	kind           kind
	keepSameFilled bool
	want           int // pages to collect at most

	runs       [][]byte
	skipped    string
	restricted bool
	seen       int
	zero       int
	sameFilled int
	collected  int // pages in runs
}

// full says whether the collection has all it wants.
func (c *collection) full() bool { return c.collected >= c.want }

// add takes over neighbouring pages, which the caller must not use any more.
func (c *collection) add(pages []byte) {
	kept := pages[:0]
	for ; len(pages) >= PageSize && !c.full(); pages = pages[PageSize:] {
		page := pages[:PageSize]
		c.seen++
		word, same := sameFilled(page)
		switch {
		case same && word == 0:
			c.zero++
		case same:
			c.sameFilled++
		}
		if same && !c.keepSameFilled {
			continue
		}
		kept = append(kept, page...)
		c.collected++
	}
	if len(kept) > 0 {
		c.runs = append(c.runs, kept)
	}
}

// pages is how many pages the collection can give.
func (c *collection) pages() int {
	if c.skipped != "" {
		return 0
	}
	return c.collected
}

// take returns the first runs, n pages in all.
func (c *collection) take(n, source int) []run {
	var runs []run
	for _, data := range c.runs {
		if n == 0 {
			break
		}
		part := min(n, len(data)/PageSize)
		runs = append(runs, run{source, data[:part*PageSize]})
		n -= part
	}
	return runs
}

// source is the collection's entry, without what measure adds.
func (c *collection) source() Source {
	if c.skipped != "" {
		return Source{Name: c.kind.name, Skipped: c.skipped}
	}
	return Source{Name: c.kind.name, Seen: c.seen, Zero: c.zero, SameFilled: c.sameFilled}
}

// measure adds to the sources what is known only of the finished corpus.
type measure struct {
	sources []Source
	lz4     lz4.CompressorCCompat
	out     [PageSize - 1]byte
}

func newMeasure(sources []Source) *measure { return &measure{sources: sources} }

func (m *measure) add(r run) {
	s := &m.sources[r.source]
	for data := r.data; len(data) > 0; data = data[PageSize:] {
		page := data[:PageSize]
		s.Pages++
		if _, same := sameFilled(page); same {
			continue
		}
		s.Compressed++
		n, err := m.lz4.CompressBlock(page, m.out[:])
		if err != nil || n == 0 { // two ways to say that it does not get shorter
			n = PageSize
		}
		s.LZ4Bytes += int64(n)
	}
}

// sameFilled returns the 8-byte word that the page consists of, if one does.
func sameFilled(page []byte) (uint64, bool) {
	first := binary.LittleEndian.Uint64(page)
	for rest := page[8:]; len(rest) >= 8; rest = rest[8:] {
		if binary.LittleEndian.Uint64(rest) != first {
			return 0, false
		}
	}
	return first, true
}
