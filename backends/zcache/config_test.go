package zcache_test

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// TestConfigure changes each setting, and expects nonsense to change nothing.
func TestConfigure(t *testing.T) {
	c := newWith(t, zcache.Config{Limit: 4 << 20, Capacity: 8 << 20})
	defer closeCache(t, c)
	was := c.Config()
	for name, change := range map[string]func(*zcache.Config){
		"limit of nothing":   func(c *zcache.Config) { c.Limit = 0 },
		"beyond capacity":    func(c *zcache.Config) { c.Limit = 8<<20 + 1 },
		"another capacity":   func(c *zcache.Config) { c.Capacity = 16 << 20 },
		"another log":        func(c *zcache.Config) { c.Log = slog.New(slog.DiscardHandler) },
		"raw":                func(c *zcache.Config) { c.Codec = zcache.Raw },
		"no such codec":      func(c *zcache.Config) { c.Codec = 77 },
		"accept at 101 %":    func(c *zcache.Config) { c.AcceptPercent = 101 },
		"negative floor":     func(c *zcache.Config) { c.Floor = -1 },
		"floor above limit":  func(c *zcache.Config) { c.Floor = 4<<20 + 1 },
		"another source":     func(c *zcache.Config) { c.Pressure = &shortOf{} },
		"less than nothing":  func(c *zcache.Config) { c.ColdPercent = -1 },
		"more than there is": func(c *zcache.Config) { c.ColdPercent = 101 },
	} {
		config := was
		change(&config)
		if c.Configure(config) == nil || c.Config() != was {
			t.Errorf("%s: accepted, or %+v", name, c.Config())
		}
	}
	if err := errors.Join(c.SetLimit(8<<20), c.SetCodec(zcache.Zstd)); err != nil {
		t.Fatal(err)
	}
	if got := c.Config(); got.Limit != 8<<20 || got.Codec != zcache.Zstd || got.AcceptPercent != 90 {
		t.Errorf("%+v", got)
	}
	initExport(t, c)
	pages := fill(t, c, 0, 200)
	if err := c.SetCodec(zcache.LZ4); err != nil {
		t.Fatal(err)
	}
	pages = append(pages, fill(t, c, 200, 200)...)
	loadAll(t, c, pages) // each by the codec that it was written with
	stats := c.Stats()
	if lz4, zstd := stats.Codecs[0].Pages, stats.Codecs[2].Pages; lz4 < 50 || zstd < 50 {
		t.Errorf("%+v", stats.Codecs)
	}
	for _, s := range pages {
		c.Invalidate(s.key, s.handle)
	}
	if wanted := errors.New("no"); !errors.Is(c.Update(func(c zcache.Config) (zcache.Config, error) { return c, wanted }), wanted) || c.Config().Codec != zcache.LZ4 {
		t.Error("a change that was not wanted")
	}
	for _, codec := range c.Stats().Codecs {
		if codec.Pages != 0 || codec.Bytes != 0 {
			t.Errorf("with nothing left: %+v", codec)
		}
	}
}

// TestConfigureWhileClosing changes settings until the cache is closed: no panic,
// and an error from then on.
func TestConfigureWhileClosing(t *testing.T) {
	c := newWith(t, quiet(4<<20))
	failed := make(chan error)
	go func() {
		for n := int64(0); ; n++ {
			if err := c.SetLimit(1<<20 + n%3<<20); err != nil {
				failed <- err
				return
			}
		}
	}()
	time.Sleep(time.Millisecond)
	closeCache(t, c)
	if err := <-failed; err.Error() != "configure zcache: it is closed" {
		t.Error(err)
	}
}

// TestAllocationsOfEveryCodec is RunAllocations for stores that are staged, and
// that use zstd.
func TestAllocationsOfEveryCodec(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			config := quiet(64 << 20)
			if codec == zcache.Raw {
				config.Staging = 16 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			export := backends.Export{ID: 1, Pages: 1 << 20}
			if codec == zcache.Raw {
				// Background work would count too: it gets no further than the host.
				blocked := make(chan struct{})
				defer close(blocked)
				export.Host = &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { <-blocked; return false }}
			}
			if err := c.Init(export); err != nil {
				t.Fatal(err)
			}
			page, dst := backendtest.Page(backendtest.Structured, 1), make([]byte, backends.PageSize)
			number := uint64(0)
			cycle := func() {
				key := backends.Key{Export: 1, Page: number}
				number++
				handle, refusal, err := c.Store(key, page)
				if refusal != backends.Accepted || err != nil {
					t.Fatal(refusal, err)
				}
				if err := c.Load(key, handle, dst); err != nil {
					t.Fatal(err)
				}
				c.Invalidate(key, handle)
			}
			for range 500 { // the library's own buffers
				cycle()
			}
			if got := testing.AllocsPerRun(500, cycle); got != 0 {
				t.Errorf("B18: Store, Load and Invalidate of a %v page allocate %v times", codec, got)
			}
			if !bytes.Equal(page, dst) {
				t.Error("Load gave other bytes")
			}
		})
	}
}
