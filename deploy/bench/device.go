package main

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
)

// direction is pages out of memory (into the device) or back in.
type direction struct {
	rate           float64 // pages a second, one goroutine
	allocations    float64 // a page, over the whole pass
	allocationsRun float64 // a page, as testing.AllocsPerRun counts
}

// deviceReport is what the tier does inside one process.
type deviceReport struct {
	out, in direction

	pages   int    // written
	stored  uint64 // of these, in zcache
	refused uint64 // of these, on storage
	data    uint64 // bytes after compression

	// Bytes for all stored pages.
	held    uint64 // arena, as zcache counts
	arena   int64  // arena, resident
	pageMap int64  // page map, resident
	heap    int64  // by which the Go heap grew while pages were stored
	fixed   int64  // on the Go heap before the first page: locks, compressors
}

// ratio is pages stored for each page of memory taken, overhead included.
func (r *deviceReport) ratio() float64 {
	return float64(r.stored) * pageSize / float64(r.resident())
}

// resident is all memory in use.
func (r *deviceReport) resident() int64 { return r.arena + r.pageMap + r.heap + r.fixed }

// perPage spreads bytes over the stored pages.
func (r *deviceReport) perPage(bytes float64) float64 { return bytes / float64(r.stored) }

// passes over all pages in each direction: one to fill, the rest overwrite.
const passes = 3

// measureDevice fills an export with the pages, overwrites them, and reads them
// back.
func measureDevice(pages *corpus.Corpus) (report *deviceReport, err error) {
	before := liveHeap()
	e, err := newMemoryExport(pages.Pages())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.close()) }()

	opened := liveHeap()
	report = &deviceReport{pages: pages.Pages(), fixed: max(0, opened-before)}
	page := make([]byte, pageSize)
	write := func(i int) error {
		_, err := e.device.WriteAt(pages.Page(i), int64(i)*pageSize)
		return err
	}
	read := func(i int) error {
		if _, err := e.device.ReadAt(page, int64(i)*pageSize); err != nil {
			return err
		}
		if i%16 == 0 && !bytes.Equal(page, pages.Page(i)) {
			return fmt.Errorf("page %d is not what was written", i)
		}
		return nil
	}
	if report.out, err = measureDirection(pages.Pages(), write); err != nil {
		return nil, err
	}
	if report.in, err = measureDirection(pages.Pages(), read); err != nil {
		return nil, err
	}
	report.heap = max(0, liveHeap()-opened)
	report.account(e)
	runtime.KeepAlive(page)
	return report, nil
}

// measureDirection does all pages some times over.
func measureDirection(pages int, do func(i int) error) (direction, error) {
	var d direction
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for n := range passes * pages {
		if err := do(n % pages); err != nil {
			return d, err
		}
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	d.rate = float64(passes*pages) / took.Seconds()
	d.allocations = float64(after.Mallocs-before.Mallocs) / float64(passes*pages)

	i := 0
	var failed error
	d.allocationsRun = testing.AllocsPerRun(min(pages, 4096), func() {
		if err := do(i % pages); err != nil {
			failed = err
		}
		i++
	})
	return d, failed
}

// account adds what the export says of itself.
func (r *deviceReport) account(e *export) {
	cache, device := e.cache.Stats(), e.device.Stats()
	r.stored, r.data, r.held = cache.Pages, cache.StoredBytes, cache.HeldBytes
	r.refused = uint64(device.Area.Storage)
	for _, m := range cache.Memory {
		r.arena += m.Resident
	}
	r.pageMap = device.Area.Memory.Resident
}

// liveHeap is the size of the Go heap without garbage.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // empties pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
