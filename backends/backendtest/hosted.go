package backendtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
)

// RunHosted tests a backend that turns to its [backends.Host]: the same rules,
// while it moves its copies and has pages evicted. A backend that never does so
// passes too.
func RunHosted(t *testing.T, newBackend New) {
	t.Run("Model", func(t *testing.T) { testHostedModel(t, newBackend) })
	t.Run("Concurrency", func(t *testing.T) { testHostedConcurrency(t, newBackend) })
	t.Run("CloseWhileEvicting", func(t *testing.T) { testCloseWhileEvicting(t, newBackend) })
}

// testHostedModel does random things to two exports and lets the host check.
func testHostedModel(t *testing.T, newBackend New) {
	const pages = 512
	rapid.Check(t, func(rt *rapid.T) {
		h := &Host{Backend: newBackend(t)}
		open := make(map[uint32]bool)
		dst := make([]byte, backends.PageSize)
		pick := func(rt *rapid.T) (uint32, bool) {
			export := rapid.SampledFrom(exports[:2]).Draw(rt, "export")
			return export, open[export]
		}
		must := func(rt *rapid.T, err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"open": func(rt *rapid.T) {
				if export, ok := pick(rt); !ok {
					must(rt, h.Open(export, pages))
					open[export] = true
				}
			},
			"close": func(rt *rapid.T) {
				if export, ok := pick(rt); ok && rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
					h.Close(export)
					delete(open, export)
				}
			},
			"write": func(rt *rapid.T) {
				export, ok := pick(rt)
				first, seed := rapid.Uint64Range(0, pages-1).Draw(rt, "page"), rapid.Uint64Range(0, 1<<20).Draw(rt, "seed")
				for page := first; ok && page < min(pages, first+64); page++ {
					_, err := h.Write(backends.Key{Export: export, Page: page}, Mixed(seed+page))
					must(rt, err)
				}
			},
			"read": func(rt *rapid.T) {
				if export, ok := pick(rt); ok {
					must(rt, h.Read(backends.Key{Export: export, Page: rapid.Uint64Range(0, pages-1).Draw(rt, "page")}, dst))
				}
			},
			"trim": func(rt *rapid.T) {
				export, ok := pick(rt)
				first := rapid.Uint64Range(0, pages-1).Draw(rt, "page")
				for page := first; ok && page < min(pages, first+16); page++ {
					h.Trim(backends.Key{Export: export, Page: page})
				}
			},
			"evict": func(rt *rapid.T) {
				n := rapid.Uint64Range(0, 64).Draw(rt, "count")
				if moved, err := h.Evict(context.Background(), n); moved > n || err != nil && err != errEvictBusy {
					rt.Fatalf("Evict(%d): %d, %v", n, moved, err)
				}
			},
			"": func(rt *rapid.T) {
				if len(open) > 0 {
					return
				}
				if stats := h.Backend.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 {
					rt.Fatalf("B3: Stats shows %d pages and %d bytes with no export open", stats.Pages, stats.StoredBytes)
				}
			},
		})
		for export := range open {
			must(rt, h.Check(export))
			h.Clear(export)
			if used := h.Backend.Used(export); used != 0 {
				rt.Fatalf("B32: %d bytes charged for no pages", used)
			}
			h.Close(export)
		}
		must(rt, h.Backend.Close())
	})
}

// testHostedConcurrency runs workers on pages of their own, an export that comes
// and goes, and evictions, all at once.
func testHostedConcurrency(t *testing.T, newBackend New) {
	existing := goleak.IgnoreCurrent()
	h := &Host{Backend: newBackend(t)}
	if err := h.Open(0, workers*workerPages); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				h.Evict(context.Background(), 16)
				h.Backend.Stats()
			}
		}
	})
	errs := make(chan error, workers+1)
	go func() { errs <- hostedComeAndGo(h) }()
	for n := range uint64(workers) {
		go func() { errs <- hostedWork(h, n) }()
	}
	for range workers + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	others.Wait()
	if err := h.Check(0); err != nil {
		t.Error(err)
	}
	h.Clear(0)
	if used := h.Backend.Used(0); used != 0 {
		t.Errorf("B32: %d bytes charged for no pages", used)
	}
	h.Close(0)
	if stats := h.Backend.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 {
		t.Errorf("B3: Stats shows %d pages and %d bytes with no export open", stats.Pages, stats.StoredBytes)
	}
	if err := h.Backend.Close(); err != nil {
		t.Error(err)
	}
	if err := goleak.Find(existing); err != nil {
		t.Errorf("B15: after Close: %v", err)
	}
}

func hostedWork(h *Host, n uint64) error {
	random := rand.New(rand.NewPCG(n, 11))
	data, dst := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	for step := range uint64(2 * workerSteps) {
		key := backends.Key{Page: n*workerPages + random.Uint64N(workerPages)}
		switch random.IntN(5) {
		case 0, 1:
			FillMixed(data, n<<32+step)
			if _, err := h.Write(key, data); err != nil {
				return fmt.Errorf("worker %d: %w", n, err)
			}
		case 2, 3:
			if err := h.Read(key, dst); err != nil {
				return fmt.Errorf("worker %d: %w", n, err)
			}
		case 4:
			h.Trim(key)
		}
	}
	return nil
}

func hostedComeAndGo(h *Host) error {
	for life := range uint64(exportLives) {
		if err := h.Open(1, workerPages); err != nil {
			return err
		}
		for page := range uint64(workerPages) {
			if _, err := h.Write(backends.Key{Export: 1, Page: page}, Mixed(life<<16|page)); err != nil {
				return err
			}
		}
		if err := h.Check(1); err != nil {
			return err
		}
		h.Close(1)
	}
	return nil
}

// testCloseWhileEvicting closes the only export while an eviction is under way
// and cannot end before that: InvalidateArea must not wait for it.
func testCloseWhileEvicting(t *testing.T, newBackend New) {
	h := &Host{Backend: newBackend(t)}
	const pages = 8192
	for life := range uint64(3) {
		if err := h.Open(1, pages); err != nil {
			t.Fatal(err)
		}
		for page := range uint64(pages) {
			if _, err := h.Write(backends.Key{Export: 1, Page: page}, Page(Structured, life<<16|page)); err != nil {
				t.Fatal(err)
			}
		}
		h.Close(1)
	}
	if err := h.Backend.Close(); err != nil {
		t.Error(err)
	}
}
