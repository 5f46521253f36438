package zcache_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/backends/zcache"
)

// survivor makes caches in a folder of the test's own.
type survivor struct {
	folder sharedmem.FolderConfig
	config zcache.Config
	now    *sharedmem.Folder
}

func newSurvivor(t *testing.T, config zcache.Config) *survivor {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-zcache-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &survivor{folder: sharedmem.FolderConfig{Path: filepath.Join(dir, "m"), Boot: "boot"}, config: config}
}

func (s *survivor) open(t *testing.T, make func(zcache.Config) (*zcache.Cache, error)) *zcache.Cache {
	t.Helper()
	folder, err := sharedmem.OpenFolder(s.folder)
	if err != nil {
		t.Fatal(err)
	}
	s.now, s.config.Memory = folder, arena.Place{Folder: folder, Name: "z"}
	c, err := make(s.config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// reopen is what a process does that takes over from one that died.
func (s *survivor) reopen(t *testing.T, dead backends.Backend) *zcache.Cache {
	t.Helper()
	s.now.Leave()
	if err := errors.Join(dead.Close(), s.now.Close()); err != nil {
		t.Fatal(err)
	}
	return s.open(t, zcache.Open)
}

func TestSurvivor(t *testing.T) {
	for name, codec := range map[string]zcache.Codec{"lz4": zcache.LZ4, "zstd": zcache.Zstd} {
		t.Run(name, func(t *testing.T) {
			var s *survivor
			backendtest.RunSurvivor(t, func(t *testing.T) backends.Backend {
				s = newSurvivor(t, zcache.Config{Limit: 10 << 20, Capacity: 16 << 20, Codec: codec})
				return s.open(t, zcache.New)
			}, func(t *testing.T, dead backends.Backend) backends.Backend {
				c := s.reopen(t, dead)
				if got := c.Config(); got.Capacity != 16<<20 || got.Limit != 10<<20 || got.Codec != codec {
					t.Errorf("opened with %+v", got)
				}
				return c
			})
		})
	}
}

// TestAdoptCounts: counts by codec are as they were, and staged pages are
// compressed once there is a host.
func TestAdoptCounts(t *testing.T) {
	s := newSurvivor(t, zcache.Config{Limit: 16 << 20, Capacity: 16 << 20})
	c := s.open(t, zcache.New)
	refuses := &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return false }}
	if err := refuses.Open(1, 1000); err != nil {
		t.Fatal(err)
	}
	pages := fill(t, c, 0, 400)
	before := c.Stats()
	if before.Codecs[1].Name != "raw" || before.Codecs[1].Pages == 0 || before.Codecs[0].Pages == 0 || before.SameFilledPages == 0 {
		t.Fatalf("not a mixture: %+v", before)
	}
	c = s.reopen(t, c)
	for _, p := range pages {
		if !c.Adopt(p.key, p.handle) {
			t.Fatalf("page %d was not adopted", p.key.Page)
		}
	}
	if orphans, err := c.Adopted(); err != nil || orphans != 0 {
		t.Fatalf("%d orphans, %v", orphans, err)
	}
	after := c.Stats()
	if after.Pages != before.Pages || after.SameFilledPages != before.SameFilledPages || after.StoredBytes != before.StoredBytes ||
		after.Codecs[0] != before.Codecs[0] || after.Codecs[1] != before.Codecs[1] {
		t.Errorf("after another process: %+v, before %+v", after, before)
	}
	h := &backendtest.Host{Backend: c}
	if err := h.Open(1, 1000); err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		h.Adopted(p.key, p.handle, p.page)
	}
	for deadline := time.Now().Add(20 * time.Second); c.Stats().Moved[backends.MovedBehind] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("staged pages are not compressed: %+v", c.Stats())
		}
	}
	if err := h.Check(1); err != nil {
		t.Error(err)
	}
	h.Close(1)
	if err := errors.Join(c.Close(), s.now.Close()); err != nil {
		t.Error(err)
	}
}
