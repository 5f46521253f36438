package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// How a round goes.
const (
	rewriteOneIn = 4    // one page in this many is rewritten after it was verified
	dropEvery    = 4096 // after this many verified pages a run of pages is dropped
	dropPages    = 1024 // length of that run: two of the kernel's swap clusters, so that whole ones become free
	keepOneIn    = 16   // the part of the pages that is still there at swapoff; it must fit in the machine's memory
)

// counters are what the workers did, in pages.
type counters struct {
	verified, written, dropped atomic.Int64
}

// worker owns a run of pages (G1). One goroutine at a time calls its methods.
type worker struct {
	memory       *memory
	counters     *counters
	first, count int       // the pages it owns
	random       generator // chooses order, rewrites and drops
	order        []int32   // the order of a round: numbers from 0 to count-1
	expected     []byte    // scratch page
}

// newWorkers shares a memory's pages out among n workers.
func newWorkers(m *memory, n int) ([]*worker, *counters) {
	c := &counters{}
	workers := make([]*worker, n)
	pages := len(m.versions)
	for i := range workers {
		first, end := i*pages/n, (i+1)*pages/n
		w := &worker{
			memory: m, counters: c, first: first, count: end - first,
			random: generator(m.seed + uint64(i)), order: make([]int32, end-first), expected: make([]byte, pageSize),
		}
		for j := range w.order {
			w.order[j] = int32(j)
		}
		workers[i] = w
	}
	return workers, c
}

// fill writes every page once, in order.
func (w *worker) fill(ctx context.Context) error {
	return w.guard(func() error {
		for i := 0; i < w.count && ctx.Err() == nil; i++ {
			w.write(w.first + i)
		}
		return nil
	})
}

// rounds verifies, rewrites and drops until ctx ends.
func (w *worker) rounds(ctx context.Context) error {
	return w.guard(func() error {
		for ctx.Err() == nil {
			if err := w.round(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *worker) round(ctx context.Context) error {
	w.shuffle()
	for i := range w.order {
		if ctx.Err() != nil {
			return nil
		}
		page := w.first + int(w.order[i])
		if err := w.verify(page); err != nil {
			return err
		}
		if w.random.below(rewriteOneIn) == 0 {
			w.write(page)
		}
		if i%dropEvery == dropEvery-1 {
			if err := w.renew(); err != nil {
				return err
			}
		}
	}
	return nil
}

// renew drops a run of pages, checks that they read as zeros, and writes them anew.
func (w *worker) renew() error {
	length := min(dropPages, w.count)
	first := w.first + int(w.random.below(uint64(w.count-length+1)))
	if err := w.drop(first, length); err != nil {
		return err
	}
	for page := first; page < first+length; page++ {
		if err := w.verify(page); err != nil {
			return err
		}
		w.write(page)
	}
	return nil
}

// verifyAll verifies every page once, in order.
func (w *worker) verifyAll(ctx context.Context) error {
	return w.guard(func() error {
		for i := 0; i < w.count && ctx.Err() == nil; i++ {
			if err := w.verify(w.first + i); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropMost drops all pages but the first few: those that verifyAll saw first, and the kernel therefore swapped out
// again since.
func (w *worker) dropMost() error {
	kept := w.count / keepOneIn
	return w.drop(w.first+kept, w.count-kept)
}

func (w *worker) verify(page int) error {
	if err := w.memory.verify(page, w.expected); err != nil {
		return err
	}
	if w.memory.versions[page] != 0 { // zeros count for little
		w.counters.verified.Add(1)
	}
	return nil
}

func (w *worker) write(page int) {
	w.memory.write(page)
	w.counters.written.Add(1)
}

func (w *worker) drop(first, count int) error {
	if err := w.memory.drop(first, count); err != nil {
		return err
	}
	w.counters.dropped.Add(int64(count))
	return nil
}

func (w *worker) shuffle() {
	for i := len(w.order) - 1; i > 0; i-- {
		j := w.random.below(uint64(i + 1))
		w.order[i], w.order[j] = w.order[j], w.order[i]
	}
}

// guard calls do and turns a SIGBUS on a page under test, which is how the kernel says that a page could not be
// read back from swap, into an error (G4).
func (w *worker) guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if fault, ok := cause.(interface{ Addr() uintptr }); ok {
			if page, ours := w.memory.faulted(fault.Addr()); ours {
				err = fmt.Errorf("page %d version %d: SIGBUS: the kernel could not read it back from swap",
					page, w.memory.versions[page])
				return
			}
		}
		panic(cause)
	}()
	return do()
}
