package corpus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
)

// PageSize is the length of a page in bytes. Systems with other page sizes are
// refused.
const PageSize = 4096

// runPages is how many neighbours are taken together at most.
const runPages = 16

// Options says what [Sample] collects.
type Options struct {
	Bytes int64  // size of the corpus, rounded up to whole pages; 0 means 64 MiB
	Seed  uint64 // of the choice and the order of runs

	// KeepSameFilled keeps pages that are one word repeated, zeros above all.
	// Without it they are counted and left out.
	KeepSameFilled bool
}

// Corpus is a collection of pages. It does not change; any goroutine may use it.
type Corpus struct {
	data       []byte
	sources    []Source
	restricted bool
}

// Pages is the number of pages.
func (c *Corpus) Pages() int { return len(c.data) / PageSize }

// Page returns page i, which must not be changed.
func (c *Corpus) Page(i int) []byte {
	return c.data[i*PageSize : (i+1)*PageSize : (i+1)*PageSize]
}

// Sources returns what the corpus is made of, one entry for each kind, those
// that were left out too.
func (c *Corpus) Sources() []Source { return c.sources }

// Total returns the sum of the sources.
func (c *Corpus) Total() Source {
	total := Source{Name: "all"}
	for _, s := range c.sources {
		total.add(s)
	}
	return total
}

// Restricted is true if the kernel's page flags could not be read, which takes
// root: mappings of the zero page may then be among the pages (P1).
func (c *Corpus) Restricted() bool { return c.restricted }

// Sample collects a corpus: 64 MiB take some seconds on two processors. A kind
// of memory that cannot be had here is left out; an error means that too few
// pages could be had of all, or that ctx ended.
func Sample(ctx context.Context, options Options) (*Corpus, error) {
	if options.Bytes == 0 {
		options.Bytes = 64 << 20
	}
	if options.Bytes < 0 {
		return nil, fmt.Errorf("sample pages: size %d is negative", options.Bytes)
	}
	if size := os.Getpagesize(); size != PageSize {
		return nil, fmt.Errorf("sample pages: the system's pages have %d bytes, not %d", size, PageSize)
	}
	folder, err := os.MkdirTemp("", "corpus-")
	if err != nil {
		return nil, fmt.Errorf("sample pages: %w", err)
	}
	defer os.RemoveAll(folder)

	pages := int((options.Bytes + PageSize - 1) / PageSize)
	collections := collect(ctx, folder, pages, options)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sample pages: %w", err)
	}
	c, err := mix(collections, pages, options.Seed)
	if err != nil {
		return nil, fmt.Errorf("sample pages: %w", err)
	}
	return c, nil
}

// collect samples every kind that can be had, as many at once as there are
// processors, each into a collection of its own in the order of kinds.
func collect(ctx context.Context, folder string, pages int, options Options) []*collection {
	kinds := allKinds()
	collections := make([]*collection, len(kinds))
	present := 0
	for i, k := range kinds {
		collections[i] = &collection{kind: k, keepSameFilled: options.KeepSameFilled, skipped: k.missing()}
		if collections[i].skipped == "" {
			present += k.weight
		}
	}
	var samplers sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, c := range collections {
		if c.skipped != "" {
			continue
		}
		share := (pages*c.kind.weight + present - 1) / present
		c.want = 2 * share // for kinds that turn out to have less
		samplers.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			random := rand.New(rand.NewPCG(options.Seed, uint64(i)))
			if err := c.kind.sample(ctx, c, share, folder, random); err != nil {
				c.skipped = err.Error()
				c.runs = nil
			}
		})
	}
	samplers.Wait()
	return collections
}

var errTooFew = errors.New("too little memory to sample on this machine")

// mix makes a corpus of what was collected, with every kind in proportion to its
// weight as far as there is enough of it.
func mix(collections []*collection, pages int, seed uint64) (*Corpus, error) {
	shares := apportion(collections, pages)
	result := &Corpus{data: make([]byte, 0, pages*PageSize)}
	var runs []run
	total := 0
	for i, c := range collections {
		runs = append(runs, c.take(shares[i], i)...)
		total += shares[i]
		result.restricted = result.restricted || c.restricted
		result.sources = append(result.sources, c.source())
	}
	if total < pages {
		return nil, fmt.Errorf("%w: %d of %d pages", errTooFew, total, pages)
	}
	shuffle(runs, seed)
	measure := newMeasure(result.sources)
	for _, r := range runs {
		result.data = append(result.data, r.data...)
		measure.add(r)
	}
	return result, nil
}

// apportion gives each collection its share of pages: by weight, and where one
// has less than that, the others get the rest.
func apportion(collections []*collection, pages int) []int {
	shares := make([]int, len(collections))
	left := pages
	for left > 0 {
		weight := 0
		for i, c := range collections {
			if shares[i] < c.pages() {
				weight += c.kind.weight
			}
		}
		if weight == 0 {
			break
		}
		round := left
		for i, c := range collections {
			part := min((round*c.kind.weight+weight-1)/weight, c.pages()-shares[i], left)
			shares[i] += part
			left -= part
		}
	}
	return shares
}

// shuffle puts the runs into an order that depends on the seed and their number
// alone.
func shuffle(runs []run, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1<<32))
	random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
}
