package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// How a round goes.
const (
	rewriteOneIn = 2    // one page in this many is rewritten after it was verified
	againAfter   = 256  // a rewritten page is verified again after so many others: by then the kernel has swapped it out
	renewEvery   = 1024 // after this many pages a run of pages is dropped and written anew
	runPages     = 1024 // length of that run: two of the kernel's swap clusters
	runs         = 3    // the runs at the start of a worker's share that take turns
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
	rewritten    []int     // the pages rewritten last, oldest at next; at most againAfter
	next         int
	expected     []byte // scratch page
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
			if err := w.rewrite(page); err != nil {
				return err
			}
		}
		if i%renewEvery == renewEvery-1 {
			if err := w.renew(); err != nil {
				return err
			}
		}
	}
	return nil
}

// rewrite gives a page its next version, and verifies the page that was rewritten againAfter calls ago. In the order of the
// round alone a lost write would show a whole round later.
func (w *worker) rewrite(page int) error {
	w.write(page)
	if len(w.rewritten) < againAfter {
		w.rewritten = append(w.rewritten, page)
		return nil
	}
	due := w.rewritten[w.next]
	w.rewritten[w.next] = page
	w.next = (w.next + 1) % againAfter
	return w.verify(due)
}

// renew drops a run of pages, checks that they read as zeros, writes them anew, and has the kernel swap them out at once and
// so side by side. That way the next drop of the run frees whole clusters of swap, which is what the kernel
// discards; pages dropped here and there leave none free.
func (w *worker) renew() error {
	length := min(runPages, w.count/runs)
	first := w.first + length*int(w.random.below(runs))
	if err := w.drop(first, length); err != nil {
		return err
	}
	for page := first; page < first+length; page++ {
		if err := w.verify(page); err != nil {
			return err
		}
		w.write(page)
	}
	return w.memory.pageOut(first, length)
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

// dropMost drops all pages but the first few. Those it writes anew and has swapped out side by side, like a run, so that what the
// rest leaves behind is whole clusters.
func (w *worker) dropMost(context.Context) error {
	return w.guard(func() error {
		kept := w.count / keepOneIn
		if err := w.drop(w.first+kept, w.count-kept); err != nil {
			return err
		}
		for page := w.first; page < w.first+kept; page++ {
			w.write(page)
		}
		return w.memory.pageOut(w.first, kept)
	})
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
