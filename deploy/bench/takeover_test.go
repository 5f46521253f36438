package main

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/frontswap"
)

// takeoverVariable says how many MiB of pages, before compression, BenchmarkTakeover
// stores; 64 by default.
const takeoverVariable = "TAKEOVER_MIB"

// legacy is what a process leaves in memory and another takes over.
type legacy struct {
	folder sharedmem.FolderConfig
	memory *sharedmem.Folder
	fs     *frontswap.Frontswap
	area   *frontswap.Area
	list   []frontswap.Registered
	pages  uint64
}

func newLegacy(b *testing.B, pages uint64) *legacy {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return &legacy{folder: sharedmem.FolderConfig{Path: filepath.Join(dir, "m"), Boot: "boot"}, pages: pages}
}

// open opens everything, as new or as what was left.
func (l *legacy) open(b *testing.B, takeover bool) frontswap.Takeover {
	b.Helper()
	var err error
	if l.memory, err = sharedmem.OpenFolder(l.folder); err != nil {
		b.Fatal(err)
	}
	config := zcache.Config{Limit: 8 << 30, Capacity: 8 << 30, Staging: -1, Memory: arena.Place{Folder: l.memory, Name: "z"}}
	l.fs = frontswap.Open(frontswap.Config{
		Log: slog.New(slog.DiscardHandler), Memory: l.memory,
		Record: func(list []frontswap.Registered) error { l.list = list; return nil },
	})
	if takeover {
		l.list[0].Backend, err = zcache.Open(config)
		err = errors.Join(err, l.fs.Restore(l.list))
	} else {
		var c *zcache.Cache
		c, err = zcache.New(config)
		err = errors.Join(err, l.fs.Register("zcache", c))
	}
	if err != nil {
		b.Fatal(err)
	}
	l.area, err = l.fs.OpenArea(frontswap.AreaConfig{Name: "swap", ID: 1, Pages: l.pages, Takeover: takeover})
	if err != nil {
		b.Fatal(err)
	}
	if !takeover {
		return frontswap.Takeover{}
	}
	t, err := l.fs.Resume()
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// processorSeconds is what this process has used of the processors, in seconds: with
// one at a time, what a takeover takes on a machine that does nothing else.
func processorSeconds(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// die leaves everything as it is.
func (l *legacy) die(b *testing.B) {
	b.Helper()
	l.memory.Leave()
	if err := errors.Join(l.area.Close(), l.fs.Abandon(), l.memory.Close()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTakeover asks how long the start after a crash takes: the files of a
// process that died are opened, every page is adopted, and all that is not in the
// files is made anew. Pages were stored in random order, so that neighbours in the
// map are strangers in the arena.
func BenchmarkTakeover(b *testing.B) {
	mib := uint64(64)
	if text := os.Getenv(takeoverVariable); text != "" {
		var err error
		if mib, err = strconv.ParseUint(text, 10, 64); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("objects", func(b *testing.B) {
		l := newLegacy(b, mib<<20/corpus.PageSize)
		l.open(b, false)
		pages := sampled(b, manyPages)
		for i, page := range rand.New(rand.NewPCG(1, 1)).Perm(int(l.pages)) {
			l.area.Lock(uint64(page))
			l.area.Store(uint64(page), pages.Page(i%pages.Pages()))
			l.area.Unlock(uint64(page))
		}
		stats := l.fs.Backends()[0].Stats
		l.die(b)
		b.ResetTimer()
		used := 0.0
		for range b.N {
			start := processorSeconds(b)
			t := l.open(b, true)
			used += processorSeconds(b) - start
			b.StopTimer()
			if t.Pages != stats.Pages || t.Lost != 0 || t.Orphans != 0 {
				b.Fatalf("took over %+v of %d pages", t, stats.Pages)
			}
			l.die(b)
			b.StartTimer()
		}
		objects := float64(stats.Pages) * float64(b.N)
		b.ReportMetric(objects/b.Elapsed().Seconds(), "objects/s")
		b.ReportMetric(objects/used, "objects/cpu-s")
		b.ReportMetric(float64(stats.HeldBytes), "held-B")
	})
	b.Run("words", func(b *testing.B) {
		l := newLegacy(b, 64*mib<<20/corpus.PageSize)
		l.open(b, false)
		for page := range l.pages {
			l.area.Lock(page)
			l.area.SetStorage(page)
			l.area.Unlock(page)
		}
		l.die(b)
		b.ResetTimer()
		used := 0.0
		for range b.N {
			start := processorSeconds(b)
			l.open(b, true)
			used += processorSeconds(b) - start
			b.StopTimer()
			if s := l.area.Stats(); s.Storage != int64(l.pages) {
				b.Fatalf("%d pages on storage", s.Storage)
			}
			l.die(b)
			b.StartTimer()
		}
		b.ReportMetric(float64(l.pages)*float64(b.N)/b.Elapsed().Seconds(), "words/s")
		b.ReportMetric(float64(l.pages)*float64(b.N)/used, "words/cpu-s")
	})
}
