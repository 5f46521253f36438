package zcache

import (
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
)

// ratioBatch is how many pages are measured in a row before the other's turn: few
// enough that both see the same machine, many enough that the clock costs nothing.
const ratioBatch = 64

// BenchmarkStoreBesideCodec asks what the tier around the codec costs, page by page
// in turns on the same pages: an operation is one store in line, with the
// invalidate of an older page, and one compression alone. Pages that are refused
// are left out.
func BenchmarkStoreBesideCodec(b *testing.B) {
	pages := compressible(realPages(b))
	c := newBenchCache(b)
	w := &compressor{}
	live := make([]backends.Handle, len(pages))
	var codec, store times
	done := 0
	b.ReportAllocs()
	for b.Loop() {
		for at := done; at < done+ratioBatch; at++ {
			w.compress(pages[at%len(pages)]) // so that both find the pages in the processor's cache
		}
		start := time.Now()
		for at := done; at < done+ratioBatch; at++ {
			w.compress(pages[at%len(pages)])
		}
		codec.add(start)
		start = time.Now()
		for at := done; at < done+ratioBatch; at++ {
			n := at % len(pages)
			key := backends.Key{Export: 1, Page: uint64(n)}
			handle, refusal, err := c.Store(key, pages[n])
			if err != nil || refusal != backends.Accepted {
				b.Fatal(refusal, err)
			}
			if at >= len(pages) {
				c.Invalidate(key, live[n])
			}
			live[n] = handle
		}
		store.add(start)
		done += ratioBatch
	}
	codec.report(b, "codec", nil)
	store.report(b, "store", codec)
}

// BenchmarkLoadBesideCodec is the same for loads.
func BenchmarkLoadBesideCodec(b *testing.B) {
	pages := compressible(realPages(b))
	c, keys, handles := filledCache(b, Config{Limit: 1 << 30}, LZ4, pages)
	dst := make([]byte, backends.PageSize)
	data := make([][]byte, len(keys)) // copies, as far apart as in the arena
	w := &compressor{}
	for i := range keys {
		data[i] = append([]byte(nil), w.compress(pages[i%len(pages)])...)
	}
	var codec, load, sum times
	done := 0
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		for at := done; at < done+ratioBatch; at++ {
			if !decompress(dst, data[at%len(data)]) {
				b.Fatal("no page")
			}
		}
		codec.add(start)
		start = time.Now()
		for at := done; at < done+ratioBatch; at++ {
			if err := c.Load(keys[at%len(keys)], handles[at%len(keys)], dst); err != nil {
				b.Fatal(err)
			}
		}
		load.add(start)
		start = time.Now()
		for range ratioBatch {
			crc32.Checksum(dst, castagnoli)
		}
		sum.add(start)
		done += ratioBatch
	}
	sum.report(b, "checksum", nil)
	codec.report(b, "codec", nil)
	load.report(b, "load", codec)
}

// times are how long batches took. Their median is what counts: the machine may
// have others to serve.
type times []time.Duration

func (t *times) add(start time.Time) { *t = append(*t, time.Since(start)) }

func (t times) median() time.Duration {
	sorted := slices.Clone(t)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

// report gives the time of a page, and how it compares with the codec's.
func (t times) report(b *testing.B, name string, with times) {
	b.ReportMetric(float64(t.median().Nanoseconds())/ratioBatch, name+"-ns/page")
	if with != nil {
		b.ReportMetric(t.median().Seconds()/with.median().Seconds(), name+"/codec")
	}
	b.ReportMetric(0, "ns/op")
}

// compressible are the pages that a store accepts, whatever the mean is.
func compressible(pages [][]byte) (accepted [][]byte) {
	w := &compressor{}
	for _, page := range pages {
		if data := w.compress(page); data != nil && len(data) <= maxMean {
			accepted = append(accepted, page)
		}
	}
	return accepted
}

// BenchmarkScaling asks how much more two processors do than one, in turns: stores
// with loads, and the codec alone beside them, since two of a machine's processors
// may be one core.
func BenchmarkScaling(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Fatal("there is one processor only")
	}
	pages := compressible(realPages(b))
	c := newBenchCache(b)
	store := func(worker, n int) {
		dst := make([]byte, backends.PageSize)
		for i := range n {
			key := backends.Key{Export: 1, Page: uint64(worker<<32 + i)}
			handle, refusal, err := c.Store(key, pages[(worker*7919+i)%len(pages)])
			if err != nil || refusal != backends.Accepted {
				b.Error(refusal, err)
				return
			}
			if err := c.Load(key, handle, dst); err != nil {
				b.Error(err)
				return
			}
			c.Invalidate(key, handle)
		}
	}
	codec := func(worker, n int) {
		w, dst := &compressor{}, make([]byte, backends.PageSize)
		for i := range n {
			decompress(dst, w.compress(pages[(worker*7919+i)%len(pages)]))
		}
	}
	var took [2][2]times // of store and codec, by one and by two
	const each = 2000
	for b.Loop() {
		for kind, work := range []func(int, int){store, codec} {
			for workers := 1; workers <= 2; workers++ {
				start := time.Now()
				var group sync.WaitGroup
				for worker := range workers {
					group.Go(func() { work(worker+1, each) })
				}
				group.Wait()
				took[kind][workers-1].add(start)
			}
		}
	}
	for kind, name := range []string{"store+load", "codec"} {
		b.ReportMetric(2*took[kind][0].median().Seconds()/took[kind][1].median().Seconds(), fmt.Sprintf("%s-x", name))
	}
	b.ReportMetric(0, "ns/op")
}
