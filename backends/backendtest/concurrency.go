package backendtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends"
)

const (
	workers        = 8
	workerPages    = 64
	workerSteps    = 800
	sharedPages    = 32
	exportLives    = 20
	lifePages      = 16
	workerSeedBase = 1 << 20
)

// testConcurrency runs workers with pages of their own, which all load a set of
// shared pages too, while Stats is read.
func testConcurrency(s *subject) {
	s.initAll()
	var shared []live
	for page := range uint64(sharedPages) {
		if l, ok := s.store(backends.Key{Export: 0, Page: page}, Mixed(page)); ok {
			shared = append(shared, l)
		}
	}
	stopScrape := scrape(s.Backend)
	errs := make(chan error, workers)
	for n := range uint64(workers) {
		go func() { errs <- work(s.Backend, n, shared) }()
	}
	for range workers {
		if err := <-errs; err != nil {
			s.Error(err)
		}
	}
	stopScrape()
	for _, l := range shared {
		s.check(l)
		s.invalidate(l)
	}
	s.checkPages(0)
}

// scrape reads Stats over and over (B14) until the function that it returns is
// called.
func scrape(b backends.Backend) (stop func()) {
	done := make(chan struct{})
	var scraper sync.WaitGroup
	scraper.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
				b.Stats()
			}
		}
	})
	return func() {
		close(done)
		scraper.Wait()
	}
}

// work does random things to the worker's own pages, keeping one copy of each
// at most, and ends with none.
func work(b backends.Backend, n uint64, shared []live) error {
	random := rand.New(rand.NewPCG(n, 1))
	mine := make(map[uint64]live)
	dst := make([]byte, backends.PageSize)
	load := func(l live) error {
		if err := b.Load(l.key, l.handle, dst); err != nil {
			return fmt.Errorf("B7: worker %d: %w", n, err)
		}
		if !bytes.Equal(dst, l.page) {
			return fmt.Errorf("B8: worker %d: Load(%v) gave other bytes", n, l.key)
		}
		return nil
	}
	for step := range uint64(workerSteps) {
		page := (n+1)<<16 | random.Uint64N(workerPages)
		old, held := mine[page]
		switch random.IntN(4) {
		case 0, 1:
			l := live{key: backends.Key{Export: exports[n%4], Page: page}, page: Mixed(workerSeedBase + n<<32 + step)}
			handle, refusal, err := b.Store(l.key, l.page)
			if err != nil {
				return fmt.Errorf("worker %d: %w", n, err)
			}
			delete(mine, page)
			if refusal == backends.Accepted {
				l.handle = handle
				mine[page] = l
			}
			if held {
				b.Invalidate(old.key, old.handle)
			}
		case 2:
			if held {
				if err := load(old); err != nil {
					return err
				}
			}
			if len(shared) > 0 {
				if err := load(shared[random.IntN(len(shared))]); err != nil {
					return err
				}
			}
		case 3:
			if held {
				b.Invalidate(old.key, old.handle)
				delete(mine, page)
			}
		}
	}
	for _, l := range mine {
		if err := load(l); err != nil {
			return err
		}
		b.Invalidate(l.key, l.handle)
	}
	return nil
}

// testConcurrentExports runs workers which each bring an export to life and let
// it go, over and over (B1).
func testConcurrentExports(s *subject) {
	errs := make(chan error, workers)
	for n := range uint32(workers) {
		go func() { errs <- liveAndLetGo(s.Backend, n) }()
	}
	for range workers {
		if err := <-errs; err != nil {
			s.Error(err)
		}
	}
	s.checkPages(0)
}

func liveAndLetGo(b backends.Backend, export uint32) error {
	dst := make([]byte, backends.PageSize)
	for life := range uint64(exportLives) {
		if err := b.Init(backends.Export{ID: export, Name: "swap", Pages: lifePages}); err != nil {
			return err
		}
		for page := range uint64(lifePages) {
			key := backends.Key{Export: export, Page: page}
			data := Mixed(life<<16 | page<<8 | uint64(export))
			handle, refusal, err := b.Store(key, data)
			if err != nil {
				return err
			}
			if refusal == backends.RefusedUnmanaged {
				return fmt.Errorf("B1: Store(%v) was refused as unmanaged after Init", key)
			}
			if refusal != backends.Accepted {
				continue
			}
			if err := b.Load(key, handle, dst); err != nil || !bytes.Equal(dst, data) {
				return fmt.Errorf("B8: Load(%v) gave other bytes or failed: %w", key, err)
			}
			b.Invalidate(key, handle)
		}
		b.InvalidateArea(export)
		_, refusal, err := b.Store(backends.Key{Export: export}, Mixed(life))
		if err != nil || refusal != backends.RefusedUnmanaged {
			return fmt.Errorf("B1: Store after InvalidateArea: %v, %w, want refused as unmanaged", refusal, err)
		}
	}
	return nil
}
