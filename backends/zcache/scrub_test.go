package zcache_test

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// TestScrub damages the arena from below and expects each page that is hit to be
// counted and logged once, in every encoding.
func TestScrub(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.LZ4, zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			var log logged
			config := quiet(8 << 20)
			config.Scrub, config.Log = 20*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil))
			if codec == zcache.Raw {
				config.Staging = 4 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			h := &hosted{TB: t, cache: c, Host: &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return false }}}
			h.open(100)
			for page := range uint64(100) {
				h.write(page, backendtest.Page(backendtest.Text, page))
			}
			if got := h.codec(codec).Pages; got != 100 {
				t.Fatalf("%d pages are %v", got, codec)
			}
			h.await("two rounds", func() bool { return h.moved(backends.ScrubbedPage) > 200 })
			if bad := h.moved(backends.ScrubbedCorrupt); bad != 0 {
				t.Fatalf("%d pages found damaged before the damage", bad)
			}
			f := arenaFile(t)
			for page := range uint64(10) {
				handle, _ := h.Held(backends.Key{Export: 1, Page: page})
				flip(t, f, int64(handle)*arena.RefUnit+16+int64(page)*100, 4)
			}
			scrubbed := h.moved(backends.ScrubbedPage)
			h.await("the damage to be found", func() bool { return h.moved(backends.ScrubbedCorrupt) == 10 })
			h.await("two more rounds", func() bool { return h.moved(backends.ScrubbedPage) > scrubbed+200 })
			if bad, lines := h.moved(backends.ScrubbedCorrupt), log.count("a stored page is damaged"); bad != 10 || lines != 10 {
				t.Errorf("%d pages counted, %d logged, want 10", bad, lines)
			}
			for page := range uint64(100) {
				err := h.Read(backends.Key{Export: 1, Page: page}, make([]byte, backends.PageSize))
				if errors.Is(err, backends.ErrCorrupt) != (page < 10) {
					t.Errorf("Read of page %d: %v", page, err)
				}
			}
			h.Host.Close(1)
		})
	}
}

// TestFlipsInEveryCodec flips bits of pages in every encoding; TestBitFlips does
// so for lz4 and headers.
func TestFlipsInEveryCodec(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			config := quiet(8 << 20)
			if codec == zcache.Raw {
				config.Staging = 4 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			host := &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return false }}
			if err := c.Init(backends.Export{ID: 1, Pages: 100, Host: host}); err != nil {
				t.Fatal(err)
			}
			var pages []stored
			for n := range uint64(40) {
				s := stored{key: backends.Key{Export: 1, Page: n}, page: backendtest.Page(backendtest.Structured, n)}
				handle, _, err := c.Store(s.key, s.page)
				if err != nil {
					t.Fatal(err)
				}
				s.handle = handle
				pages = append(pages, s)
			}
			f := arenaFile(t)
			random := rand.New(rand.NewPCG(3, 5))
			hits := uint64(0)
			for range 2000 {
				s := pages[random.IntN(len(pages))]
				at, mask := int64(s.handle)*arena.RefUnit+random.Int64N(1000), byte(1)<<random.IntN(8)
				flip(t, f, at, mask)
				hits += loadDamaged(t, c, []stored{s})
				flip(t, f, at, mask)
			}
			if hits < 1500 {
				t.Errorf("%d of 2000 flipped bits were found out", hits)
			}
			loadAll(t, c, pages)
			for _, s := range pages {
				c.Invalidate(s.key, s.handle)
			}
			c.InvalidateArea(1)
		})
	}
}
