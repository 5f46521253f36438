package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/tier"
)

const pageSize = corpus.PageSize

// drainResult is one drain and its peers. Rates are in MB/s of page data.
type drainResult struct {
	rate      float64
	processor float64 // MB for each second of processor time: what a core does that nobody else wants
	meanWrite int     // bytes
	peers     []float64
}

// countedStorage counts writes.
type countedStorage struct {
	tier.Storage
	writes, pages atomic.Uint64
}

func (s *countedStorage) WritePages(first uint64, p []byte) error {
	s.writes.Add(1)
	s.pages.Add(uint64(len(p) / pageSize))
	return s.Storage.WritePages(first, p)
}

// export is a device full of pages of the corpus.
type export struct {
	device  *tier.Device
	swap    *frontswap.Frontswap
	storage *countedStorage
	content *corpus.Corpus
	pages   int
}

func newExport(folder string, content *corpus.Corpus, pages int) (*export, error) {
	path := filepath.Join(folder, "drainbench.img")
	file, err := tier.OpenFile(path, int64(pages)*pageSize)
	if err != nil {
		return nil, err
	}
	// Nobody needs its name any more, and so it does not stay.
	if err := os.Remove(path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	e := &export{storage: &countedStorage{Storage: file}, content: content, pages: pages}
	log := slog.New(slog.DiscardHandler)
	e.swap = frontswap.New(log)
	e.device, err = tier.Open(tier.Config{Name: "bench", ID: 1, Storage: e.storage, Empty: true, Frontswap: e.swap, Log: log})
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return e, nil
}

// load loads a cache with room for everything.
func (e *export) load(name string) (*zcache.Cache, error) {
	cache, err := zcache.New(zcache.Config{Limit: 2*int64(e.pages)*pageSize + 64<<20})
	if err != nil {
		return nil, err
	}
	return cache, e.swap.Register(name, cache)
}

func (e *export) page(i int) []byte { return e.content.Page(i % e.content.Pages()) }

// fill writes the pages for which is says so.
func (e *export) fill(is func(page int) bool) error {
	for i := range e.pages {
		if !is(i) {
			continue
		}
		if _, err := e.device.WriteAt(e.page(i), int64(i)*pageSize); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until nothing is compressed any more (R3): no codec's pages get
// more or fewer.
func settle(ctx context.Context, cache *zcache.Cache) error {
	for before := cache.Stats().Codecs; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		now := cache.Stats().Codecs
		if slices.Equal(now, before) {
			return nil
		}
		before = now
	}
}

// check compares the whole device with what was written (R4).
func (e *export) check() error {
	got := make([]byte, 64*pageSize)
	for i := 0; i < e.pages; i += 64 {
		n := min(64, e.pages-i)
		if _, err := e.device.ReadAt(got[:n*pageSize], int64(i)*pageSize); err != nil {
			return err
		}
		for j := range n {
			if !bytes.Equal(got[j*pageSize:][:pageSize], e.page(i+j)) {
				return fmt.Errorf("page %d is not what was written", i+j)
			}
		}
	}
	return nil
}

// drain unloads the backend and says how fast that was, by the clock and by the
// processor time of the process.
func (e *export) drain(name string) (rate, processor float64, err error) {
	start, used := time.Now(), processorTime()
	drained, err := e.swap.Unregister(context.Background(), name)
	if err != nil {
		return 0, 0, err
	}
	return megabytes(drained.Moved, time.Since(start)), megabytes(drained.Moved, processorTime()-used), nil
}

// processorTime is what the process has used so far, in the kernel too.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func megabytes(pages uint64, took time.Duration) float64 {
	return float64(pages) * pageSize / 1e6 / took.Seconds()
}

// measureDrain fills a device in the folder and drains it.
func measureDrain(ctx context.Context, folder string, content *corpus.Corpus, pages int) (r drainResult, err error) {
	e, err := newExport(folder, content, pages)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, e.device.Close()) }()
	cache, err := e.load("zcache")
	if err != nil {
		return r, err
	}
	if err := e.fill(func(int) bool { return true }); err != nil {
		return r, err
	}
	if err := settle(ctx, cache); err != nil {
		return r, err
	}
	runtime.GC()
	writes, written := e.storage.writes.Load(), e.storage.pages.Load()
	if r.rate, r.processor, err = e.drain("zcache"); err != nil {
		return r, err
	}
	r.meanWrite = int((e.storage.pages.Load() - written) * pageSize / max(1, e.storage.writes.Load()-writes))
	return r, e.check()
}

// measureTmpfs measures a drain with one processor, beside plain writes.
func measureTmpfs(ctx context.Context, content *corpus.Corpus, o options) (r drainResult, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if r, err = measureDrain(ctx, o.tmpfs, content, o.pages); err != nil {
		return r, err
	}
	rate, err := plainWrites(o.tmpfs, content, o.pages)
	r.peers = []float64{rate}
	return r, err
}

// plainWrites writes the same bytes to a new file, 1 MiB at a time.
func plainWrites(folder string, content *corpus.Corpus, pages int) (rate float64, err error) {
	f, err := os.CreateTemp(folder, "drainbench-")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return 0, err
	}
	var block []byte
	for i := range 256 {
		block = append(block, content.Page(i)...)
	}
	start := time.Now()
	for i := 0; i < pages; i += 256 {
		if _, err := f.Write(block[:min(256, pages-i)*pageSize]); err != nil {
			return 0, err
		}
	}
	return megabytes(uint64(pages), time.Since(start)), nil
}

// measureDisk measures a drain to a disk, beside fio.
func measureDisk(ctx context.Context, content *corpus.Corpus, o options) (r drainResult, err error) {
	if r, err = measureDrain(ctx, o.disk, content, o.pages); err != nil {
		return r, err
	}
	for _, size := range []int{1 << 20, max(pageSize, r.meanWrite/pageSize*pageSize)} {
		rate, err := fio(ctx, o.disk, size, int64(o.pages)*pageSize)
		if err != nil {
			return r, err
		}
		r.peers = append(r.peers, rate)
	}
	return r, nil
}

// fio writes a file from start to end in blocks of a size, one at a time, past
// the page cache, and without space that was reserved before, as a drain has none.
func fio(ctx context.Context, folder string, block int, size int64) (rate float64, err error) {
	path := filepath.Join(folder, "drainbench-fio.bin")
	defer os.Remove(path)
	text, err := exec.CommandContext(ctx, "fio", "--name=drainbench", "--filename="+path, "--rw=write", "--ioengine=psync", "--direct=1",
		fmt.Sprint("--bs=", block), fmt.Sprint("--size=", size), "--fallocate=none", "--output-format=json").Output()
	if err != nil {
		return 0, fmt.Errorf("fio: %w", err)
	}
	var report struct {
		Jobs []struct {
			Write struct {
				Rate int64 `json:"bw_bytes"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio's report: %d jobs, %w", len(report.Jobs), err)
	}
	return float64(report.Jobs[0].Write.Rate) / 1e6, nil
}
