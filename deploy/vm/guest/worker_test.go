package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Workers own disjoint runs that cover all pages (G1).
func TestWorkersShareOutAllPages(t *testing.T) {
	for _, n := range []int{1, 3, 4, 7} {
		m := testMemory(t, 100)
		workers, _ := newWorkers(m, n)
		next := 0
		for _, w := range workers {
			if w.first != next {
				t.Errorf("%d workers: one starts at page %d; want %d", n, w.first, next)
			}
			next += w.count
		}
		if next != 100 {
			t.Errorf("%d workers own %d pages; want 100", n, next)
		}
	}
}

// A round verifies every page, rewrites about half, drops runs, and leaves everything as it must be.
func TestRound(t *testing.T) {
	const pages = 4 * renewEvery
	workers, counters := newWorkers(testMemory(t, pages), 1)
	w := workers[0]
	if err := w.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := counters.written.Load(); n != pages {
		t.Errorf("fill wrote %d pages; want %d", n, pages)
	}
	if err := w.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	dropped := counters.dropped.Load()
	if dropped != 4*runPages {
		t.Errorf("dropped %d pages; want %d", dropped, 4*runPages)
	}
	rewritten := counters.written.Load() - pages - dropped
	if n := counters.verified.Load(); n != pages+rewritten-againAfter {
		t.Errorf("verified %d pages; want all %d, and all but the last %d of the %d rewritten ones again", n, pages, againAfter, rewritten)
	}
	if rewritten < pages*2/5 || rewritten > pages*3/5 {
		t.Errorf("rewrote %d of %d pages; want about half", rewritten, pages)
	}
	if err := w.verifyAll(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.dropMost(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.verifyAll(t.Context()); err != nil {
		t.Errorf("after most was dropped: %v", err)
	}
	if w.memory.versions[pages/keepOneIn-1] == 0 || w.memory.versions[pages/keepOneIn] != 0 {
		t.Errorf("the first %d pages must be kept, the rest dropped", pages/keepOneIn)
	}
}

// A write that went lost shows before the round is over.
func TestRewrittenPageIsVerifiedAgain(t *testing.T) {
	workers, _ := newWorkers(testMemory(t, 2*againAfter), 1)
	w := workers[0]
	if err := w.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for page := range againAfter {
		if err := w.rewrite(page); err != nil {
			t.Fatal(err)
		}
	}
	fill(w.memory.page(1), w.memory.seed, 1, 1) // as if the second write had not happened
	if err := w.rewrite(againAfter); err != nil {
		t.Fatalf("page 0 is as it must be: %v", err)
	}
	err := w.rewrite(againAfter + 1)
	if err == nil || !strings.Contains(err.Error(), "page 1 version 2") || !strings.Contains(err.Error(), "all of an older version: 1") {
		t.Errorf("got %v; want a mismatch of page 1", err)
	}
}

// One wrong byte anywhere is found by the next round.
func TestRoundsFindDamage(t *testing.T) {
	workers, _ := newWorkers(testMemory(t, 512), 1)
	w := workers[0]
	if err := w.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.memory.page(300)[1000]++
	mismatch, ok := errors.AsType[*mismatchError](w.rounds(t.Context()))
	if !ok || mismatch.page != 300 || mismatch.first != 1000 || mismatch.differs != 1 {
		t.Errorf("got %v; want a mismatch of one byte at offset 1000 of page 300", mismatch)
	}
}

func TestRoundsEndWithTheirContext(t *testing.T) {
	workers, _ := newWorkers(testMemory(t, 64), 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := workers[0].rounds(ctx); err != nil {
		t.Error(err)
	}
}

// A page that the kernel cannot read is a failure with the page's number, as with a swap device that answers with an error. A
// file cut short under a mapping raises the same signal.
func TestUnreadablePageIsAnError(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "pages"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(8 * pageSize); err != nil {
		t.Fatal(err)
	}
	content, err := unix.Mmap(int(file.Fd()), 0, 8*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{seed: 1, content: content, versions: make([]uint32, 8), last: make([]uint32, 8)}
	defer m.close()
	workers, _ := newWorkers(m, 1)
	if err := workers[0].fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(6 * pageSize); err != nil {
		t.Fatal(err)
	}
	err = workers[0].verifyAll(t.Context())
	if err == nil || !strings.Contains(err.Error(), "page 6 version 1: SIGBUS") {
		t.Errorf("got %v; want SIGBUS on page 6", err)
	}
}

// Any other panic stays a panic.
func TestGuardLeavesOtherPanicsAlone(t *testing.T) {
	workers, _ := newWorkers(testMemory(t, 8), 1)
	defer func() {
		if cause := recover(); cause != "broken" {
			t.Errorf("recovered %v; want the panic itself", cause)
		}
	}()
	_ = workers[0].guard(func() error { panic("broken") })
	t.Error("the panic was swallowed")
}
