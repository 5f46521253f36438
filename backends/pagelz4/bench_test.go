package pagelz4

import (
	"slices"
	"testing"
	"time"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/deploy/corpus"
)

// keep is the limit that zcache has: 7/8 of a page.
const keep = PageSize * 7 / 8

// codec is a compressor with its own memory. It returns 0 if the block is longer
// than keep.
type codec struct {
	name   string
	encode func(dst *[Bound]byte, page *[PageSize]byte) int
}

func codecs() []codec {
	library := func(n int, err error) int {
		if err != nil {
			return 0
		}
		return n
	}
	var ccompat lz4.CompressorCCompat
	var compressor lz4.Compressor
	var ours Encoder
	return []codec{
		{"CompressorCCompat", func(dst *[Bound]byte, page *[PageSize]byte) int {
			return library(ccompat.CompressBlock(page[:], dst[:keep]))
		}},
		{"Compressor", func(dst *[Bound]byte, page *[PageSize]byte) int {
			return library(compressor.CompressBlock(page[:], dst[:keep]))
		}},
		{"pagelz4", func(dst *[Bound]byte, page *[PageSize]byte) int {
			return ours.Encode(dst, page, keep)
		}},
	}
}

// realPages samples pages of processes. What is in them differs from run to run, so
// compare only within one run.
func realPages(b *testing.B) []*[PageSize]byte {
	b.Helper()
	sampled, err := corpus.Sample(b.Context(), corpus.Options{Bytes: 16 << 20, Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	pages := make([]*[PageSize]byte, sampled.Pages())
	for i := range pages {
		pages[i] = (*[PageSize]byte)(sampled.Page(i))
	}
	return pages
}

// BenchmarkEncode asks for the time of each codec, and what all pages take as
// zcache's objects, in percent of what they were.
func BenchmarkEncode(b *testing.B) {
	pages := realPages(b)
	var tasks []task
	for _, c := range codecs() {
		var dst [Bound]byte
		tasks = append(tasks, task{c.name, func(i int) { c.encode(&dst, pages[i]) }})
		defer b.ReportMetric(100*float64(objects(c, pages))/float64(len(pages)*PageSize), c.name+"-%bytes")
	}
	inTurn(b, len(pages), tasks)
}

// BenchmarkDecode asks what the library's decoder makes of each codec's blocks.
func BenchmarkDecode(b *testing.B) {
	pages := realPages(b)
	var tasks []task
	var dst [Bound]byte
	for _, c := range codecs() {
		var blocks [][]byte
		for _, page := range pages {
			blocks = append(blocks, slices.Clone(dst[:c.encode(&dst, page)]))
		}
		tasks = append(tasks, task{c.name, func(i int) {
			if len(blocks[i]) == 0 {
				return
			}
			if _, err := lz4.UncompressBlock(blocks[i], dst[:PageSize]); err != nil {
				b.Fatal(err)
			}
		}})
	}
	inTurn(b, len(pages), tasks)
}

// task is something to do with page i.
type task struct {
	name string
	run  func(i int)
}

// inTurn measures tasks, which take turns every 64 pages so that all have the
// same of what else the machine does. One operation is all pages once. The
// metrics are medians over all turns, for each task its time for a page and its
// speed as a multiple of that of the first.
func inTurn(b *testing.B, pages int, tasks []task) {
	b.Helper()
	const turn = 64
	times, ratios := make([][]float64, len(tasks)), make([][]float64, len(tasks))
	for b.Loop() {
		for from := 0; from+turn <= pages; from += turn {
			var first float64
			for t, task := range tasks {
				start := time.Now()
				for i := from; i < from+turn; i++ {
					task.run(i)
				}
				took := float64(time.Since(start).Nanoseconds())
				if t == 0 {
					first = took
				}
				times[t], ratios[t] = append(times[t], took/turn), append(ratios[t], first/took)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for t, task := range tasks {
		b.ReportMetric(median(times[t]), task.name+"-ns/page")
		b.ReportMetric(median(ratios[t]), task.name+"-speed")
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// objects is what the pages take in an arena: with a header of 16 bytes, in steps
// of 32 bytes. A page that does not get down to keep counts whole.
func objects(c codec, pages []*[PageSize]byte) (bytes int) {
	var dst [Bound]byte
	for _, page := range pages {
		if n := c.encode(&dst, page); n > 0 {
			bytes += (n + 16 + 31) / 32 * 32
		} else {
			bytes += PageSize
		}
	}
	return bytes
}
